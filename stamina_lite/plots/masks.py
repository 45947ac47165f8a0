"""Figures of STAMINA's folded masks."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..errors import UserError
from ..runs.files import load_task
from .concepts import short
from .style import COLOURS

Masks = Mapping[str, Mapping[str, Tensor]]  # {concept: {layer: (D1, D2) bool}}


def load_masks(run: Path | str) -> dict[str, dict[str, Tensor]]:
    """A run's folded masks, {concept: {layer: (D1, D2) bool}}; empty for a method without masks."""
    masks = {}
    for folder in sorted((Path(run) / "tasks").glob("[0-9]*")):
        tensors, task = load_task(folder)
        masks[task["concept"]] = {k.removeprefix("mask."): m for k, m in tensors.items() if k.startswith("mask.")}
    return {concept: layers for concept, layers in masks.items() if layers}


def mask_pictures(masks: Masks, layers: int = 4) -> Figure:
    """Masks as pictures, open weights bright: a row for each concept, a column for each of some layers.

    Args:
        masks: see `load_masks`.
        layers: how many, spread evenly over the depth of the U-Net.

    Raises:
        UserError: there are no masks.
    """
    rows = not_empty(masks)
    names = list(next(iter(rows.values())))
    chosen = [names[k * (len(names) - 1) // max(1, layers - 1)] for k in range(min(layers, len(names)))]
    size = (2.6 * len(chosen), 2.6 * len(rows))
    figure, axes = plt.subplots(len(rows), len(chosen), figsize=size, squeeze=False, layout="constrained")
    for line, (concept, of_layer) in zip(axes, rows.items(), strict=True):
        for axis, layer in zip(line, chosen, strict=True):
            mask = of_layer[layer].float()
            axis.imshow(mask, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="none")
            axis.set(xticks=[], yticks=[], xlabel=f"{mask.mean():.0%} open")
        line[0].set_ylabel(concept)
    for axis, layer in zip(axes[0], chosen, strict=True):
        axis.set_title(short(layer), fontsize=8)
    return figure


def mask_panel(masks: Masks) -> Figure:
    """Density of the masks by layer (left), and the overlap of every two concepts' masks (right).

    Overlap is |m ∧ m'| / |m ∨ m'|, mean over layers; the title has that of independent masks of the same densities.

    Args:
        masks: see `load_masks`.

    Raises:
        UserError: there are no masks.
    """
    concepts, layers = list(not_empty(masks)), list(next(iter(masks.values())))
    stacks = [torch.stack([masks[c][layer].flatten().float() for c in concepts]) for layer in layers]
    density = torch.stack([s.mean(1) for s in stacks])  # (layers, concepts)
    overlap, chance = torch.stack([torch.stack(pairwise_overlap(s)) for s in stacks]).mean(0)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.22 * len(layers) + 2.4), layout="constrained")
    rows = range(len(layers))
    left.plot(density, rows, color="#999999", marker="o", markersize=3, linestyle="none", alpha=0.5)
    left.plot(
        density.mean(1), rows, color=COLOURS["stamina"], marker="D", linestyle="none", label="mean of all concepts"
    )
    left.set_yticks(rows, [short(name) for name in layers], fontsize=7)
    left.invert_yaxis()
    left.set(xlabel="Density: share of a layer's weights left open", xlim=(0, 1))
    left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    shown = right.imshow(overlap.fill_diagonal_(float("nan")), cmap="cividis")
    ticks = range(0, len(concepts), max(1, len(concepts) // 10))
    right.set_xticks(ticks, [concepts[k] for k in ticks], rotation=90, fontsize=7)
    right.set_yticks(ticks, [concepts[k] for k in ticks], fontsize=7)
    others = ~torch.eye(len(concepts), dtype=torch.bool)
    if others.any():
        right.set_title(
            f"mean {overlap[others].mean():.3f}, of independent masks {chance[others].mean():.3f}", fontsize=9
        )
    figure.colorbar(shown, ax=right, label="Overlap of two concepts' masks")
    return figure


def pairwise_overlap(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`mask_overlap` of every two rows: (n, D) of zeros and ones -> overlap and chance level, each (n, n)."""
    density, both = rows.mean(1), rows @ rows.T / rows.shape[1]
    p, q = density[:, None], density[None, :]
    return both / (p + q - both).clamp_min(1e-12), p * q / (p + q - p * q).clamp_min(1e-12)


def not_empty(masks: Masks) -> Masks:
    """The masks. Raises UserError if there are none."""
    if not masks:
        raise UserError("there are no masks here: give a run of a method that has them, such as stamina")
    return masks
