"""Hyper-parameters are chosen on tune5, whose five identities serve for nothing else: one run a row of a grid.

    python benchmarks/tune.py c-lora forget=0.03,0.3,3,30 lr=0.002,0.005 --out results/tuning

Every combination is a `bench tune5` run, resumable; the table that is written holds all of them, not only the best.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

from stamina_lite.checkpoint import write_json

SETTINGS = ("steps", "lr", "lr_token", "forget", "sparse")  # always told: a default may change
COLUMNS = ("a_mmd", "f_mmd", "concept_accuracy", "concept_accuracy_when_learned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("method")
    parser.add_argument("grid", nargs="*", help="setting=value,value,...")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--runs", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--out", type=Path, default=Path("results/tuning"))
    args = parser.parse_args()
    names = [g.split("=")[0] for g in args.grid]
    rows = []
    for values in itertools.product(*(g.split("=")[1].split(",") for g in args.grid)):
        options = dict(zip(names, values, strict=True))
        for seed in args.seeds:
            run = args.runs / "-".join([args.method, *(f"{k}{v}" for k, v in options.items()), f"seed{seed}"])
            command = [sys.executable, "-m", "stamina_lite.cli", "bench", "tune5", "--method", args.method]
            command += [word for k, v in options.items() for word in (f"--{k.replace('_', '-')}", v)]
            command += ["--seed", str(seed), "--pictures", str(args.pictures), "--out", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            results = json.loads((run / "results.json").read_text())
            about = json.loads((run / "run.json").read_text())
            told = {k: about["settings"][k] for k in SETTINGS} | {k: about[k] for k in ("guidance", "pictures")}
            told |= {k: v for k, v in options.items() if k not in told}
            rows.append({**told, "seed": seed, **{c: round(results[c], 4) for c in COLUMNS}})
            density = results["mask_density"][-1]
            if density is not None:
                rows[-1]["mask_density"] = round(density, 4)
            print("  ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.method}.json"
    kept = json.loads(file.read_text()) if file.exists() else []
    write_json(file, kept + [row for row in rows if row not in kept])


if __name__ == "__main__":
    main()
