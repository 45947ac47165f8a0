"""Choose hyper-parameters on the tuning sets, whose concepts are used for nothing else: six trials for every method.

    python studies/tune.py c-lora stamina --out results/tuning
    python studies/tune.py c-lora stamina --rates --steps 60 --out results/tuning-rates

Four trials over what is the method's own (its λ, its density, or its rates where it has nothing else), then two at half
and at twice a rate, the rest as in the best of the four. With --rates there are four trials: that rate, half, twice and
four times of it, at one strength; for grids that vary the strength. A trial is one `bench tune20` run, resumable; the
lowest A_mmd is chosen. Every trial is stored, not only the best.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

from stamina_lite.core.settings import renamed
from stamina_lite.reproduction.tables import table
from stamina_lite.runs.files import write_json

OWN = {  # four combinations each
    "lora": {"lr": (5e-3, 1e-2), "lr_token": (2e-2, 4e-2)},  # so that one of the last two is among these
    "c-lora": {"lambda_forget": (0.03, 0.3, 3.0, 30.0)},
    "stamina": {"lambda_forget": (3.0, 30.0), "lambda_sparse": (0.0, 0.1)},
    "stamina-cool": {"noise_anneal": (0.5,), "lambda_forget": (0.3, 3.0), "lambda_sparse": (0.0, 0.1)},
    "ti": {"lr_token": (1e-2, 2e-2, 4e-2, 8e-2)},
    "ti++": {"lr_token": (1e-2, 2e-2, 4e-2, 8e-2)},
    "dreambooth": {"lr": (3e-5, 1e-4, 3e-4, 1e-3)},
    "replay": {"lr": (3e-4, 1e-3, 3e-3, 1e-2)},
    "custom-diffusion": {"lr": (3e-4, 1e-3, 3e-3, 1e-2)},
    "custom-diffusion-merge": {"lr": (3e-4, 1e-3, 3e-3, 1e-2)},
    "custom-diffusion-ewc": {"lambda_forget": (1e2, 1e4, 1e6, 1e8)},
    "lora-ewc": {"lambda_forget": (1e2, 1e4, 1e6, 1e8)},
    "offline": {"lr": (3e-4, 1e-3, 3e-3, 1e-2)},
    "lora-scaled": {"merge_exponent": (0.25, 0.5, 1.0, 2.0)},
    "lora-orthogonal": {"lr": (5e-3, 1e-2), "lr_token": (2e-2, 4e-2)},
    "lora-pruned": {"density": (0.03, 0.1, 0.3, 0.6)},
}
RATE = {  # which rate is then halved and doubled; "lr" where nothing else stands here
    **dict.fromkeys(("replay", "custom-diffusion", "custom-diffusion-merge", "offline", "dreambooth"), "lr_token"),
    **dict.fromkeys(("ti", "ti++"), "lr_token"),
}
SCALE = {"ti": 2**0.5, "ti++": 2**0.5}  # by how much: between the values where that rate was searched already, else 2
WHOLE = "custom-diffusion", "custom-diffusion-merge", "custom-diffusion-ewc", "replay", "offline"
START = {**dict.fromkeys(WHOLE, 1e-3), "dreambooth": 1e-4}  # lr of a trial that does not vary it; elsewhere 5e-3
AT = {  # strengths of the trials of a rate
    "c-lora": {"lambda_forget": 10.0},
    "stamina": {"lambda_forget": 10.0, "lambda_sparse": 0.001},
}
METHOD = {"stamina-cool": "stamina"}  # where the trials' name is not the method's
MEASURES = ("a_mmd", "f_mmd", "concept_accuracy", "concept_accuracy_when_learned")


def trial(name: str, options: dict, args) -> dict:
    """Run one trial, or find it done; its row."""
    run = args.runs / "-".join([name, *(f"{k}={v:g}" for k, v in options.items())])
    command = [sys.executable, "-m", "stamina_lite.cli", "bench", args.set, "--method", METHOD.get(name, name)]
    settings = {"steps": args.steps, **start(name), **options}
    command += [word for k, v in settings.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    command += ["--seed", str(args.seed), "--pictures", str(args.pictures), "--out", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    results, about = (json.loads((run / name).read_text(encoding="utf-8")) for name in ("results.json", "run.json"))
    row = {"options": options, **{m: round(results[m], 4) for m in MEASURES if results[m] is not None}}
    row["last step / first"] = round(results["step_change"][-1] / (results["step_change"][0] or 1), 3)
    row["mask_density"] = results["mask_density"][-1]
    row |= {key: about[key] for key in ("settings", "pictures", "seed", "base", "versions", "device")}
    print(f"{run.name:50s} " + "  ".join(f"{m} {row[m]}" for m in MEASURES if m in row), flush=True)
    return row


def start(name: str) -> dict:
    """Rates of a trial that does not vary them."""
    return {"lr": START.get(name, 5e-3), "lr_token": 2e-2}


def best(rows: list[dict]) -> dict:
    return min(rows, key=lambda row: row["a_mmd"])["options"]


def tuning_table(trials: dict[str, dict], measure: str = "a_mmd", digits: int = 2) -> str:
    """Every trial of a method's settings, what differed and its measure, and which were chosen."""

    def described(options: dict) -> str:
        return ", ".join(f"{key} {value:g}" for key, value in renamed(options).items())

    lines = []
    for name, found in trials.items():
        seen = {described(trial["options"]): f"{trial[measure]:.{digits}f}" for trial in found["trials"]}
        lines.append([name, "; ".join(f"{o} → {a}" for o, a in seen.items()), described(found["chosen"])])
    name = {"a_mmd": "A_mmd", "a_n": "A_N"}[measure]
    return table(["method", f"trials: what differed → {name}", "chosen"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("methods", nargs="+", choices=[*OWN])
    parser.add_argument("--rates", action="store_true", help="four trials, of a rate alone")
    parser.add_argument("--set", default="tune20", choices=("tune5", "tune20"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--runs", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--out", type=Path, default=Path("results/tuning"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.methods:
        rate, scale, method = RATE.get(name, "lr"), SCALE.get(name, 2.0), METHOD.get(name, name)
        if args.rates:
            rates = [round(start(name)[rate] * s, 6) for s in (1, 2, 0.5, 4)]
            rows = [trial(name, {**AT.get(name, {}), rate: value}, args) for value in rates]
            write_json(args.out / f"{name}.json", {"method": method, "chosen": best(rows), "trials": rows})
            continue
        grid = [dict(zip(OWN[name], values, strict=True)) for values in itertools.product(*OWN[name].values())]
        rows = [trial(name, options, args) for options in grid]
        found = best(rows)
        middle = found.get(rate, start(name)[rate])
        rows += [trial(name, {**found, rate: round(middle * s, 6)}, args) for s in (1 / scale, scale)]
        write_json(args.out / f"{name}.json", {"method": method, "chosen": best(rows), "trials": rows})


if __name__ == "__main__":
    main()
