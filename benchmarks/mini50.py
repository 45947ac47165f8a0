"""The long sequence, method by method, and what is kept of it in results/.

    python benchmarks/mini50.py --methods lora c-lora stamina ti++ --seeds 0

Each run is `stamina-lite bench mini50 --method M --seed S --out RUNS/M-S`: resumable, so this command is too. Of every
finished run, results.json, run.json and the first pictures of each concept are stored under results/mini50/.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

KEPT = 4  # pictures of a concept and stage that are stored: enough for sheets


def store(run: Path, to: Path) -> None:
    """Copy what figures and tables are redrawn from: numbers whole, pictures a few and packed."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in ("run.json", "results.json"):
        shutil.copy(run / name, to / name)
    for concept in sorted(run.glob("images/after-*/*")):
        folder = to / concept.relative_to(run)
        folder.mkdir(parents=True)
        for k in range(KEPT):
            Image.open(concept / f"{k:02d}.png").quantize(128).save(folder / f"{k:02d}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", default="mini50")
    parser.add_argument("--methods", nargs="+", default=["lora", "c-lora", "stamina", "ti++"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/mini50"))
    parser.add_argument("--out", type=Path, default=Path("results/mini50"))
    parser.add_argument("rest", nargs="*", help="further options of bench, after --")
    args = parser.parse_args()
    for seed in args.seeds:
        for method in args.methods:
            run = args.runs / f"{method}-{seed}"
            command = [sys.executable, "-m", "stamina_lite.cli", "bench", args.set, "--method", method]
            subprocess.run([*command, "--seed", str(seed), "--out", str(run), *args.rest], check=True)
            store(run, args.out / (method if seed == args.seeds[0] else f"{method}-seed{seed}"))


if __name__ == "__main__":
    main()
