"""How much of what a task trains is left when its mask is folded? Ways to make the mask, on six tuning concepts.

    python studies/mask_search.py --out results/mask_search.json

The denoising loss on a concept's own images, over the same draws for all: with its token but the weights of the base,
with the masks of a training step, and after folding. What a variant learned is a share of what a plain low-rank update
(`stamina-no-mask`) learned. Resumable: what is in --out is kept. The figure is drawn next to it.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from stamina_lite import concepts, load_base
from stamina_lite.core.seeds import seeded
from stamina_lite.diffusion.captions import caption_with_templates
from stamina_lite.diffusion.concepts import Concept
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.measures.intervals import Number, number
from stamina_lite.methods.lora import Stamina, StaminaNoMask, StaminaRandomMask
from stamina_lite.plots.style import colour
from stamina_lite.reproduction.tables import shown, table
from stamina_lite.runs.files import read_json, write_json
from stamina_lite.runs.versions import versions

PLAIN = "no mask"  # the variant that the others are compared with
SET, COUNT, STEPS = "tune20", 6, 60


VARIANTS = {
    PLAIN: StaminaNoMask(steps=STEPS),
    "λ_sparse 0.1": Stamina(steps=STEPS),
    "λ_sparse 0.1, noise falls": Stamina(steps=STEPS, noise_anneal=0.5),
    "λ_sparse 0.001": Stamina(steps=STEPS, lambda_sparse=0.001),
    "random, 25 % open": StaminaRandomMask(steps=STEPS, density=0.25),
    "λ_sparse 0.001, noise falls": Stamina(steps=STEPS, lambda_sparse=0.001, noise_anneal=0.5),
    "random, 17 % open": StaminaRandomMask(steps=STEPS, density=0.17),
    "λ_sparse 0, noise falls": Stamina(steps=STEPS, lambda_sparse=0.0, noise_anneal=0.5),
    "λ_sparse 0.01": Stamina(steps=STEPS, lambda_sparse=0.01),
    "λ_sparse 0": Stamina(steps=STEPS, lambda_sparse=0.0),
    "λ_sparse 0.001, free logits": Stamina(steps=STEPS, lambda_sparse=0.001, mask="free"),
}


def learn_alone(concept: Concept, method: Stamina, seed: int, n: int = 16) -> dict:
    """A concept learned by the base: losses with the base's weights, with a step's masks and after folding."""
    model, sampled = TextToImage(load_base()), []
    pictures = caption_with_templates(model.encode(concept.load(model.size)), [concept.token] * len(concept.images))
    captions = model.tokenize(pictures.captions)

    @torch.no_grad()
    def loss() -> float:
        draw = seeded(seed, 0)
        return sum(model.errors(*pick(draw), draw).mean().item() for _ in range(n)) / n

    def pick(draw):
        x, caption_ids = pictures.pick(16, draw)
        return x, captions, caption_ids

    def on_step(step: int, numbers: dict) -> None:
        if step == method.settings.steps - 1 and hasattr(model.layers[0].adapter, "mask"):
            for k, layer in enumerate(model.layers):
                layer.adapter.mask.sample_noise(seeded(seed, k))
            sampled.append(loss())

    start = [layer.current for layer in model.layers]
    learned = model.learn(concept, method, seed, 1, on_step)
    folded, end = loss(), [layer.current for layer in model.layers]
    for layer, weight in zip(model.layers, start, strict=True):
        layer.restore(weight)
    before = loss()
    step = sum((b - a).norm().item() for a, b in zip(start, end, strict=True)) / len(end)
    return {
        "base weights": before, "sampled": sampled[0] if sampled else folded, "folded": folded,
        "density": learned.mask_density, "step": step,
    }  # fmt: skip


def gradients(seed: int, every: int = 4) -> dict[str, float]:
    """Mean absolute gradients of the diffusion loss and of L_sparse in the last layer of the masks' MLPs, for Z_on.

    Means over all K and V, over every fourth of 16 steps on the first concept, without sparsity.
    """
    model, found = TextToImage(load_base()), {"diffusion": [], "sparsity": []}

    def on_step(step: int, numbers: dict) -> None:
        if (step + 1) % every == 0:
            for layer in model.layers:
                mask = layer.adapter.mask
                sparsity = torch.autograd.grad(mask.sparsity(), mask.W2)[0]
                for name, gradient in (("diffusion", mask.W2.grad), ("sparsity", sparsity)):
                    found[name].append(gradient.chunk(2, dim=1)[0].abs().mean().item())

    model.learn(concepts(SET, count=1)[0], Stamina(steps=16, lambda_sparse=0.0), seed, 1, on_step)
    return {name: sum(values) / len(values) for name, values in found.items()}


def mask_shares(report: dict, weights: str = "folded") -> dict[str, tuple[Number, float]]:
    """What a variant learned as a share of what no mask learned, and the share of weights its folded masks leave open.

    Learned is how far the denoising loss on a concept's own images falls, with the folded or the sampled masks.
    """
    plain = report["rows"][PLAIN]
    found = {}
    for name, rows in report["rows"].items():
        falls = {k: [r[k]["base weights"] - r[k][weights] for r in (rows, plain)] for k in rows}
        open_ = [row["density"] for row in rows.values() if row["density"] is not None]
        if share := number(dict(enumerate([mine / full for mine, full in falls.values()]))):
            found[name] = (share, sum(open_) / len(open_) if open_ else 1.0)
    return found


def mask_figure(report: dict) -> Figure:
    """`mask_shares` as points with their intervals, a line a variant."""
    found = mask_shares(report)
    figure, axis = plt.subplots(figsize=(6.4, 0.32 * len(found) + 0.8), layout="constrained")
    for y, (share, density) in enumerate(found.values()):
        arms = [[max(0.0, share.mean - share.low)], [max(0.0, share.high - share.mean)]]
        axis.errorbar(share.mean, -y, xerr=arms, marker="o", markersize=4, color=colour("stamina"))
        place = ("axes fraction", "data")
        axis.annotate(f"{100 * density:.0f} % open", (1.02, -y), xycoords=place, fontsize=8, va="center")
    axis.set_yticks([-y for y in range(len(found))], [*found])
    axis.axvline(1, color="#777777", linewidth=0.8)
    axis.set(xlabel="Learned (fall of the loss), as a share of what no mask learned", xlim=(0, None))
    return figure


def mask_table(report: dict) -> str:
    sampled, lines = mask_shares(report, "sampled"), []
    for name, (share, density) in mask_shares(report).items():
        lines.append([name, shown(sampled[name][0]), shown(share), f"{100 * density:.0f}"])
    text = table(["mask", "learned, masks of a step", "learned, folded", "open, %"], lines)
    if found := report.get("gradients"):
        ratio = found["sparsity"] / found["diffusion"]
        text += f"\n\nGradient of L_sparse over that of the diffusion loss at λ_sparse = 1: {ratio:.0f}."
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    report = read_json(args.out) if args.out.exists() else {"seed": args.seed, "rows": {}}
    report |= versions(torch.device("cpu"))
    if "gradients" not in report:
        report["gradients"] = gradients(args.seed)
    for name in args.variants:
        rows = report["rows"].setdefault(name, {})
        for concept in concepts(SET, count=COUNT):
            if concept.name not in rows:
                rows[concept.name] = learn_alone(concept, VARIANTS[name], args.seed)
                write_json(args.out, report)
    print(mask_table(report))
    mask_figure(report).savefig(args.out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
