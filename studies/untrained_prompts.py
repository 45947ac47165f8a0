"""How far prompts of their papers' lengths disturb this short ViT before any training, told by its nearest class mean.

    python studies/untrained_prompts.py --out results/untrained_prompts.json

On the tuning classes, prompts as a method draws them for its first task, five draws each; without prompts the frozen
nearest mean of the same features.
"""

import argparse
from pathlib import Path

import torch
from class_heads import class_means, described

from stamina_lite.classification.backbones import load_backbone
from stamina_lite.classification.datasets import renditions
from stamina_lite.classification.learner import fingerprint
from stamina_lite.classification.model import Classifier
from stamina_lite.methods.registry import make_class_method
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

ROWS = ("ncm", "l2p++", "deep-l2p++", "dualprompt", "coda-p")
DRAWS = 5


def accuracy(row: str, seed: int) -> float:
    """Percent of the test pictures whose nearest class mean is their own."""
    data = renditions("tuning")
    model = Classifier(load_backbone("mini", "cpu"), len(data.classes), make_class_method(row), tasks=5, seed=seed)
    if model.pool is not None:
        model.pool.begin(1)
    test = described(model, data.test, torch.arange(len(data.test.labels)))
    means = class_means(model, data, range(len(data.classes)))
    return 100 * (torch.cdist(test, means).argmin(1) == data.test.labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = {}
    for row in ROWS:
        rows[row] = [accuracy(row, seed) for seed in range(1 if row == "ncm" else DRAWS)]
        print(f"{row:12s}", " ".join(f"{value:.1f}" for value in rows[row]), "%", flush=True)
    if args.out:
        base = fingerprint(load_backbone("mini", "cpu"))
        write_json(args.out, {"accuracy": rows, "base": base, **versions(torch.device("cpu"))})


if __name__ == "__main__":
    main()
