"""How many steps a concept needs: likeness and accuracy against steps, each concept alone on the base.

    python studies/steps.py --out results/steps.json

Every concept of tune5 is learned for the largest number of steps, at two rates; pictures are drawn on the way, from
one noise, with the adapters as they would be folded then. Accuracy: share of pictures whose features lie nearest to the
mean of that concept's references among all of tune5 and tune20. Resumable: what is in --out is kept. The figure is
saved under the same name.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from stamina_lite import concepts, load_base, make_method, measures
from stamina_lite.diffusion.captions import PROMPT
from stamina_lite.diffusion.concepts import Concept
from stamina_lite.diffusion.evaluation import evaluation_seed, reference_features
from stamina_lite.diffusion.learner import fingerprint
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.measures.features import features
from stamina_lite.runs.files import read_json, write_json
from stamina_lite.runs.versions import versions

STEPS = (30, 60, 120, 240, 480)
METHODS = ("ti", "lora", "stamina")
RATES = (1.0, 0.5)  # in parts of the method's own


def learn_and_look(
    model: TextToImage, concept: Concept, method, seed: int, task: int, when: Sequence[int], look: Callable[[], None]
) -> None:
    """Learn a concept; after each number of steps in `when` look() sees the model as it would be folded then."""

    def on_step(step: int, numbers: dict) -> None:
        if step + 1 not in when:
            return
        with model.as_folded():
            look()

    model.learn(concept, method, seed, task, on_step)


def curve(concept: Concept, name: str, rate: float, args, means: torch.Tensor, j: int, extractor) -> dict:
    """What is seen at every look: {"mmd": [...], "accuracy": [...], "seconds": of the whole}."""
    model, method = TextToImage(load_base(args.base)), make_method(name, steps=max(STEPS))
    rates = {key: rate * getattr(method.settings, key) for key in ("lr", "lr_token")}
    method = make_method(name, steps=max(STEPS), **rates)
    real = reference_features(concept, extractor, model.size)
    seeds = [evaluation_seed(args.seed, concept.name, k) for k in range(args.pictures)]
    found: dict = {"mmd": [], "accuracy": [], **rates}

    def look() -> None:
        x = extractor(model.generate([PROMPT.format(concept.token)] * args.pictures, seeds))
        found["mmd"].append(round(measures.mmd2(real, x), 4))
        found["accuracy"].append(round(((x @ means.T).argmax(1) == j).float().mean().item(), 4))

    learn_and_look(model, concept, method, args.seed, 1, STEPS, look)
    return found


def figure(report: dict, file: Path) -> None:
    """Two panels: MMD² to the real pictures, and accuracy, against steps; a line a method and rate."""
    drawn, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    colours = dict(zip(METHODS, ("#0072B2", "#E69F00", "#009E73"), strict=True))
    for key, each in report["curves"].items():
        name, rate = key.split(" at ")
        for axis, measure, scale in zip(axes, ("mmd", "accuracy"), (1, 100), strict=True):
            mean = scale * torch.tensor([row[measure] for row in each.values()]).mean(0)
            style = "-" if float(rate) == RATES[0] else "--"
            axis.plot(STEPS, mean, style, color=colours[name], marker="o", markersize=3, label=key)
    for axis, title in zip(axes, ("MMD² to the real pictures", "Recognised among 25, %"), strict=True):
        axis.set(xscale="log", xlabel="Training steps", ylabel=title)
        axis.set_xticks(STEPS, [str(s) for s in STEPS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(title="Method at times its rates", fontsize=8)
    drawn.savefig(file, dpi=150)
    plt.close(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="mini")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/steps.json"))
    args = parser.parse_args()
    every, extractor = concepts("tune5") + concepts("tune20"), features("lite0")
    base = TextToImage(load_base(args.base))
    real = [reference_features(c, extractor, base.size) for c in every]
    means = torch.nn.functional.normalize(torch.stack([r.mean(0) for r in real]), dim=1)
    about = {"base": fingerprint(base.pipe), "pictures": args.pictures, "seed": args.seed, "steps": list(STEPS)}
    report = read_json(args.out) if args.out.exists() else {**about, "curves": {}}
    if any(report[key] != value for key, value in about.items()):
        parser.error(f"{args.out} is of another base, seed or number of pictures: choose another --out")
    report |= versions(torch.device("cpu"))
    for j, concept in enumerate(concepts("tune5")):
        for name in METHODS:
            for rate in RATES:
                each = report["curves"].setdefault(f"{name} at {rate:g}", {})
                if concept.name not in each:
                    each[concept.name] = curve(concept, name, rate, args, means, j, extractor)
                    write_json(args.out, report)
                    print(f"{name:8s} {rate:g}  {concept.name:14s} {each[concept.name]}", flush=True)
    figure(report, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
