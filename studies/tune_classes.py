"""Settings of the classification half, chosen on the fifty tuning classes in five tasks: six trials a method, for all.

    python studies/tune_classes.py c-lora stamina coda-p --out results/tuning-classes --workers 2

Four trials over what is the method's own (its rate, and its λ or threshold where it has one), then two at half and at
twice another rate, the rest as in the best of the four. A trial is one `bench tuning` run, resumable; the
highest A_N is chosen. Every trial is stored, not only the best. These classes serve for nothing else.

    python studies/tune_classes.py ub lora c-lora stamina --head-rates --out results/tuning-head-rates

Only the rate of the head, for the grid heads-100: three trials a row, with its other settings, on as many other classes
(`tuning-100`) in as many tasks as it is tested on.
"""

import argparse
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stamina_lite.core.settings import ClassSettings
from stamina_lite.methods.registry import CLASS_DEFAULTS
from stamina_lite.reproduction.grids import load_grid
from stamina_lite.runs.files import read_json, write_json

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
OWN = {  # four combinations each
    **dict.fromkeys(("ub", "ft", "ft++"), {"lr": (3e-5, 1e-4, 3e-4, 1e-3)}),
    "lwf": {"lr": (1e-4, 3e-4), "distill": (1.0, 10.0)},
    "ewc": {"lambda_forget": (1e1, 1e3, 1e5, 1e7)},
    **dict.fromkeys(("l2p++", "deep-l2p++", "dualprompt", "coda-p", "lora", "sd-lora"), {"lr": RATES}),
    # first trials of C-LoRA, λ alone: results/tuning-classes/first
    **dict.fromkeys(("c-lora", "stamina"), {"lr": (3e-4, 1e-3), "lambda_forget": (1e2, 1e4)}),
    "lora-scaled": {"lr": (3e-4, 1e-3), "merge_exponent": (0.25, 1.0)},
    "inflora": {"lr": (3e-4, 1e-3), "threshold": (0.9, 0.98)},
}
HEAD_RATES, HEADS = (0.0025, 0.005, 0.01), Path(__file__).parents[1] / "notebooks" / "params" / "heads-100.yaml"
KEPT = ("a_n", "a_n_running", "f_n", "f_n_chaudhry")


def trial(name: str, options: dict, args) -> dict:
    """Run one trial, or find it done; its row."""
    run = args.runs / "-".join([name, *(f"{k}={v:g}" for k, v in options.items())])
    command = [
        sys.executable,
        "-m",
        "stamina_lite.cli",
        "bench",
        args.set,
        "--tasks",
        str(args.tasks),
        "--method",
        name,
    ]
    command += [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command += ["--seed", str(args.seed), "--epochs", str(args.epochs), "--out", str(run)]
    quiet = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(args.threads)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=quiet)
    results, about = (read_json(run / f"{file}.json") for file in ("results", "run"))
    row = {"options": options, **{key: results[key] for key in KEPT}}
    row["learned"] = sum(task[-1] for task in results["accuracy"]) / len(results["accuracy"])  # when just learned
    row["mask_density"] = results["mask_density"][-1]
    row |= {key: about[key] for key in ("settings", "seed", "base", "set_hash", "versions", "device")}
    measures = "  ".join(f"{key} {row[key]:.1f}" for key in ("a_n", "f_n", "learned") if row[key] is not None)
    print(f"{run.name:40s} {measures}", flush=True)
    return row


def best(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["a_n"])["options"]


def tune_head(name: str, args) -> None:
    settings = load_grid(HEADS)[0].protocol["rows"][name]
    varied = [{"lr_head": rate} for rate in HEAD_RATES]
    rows = [trial(name, settings | options, args) | {"options": options} for options in varied]
    write_json(args.out / f"{name}.json", {"method": name, "chosen": best(rows), "trials": rows})


def tune(name: str, args) -> None:
    grid = [dict(zip(OWN[name], values, strict=True)) for values in itertools.product(*OWN[name].values())]
    rows = [trial(name, options, args) for options in grid]
    rate = "lr_head" if "lr" in OWN[name] else "lr"
    found, start = best(rows), ClassSettings().changed(**CLASS_DEFAULTS[name])
    rows += [trial(name, {**found, rate: round(getattr(start, rate) * scale, 6)}, args) for scale in (0.5, 2.0)]
    write_json(args.out / f"{name}.json", {"method": name, "chosen": best(rows), "trials": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("methods", nargs="+", choices=[*OWN])
    parser.add_argument("--head-rates", action="store_true", help="only the rate of the head, on tuning-100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="methods at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--runs", type=Path, default=Path("runs/tuning-classes"))
    parser.add_argument("--out", type=Path, default=Path("results/tuning-classes"))
    args = parser.parse_args()
    args.set, args.tasks = ("tuning-100", 10) if args.head_rates else ("tuning", 5)
    args.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.workers) as pool:
        for _ in pool.map(lambda name: (tune_head if args.head_rates else tune)(name, args), args.methods):
            pass


if __name__ == "__main__":
    main()
