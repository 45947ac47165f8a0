"""The hundred classes of `renditions` with most to learn: joint training, cross-validated over the training images.

    python studies/hundred_classes.py --out results/hundred_classes.json

Of the 200 classes joint training recognises about 35 % of the test images, and frozen features 30 %: little room for
any method. So a set with more room is chosen, by a rule that looks at no method of the comparison and at no test
image. The artists of a class's training images are dealt into two folds. All classes are learned jointly (`ub`) from
one fold and asked for with the other, and the other way round; the hundred classes with the highest mean accuracy are
kept, in the order of the set. They are written to stamina_lite/assets/renditions/hundred.txt.
"""

import argparse
from pathlib import Path

import torch

from stamina_lite.classification.backbones import load_backbone
from stamina_lite.classification.datasets import RENDITIONS, ClassDataset, metadata, renditions
from stamina_lite.classification.learner import ContinualClassifier
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

RATES = {"lr": 0.0001, "lr_head": 0.0025}  # of joint training, as in params/heads.yaml


def folds(data: ClassDataset) -> torch.Tensor:
    """0 or 1 for every training image: a class's artists take turns, in alphabetical order."""
    about, fold = metadata(), []
    for name in data.classes:
        rows = [
            row
            for kind in ("pictures", "share-alike")
            for row in about["classes"][name].get(kind, {"rows": []})["rows"]
        ]
        artists = [about["icon_sets"][icon_set]["group"] for icon_set, _, split in rows if split == "train"]
        turn = {artist: k % 2 for k, artist in enumerate(sorted(set(artists)))}
        fold += [turn[artist] for artist in artists]
    return torch.tensor(fold)


def accuracy(data: ClassDataset, held: int, epochs: int) -> list[float]:
    """Percent of each class's images of fold `held`, after joint training on the other fold."""
    fold = folds(data)
    train, test = (data.train.of((fold == k).nonzero()[:, 0]) for k in (1 - held, held))
    halves = ClassDataset(data.name, data.classes, train, test)
    learner = ContinualClassifier(load_backbone("mini", "cpu"), halves, "ub", 1, epochs=epochs, **RATES)
    results = learner.learn_all()
    return [100 * right / asked for right, asked in zip(results["right"][-1], results["asked"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/hundred_classes.json"))
    args = parser.parse_args()
    data = renditions()
    each = [accuracy(data, held, args.epochs) for held in (0, 1)]
    mean = {name: round(sum(both) / 2, 2) for name, *both in zip(data.classes, *each, strict=True)}
    kept = set(sorted(mean, key=lambda name: -mean[name])[:100])
    chosen = [name for name in data.classes if name in kept]
    (RENDITIONS / "hundred.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    write_json(args.out, {"accuracy": mean, "epochs": args.epochs, **RATES, **versions(torch.device("cpu"))})
    print(f"kept: {sum(mean[n] for n in chosen) / 100:.1f} %, all: {sum(mean.values()) / len(mean):.1f} %")


if __name__ == "__main__":
    main()
