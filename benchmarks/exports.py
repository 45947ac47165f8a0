"""Every export at the size of Stable Diffusion 1.5, read back by stock code: how far it is from what was learned.

    python benchmarks/exports.py --out results/exports.json          exact shape, random weights; 14 GiB
    python benchmarks/exports.py --shape tiny

Two concepts are learned first, a few steps each, so that there is a masked update to export.
"""

import argparse
import tempfile
import time
from pathlib import Path

import stable_diffusion
import torch

from stamina_lite import ContinualLearner, concepts, load_base
from stamina_lite.cli import quiet
from stamina_lite.diffusion.export import export
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

KINDS = (
    ("diffusers", "diffusers", None),
    ("lora", "lora", None),
    ("lora, rank 32", "lora", 32),
    ("tokens", "tokens", None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=[*stable_diffusion.SHAPES], default="sd15")
    parser.add_argument("--method", default="stamina")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    quiet()
    rows = {}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "base"
        stable_diffusion.build(args.shape, torch.device("cpu"), torch.float32, latent=16).save_pretrained(folder)
        learner = ContinualLearner(
            load_base(folder, args.device, torch.float32), args.method, steps=args.steps, batch=1, lr=0.01
        )
        for concept in concepts("tune5")[:2]:
            learner.learn(concept)
        for name, kind, rank in KINDS:
            started = time.perf_counter()
            out = Path(home) / name
            verified = export(learner, kind, out, lambda: load_base(folder, args.device, torch.float32), rank)
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            rows[name] = {**vars(verified), "bytes": size, "seconds": time.perf_counter() - started}
            print(f"{name:14s} {size / 2**20:8.1f} MiB  {verified}", flush=True)
    if args.out:
        about = {"shape": args.shape, "method": args.method, "steps": args.steps, "rows": rows}
        write_json(args.out, about | versions(torch.device(args.device)))


if __name__ == "__main__":
    main()
