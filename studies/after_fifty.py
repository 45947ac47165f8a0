"""Can a model still learn? The five concepts of tune5, by a fresh model and by one that has learned fifty others.

    python studies/after_fifty.py runs/claim50 --out results/after_fifty.json
    python studies/after_fifty.py runs/claim50 --change lambda_forget=0.0 --out THE_SAME
    python studies/after_fifty.py runs/claim50 --change steps=240 lr=0.002 lr_token=0.01 --out THE_SAME

Early and late concepts of a run are different concepts; here they are the same, so that what a long past costs is seen
apart from what is hard to draw. tune5 serves for choosing settings, and --change tries others, late as early. Every
picture comes from the same noise in all rows. Resumable: what is in --out is kept.
"""

import argparse
from pathlib import Path

import torch
import yaml

from stamina_lite import ContinualLearner, concepts, make_method, measures
from stamina_lite.diffusion.bases import load_recorded
from stamina_lite.diffusion.captions import PROMPT
from stamina_lite.diffusion.evaluation import evaluation_seed, reference_features
from stamina_lite.diffusion.learner import open_run
from stamina_lite.measures.features import features
from stamina_lite.measures.intervals import number
from stamina_lite.reproduction.grids import verify_checksum
from stamina_lite.reproduction.tables import shown, table
from stamina_lite.runs.files import read_json, write_json
from stamina_lite.runs.versions import versions


def learn_five(learner: ContinualLearner, n: int, extractor) -> dict:
    """Learn tune5 in turn; MMD² of every concept just learned and after all five, how often it is recognised among
    them and the fifty when just learned, and how far the weights went.
    """
    found = concepts("tune5")
    real = [reference_features(c, extractor, learner.model.size) for c in [*found, *concepts("mini50")]]

    def known(k: int) -> tuple[float, float]:
        seeds = [evaluation_seed(learner.seed, found[k].name, i) for i in range(n)]
        drawn = extractor(learner.model.generate([PROMPT.format(found[k].token)] * n, seeds))
        return measures.mmd2(real[k], drawn), measures.nearest_concepts([drawn], real)[0].count(k) / n

    learned, records = [], []
    for k, concept in enumerate(found):
        records.append(learner.learn(concept, progress=False))
        learned.append(known(k))
    moved = {key: [r[key] for r in records] for key in ("step_change", "mask_density", "touched", "mask_overlap")}
    likeness, recognised = zip(*learned, strict=True)
    return {"learned": likeness, "recognised": recognised, "end": [known(k)[0] for k in range(len(found))], **moved}


def value(text: str):
    """NAME=VALUE as a setting."""
    name, _, given = text.partition("=")
    return name, yaml.safe_load(given)


def long_past_table(report: dict) -> str:
    """tune5's concepts, each just learned: by a fresh model, and by one that has learned fifty others.

    MMD² (lower is better), how often they are recognised among fifty-five where that was measured, and the mean ‖ΔW_t‖.
    """
    head = ["row, and what was changed", "MMD², fresh", "after fifty", "worse by"]
    head += ["recognised %, fresh", "after fifty", "less by, points", "step, fresh", "after fifty"]
    done = {name: runs for name, runs in report["rows"].items() if {*runs} == {"early", "late"}}
    lines = []
    for name, runs in (done | of_several_seeds(done)).items():
        numbers = []
        for key, sign, form in (("learned", 1, (2, 1)), ("recognised", -1, (0, 100))):
            early, late = (runs[when].get(key, []) for when in ("early", "late"))
            gap = [sign * (b - a) for a, b in zip(early, late, strict=True)]
            numbers += [shown(number(dict(enumerate(values))), *form) for values in (early, late, gap)]
        steps = [sum(runs[when]["step_change"]) / len(runs[when]["step_change"]) for when in ("early", "late")]
        lines.append([name, *numbers, *(f"{s:.2f}" for s in steps)])
    return table(head, lines)


def of_several_seeds(rows: dict) -> dict:
    """Rows ROW.SEED and what was changed, of which there are several seeds: the mean of each concept over them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in rows:
        row, _, change = name.partition(" ")
        groups.setdefault((row.rpartition(".")[0], change), []).append(name)
    means = {}
    for (row, change), names in groups.items():
        if len(names) < 2:
            continue
        seeds = "+".join(name.partition(" ")[0].rpartition(".")[2] for name in names)
        merged: dict[str, dict] = {"early": {}, "late": {}}
        for when, values in merged.items():
            for key in ("learned", "recognised", "step_change"):
                if all(key in rows[name][when] for name in names):
                    by_concept = zip(*(rows[name][when][key] for name in names), strict=True)
                    values[key] = [sum(each) / len(each) for each in by_concept]
        means[f"{row}.{seeds} {change}".strip()] = merged
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="+", default=["c-lora", "stamina"])
    parser.add_argument("--seed", type=int, default=0, help="of the run, and of what is learned after it")
    parser.add_argument("--change", nargs="*", type=value, default=[], metavar="NAME=VALUE")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    extractor = features("lite0")
    report = read_json(args.out) if args.out.exists() else {"pictures": args.pictures, "rows": {}}
    if report["pictures"] != args.pictures:
        parser.error(f"{args.out} is of {report['pictures']} pictures: give --pictures so, or another --out")
    report |= versions(torch.device("cpu"))
    for row in args.rows:
        run = args.runs / f"{row}.alternate.{args.seed}"
        verify_checksum(run)
        about = read_json(run / "run.json")
        settings = {**about["settings"], **dict(args.change)}
        name = " ".join([f"{row}.{args.seed}", *(f"{key}={v}" for key, v in args.change)])
        there = report["rows"].setdefault(name, {})
        for when in ("early", "late"):
            if when not in there:
                learner = open_run(run, load_recorded, tasks=0 if when == "early" else None)
                learner.method = make_method(about["method"], **settings)
                there[when] = learn_five(learner, args.pictures, extractor)
                write_json(args.out, report)
        for when, found in there.items():
            learned, right, end = (sum(found[key]) / len(found[key]) for key in ("learned", "recognised", "end"))
            print(f"{name:48s} {when:5s} MMD² {learned:.2f}, recognised {right:.0%}, end {end:.2f}", flush=True)


if __name__ == "__main__":
    main()
