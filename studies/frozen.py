"""How hard are renditions? What frozen features know of them, before anything is learned continually.

    python studies/frozen.py --out results/frozen.json

Nearest class mean, nearest neighbour (both by cosine) and a linear probe trained on all classes at once, on features of
the shipped ViT and of lite0, an ImageNet network; all trained on pictures as they are and tested on other artists'.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stamina_lite import measures
from stamina_lite.classification.backbones import load_backbone
from stamina_lite.classification.datasets import TensorImages, renditions
from stamina_lite.classification.learner import fingerprint
from stamina_lite.measures.features import features
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions


def of_vit(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(VIT.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return VIT((x - mean) / std)


def of_lite0(x: Tensor) -> Tensor:
    return features("lite0")(2 * x - 1)


BACKBONES = {"vit": of_vit, "lite0": of_lite0}


@torch.no_grad()
def described(half: TensorImages, extract) -> Tensor:
    """(n, d), unit vectors."""
    parts = [extract(half.load(places)) for places in torch.arange(len(half.labels)).split(128)]
    return F.normalize(torch.cat(parts).float())


def probe(x: Tensor, labels: Tensor, weight_decay: float = 1e-4) -> torch.nn.Linear:
    """Multinomial logistic regression on standardised features, to its optimum (L-BFGS)."""
    head = torch.nn.Linear(x.shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(head(x), labels) + weight_decay * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


def known(right: Tensor) -> dict:
    """Share of test pictures in percent, with an interval over them."""
    each = (100 * right.double()).tolist()
    return {"mean": sum(each) / len(each), "interval": measures.mean_interval(each)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=[*BACKBONES], default=[*BACKBONES])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = {}
    for name in ("classes", "tuning"):
        data = renditions(name)
        for backbone in args.backbones:
            extract = BACKBONES[backbone]
            train, test = described(data.train, extract), described(data.test, extract)
            labels = data.train.labels
            means = F.normalize(torch.stack([train[labels == k].mean(0) for k in range(len(data.classes))]))
            centre, scale = train.mean(0), train.std(0) + 1e-6
            head = probe((train - centre) / scale, labels)
            answers = {
                "nearest class mean": (test @ means.T).argmax(1),
                "nearest neighbour": labels[(test @ train.T).argmax(1)],
                "linear probe, all classes at once": head((test - centre) / scale).argmax(1),
            }
            for how, answer in answers.items():
                rows[f"{data.name}, {backbone}, {how}"] = row = known(answer == data.test.labels)
                low, high = row["interval"]
                print(
                    f"{data.name:10s} {backbone:6s} {how:34s} {row['mean']:.1f} % [{low:.1f}, {high:.1f}]", flush=True
                )
    if args.out:
        write_json(args.out, {"rows": rows, "base": fingerprint(VIT), **versions(torch.device("cpu"))})


if __name__ == "__main__":
    VIT = load_backbone("mini", "cpu").eval()
    main()
