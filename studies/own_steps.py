"""Does a method want fewer steps, or more? Rows of the claim on tune5, with their settings and other numbers of steps.

    python studies/own_steps.py ti++ lora c-lora stamina lora-alone --out results/own_steps.json

Each is one `bench tune5` run, resumable, seed by seed; concepts are compared with the same concept and seed at the
protocol's steps. Rows and their settings are those of notebooks/params/claim50.yaml.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from stamina_lite.measures.intervals import mean_of_pairs, number
from stamina_lite.reproduction.grids import load_grid, option
from stamina_lite.reproduction.tables import shown, table
from stamina_lite.runs.files import read_json, write_json
from stamina_lite.runs.versions import versions

GRID = Path(__file__).parents[1] / "notebooks" / "params" / "claim50.yaml"
KEPT = ("tasks", "plasticity", "a_mmd_each", "f_mmd_each", "concept_accuracy_each", "concept_accuracy_when_learned")


def bench(row: str, steps: int, seed: int, args) -> dict:
    """Measures of a row's method on tune5 with so many steps a concept."""
    run_of_grid = next(run for run in load_grid(GRID) if run.row == row)
    method, settings = run_of_grid.method()
    run = args.runs / f"{row}.{steps}.{seed}"
    command = [sys.executable, "-m", "stamina_lite.cli", "bench", "tune5", "--method", method, "--seed", str(seed)]
    command += [word for key, value in {**settings, "steps": steps}.items() for word in option(key, value)]
    command += [
        "--guidance",
        str(run_of_grid.protocol["guidance"]),
        "--pictures",
        str(args.pictures),
        "--out",
        str(run),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results = read_json(run / "results.json")
    return {key: results[key] for key in KEPT}


def own_steps_table(report: dict, protocol: str = "60") -> str:
    """Rows of the claim on tune5 with other numbers of steps, concept by concept against the protocol's steps."""
    head = ["row", "steps", "MMD² just learned", "A_mmd", f"A_mmd minus that of {protocol} steps"]
    lines = []
    for row, runs in report["rows"].items():
        known = {steps: by_seed_and_concept(seeds, "a_mmd_each") for steps, seeds in runs.items()}
        for steps, final in known.items():
            shared = [key for key in final if key in known.get(protocol, {})]
            less = mean_of_pairs((name, final[seed, name] - known[protocol][seed, name]) for seed, name in shared)
            new = mean_of_pairs((n, v) for (_, n), v in by_seed_and_concept(runs[steps], "plasticity").items())
            end = mean_of_pairs((n, v) for (_, n), v in final.items())
            lines.append([row, steps, *(shown(number(v)) for v in (new, end, less if steps != protocol else {}))])
    return table(head, lines)


def by_seed_and_concept(seeds: dict, key: str) -> dict[tuple[str, str], float]:
    """(seed, concept) -> value, of runs stored seed by seed."""
    return {
        (seed, name): value
        for seed, run in seeds.items()
        for name, value in zip(run["tasks"], run[key], strict=True)
        if value is not None
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--steps", nargs="+", type=int, default=[15, 30, 60, 120])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--runs", type=Path, default=Path("runs/own-steps"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    report = read_json(args.out) if args.out.exists() else {"pictures": args.pictures, "rows": {}}
    if report["pictures"] != args.pictures:
        parser.error(f"{args.out} is of {report['pictures']} pictures: give --pictures so, or another --out")
    for row in args.rows:
        for steps in args.steps:
            for seed in args.seeds:
                there = report["rows"].setdefault(row, {}).setdefault(str(steps), {})
                if str(seed) not in there:
                    there[str(seed)] = bench(row, steps, seed, args)
                    write_json(args.out, report | versions(torch.device("cpu")))
    print(own_steps_table(report))


if __name__ == "__main__":
    main()
