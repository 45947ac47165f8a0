"""Is it the weights or the head? Finished runs, evaluated by nearest class means of their features.

    python studies/class_heads.py runs/classes --out results/class_heads.json

Of every run in ten tasks of the folder, but those of seed 0, three accuracies among all classes at the end. "own head":
as it was trained. "means kept": a class's mean is taken right after its task and kept, which is a method, as it needs
no old pictures. "means anew": all means are taken at the end, of all training pictures, which no method may; it tells
what the features are worth, where the means kept may have gone stale.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stamina_lite.classification.backbones import load_backbone
from stamina_lite.classification.datasets import ClassDataset, of_classes, renditions
from stamina_lite.classification.learner import ContinualClassifier
from stamina_lite.classification.model import Classifier
from stamina_lite.methods.registry import WITH_HEAD
from stamina_lite.reproduction import class_claims
from stamina_lite.reproduction.tables import table
from stamina_lite.runs.files import read_json, read_record, write_json
from stamina_lite.runs.folder import tasks_of

ROWS = ("ub", "ft", "coda-p", "lora", "c-lora", "stamina", "stamina-no-mask")
KINDS = ("own head", "means kept", "means anew")
FROZEN = "ncm"
PAIRS = [
    ("c-lora", "coda-p"),
    ("stamina", "c-lora"),
    ("stamina", "stamina-no-mask"),
    ("c-lora", "lora"),
    ("ub", "stamina"),
]


@torch.no_grad()
def described(model: Classifier, half, places: Tensor) -> Tensor:
    """(m, width)."""
    return torch.cat([model.features(x) for x in half.stream(places.split(128))])


def class_means(model: Classifier, data: ClassDataset, classes: Sequence[int]) -> Tensor:
    """(classes, width)."""
    places = of_classes(data.train, classes)
    features, labels = described(model, data.train, places), data.train.labels[places]
    return torch.stack([features[labels == label].mean(0) for label in classes])


def measure(run: Path, data: ClassDataset) -> dict:
    """Correctly classified test pictures of every class, in the order of learning, for each kind of head."""
    about, results = read_record(run / "run.json"), read_json(run / "results.json")
    vit, (method, *_) = load_backbone("mini", "cpu"), WITH_HEAD.get(about["method"], (about["method"],))
    learner = ContinualClassifier(vit, data, method, about["tasks"], about["seed"], **about["settings"])
    folders, model, parts = tasks_of(run), learner.model, []
    for t in range(1, len(folders) + 1):
        learner.resume(run, folders[:t])
        parts.append(class_means(model, data, learner.rounds[t - 1]))
    order = torch.tensor(model.seen)
    features = described(model, data.test, torch.arange(len(data.test.labels)))
    right = {KINDS[0]: results["right"][-1]}
    for kind, means in zip(KINDS[1:], (torch.cat(parts), class_means(model, data, model.seen)), strict=True):
        predicted = order[torch.cdist(features, means).argmin(1)]
        right[kind] = torch.bincount(predicted[predicted == data.test.labels], minlength=len(order))[order].tolist()
    return {"tasks": results["tasks"], "asked": results["asked"], "right": right}


def resampled_a_n(run: dict, kind: str) -> Tensor:
    """A_N in every resample of the classes, as in class_claims."""
    results = {"method": kind, "tasks": run["tasks"], "asked": run["asked"], "right": [run["right"][kind]]}
    return class_claims.a_n(class_claims.accuracies(results))


def heads_table(report: dict) -> str:
    """A_N by row and kind of head, and how far the last two are from the frozen mean, run by run."""
    frozen = {seed: resampled_a_n(run, KINDS[0]) for seed, run in report["rows"][FROZEN].items()}
    lines = []
    for row, runs in report["rows"].items():
        if row == FROZEN:
            continue
        values = {kind: {seed: resampled_a_n(run, kind) for seed, run in runs.items()} for kind in KINDS}
        apart = [{seed: values[kind][seed] - frozen[seed] for seed in runs} for kind in KINDS[1:]]
        lines.append([row, *(text(numbers) for numbers in (*values.values(), *apart))])
    head = ["method", *(f"A_N, {kind}" for kind in KINDS), *(f"{kind} minus frozen" for kind in KINDS[1:])]
    return table(head, lines)


def pairs_table(report: dict) -> str:
    """One row less another in A_N, read by the same kind of head."""
    lines = []
    for row, other in PAIRS:
        a, b = (report["rows"].get(name, {}) for name in (row, other))
        gaps = [{s: resampled_a_n(a[s], kind) - resampled_a_n(b[s], kind) for s in a if s in b} for kind in KINDS]
        lines.append([f"{row} minus {other}", *map(text, gaps)])
    return table(["", *(f"A_N, {kind}" for kind in KINDS)], lines)


def text(runs: dict) -> str:
    number = class_claims.number(runs)
    return number.text(1) if number else "–"


def blocks(results: Path) -> dict[str, str]:
    """The tables that documents show, where they were measured."""
    file = results / "class_heads.json"
    if not file.exists():
        return {}
    report = read_json(file)
    return {"classes_heads": heads_table(report), "classes_heads_pairs": pairs_table(report)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    data, report = renditions(), {"rows": {}}
    for row in (FROZEN, *args.rows):
        for seed in args.seeds:
            run = measure(args.runs / f"{row}.10.{seed}", data)
            report["rows"].setdefault(row, {})[str(seed)] = run
            counts = {kind: 100 * sum(right) / sum(run["asked"]) for kind, right in run["right"].items()}
            print(f"{row}.10.{seed}", *(f"{kind} {share:.1f} %" for kind, share in counts.items()), flush=True)
            if args.out:
                write_json(args.out, report)
    print(heads_table(report), pairs_table(report), sep="\n\n")


if __name__ == "__main__":
    main()
