"""Maps of words over an image."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

COLUMNS, SIDE = 7, 1.3  # panels in a row, inches of a panel


def word_figure(image: Tensor, maps: list[tuple[str, Tensor]]) -> Figure:
    """An image and, beside it, the map of every word over it; each map has a scale of its own.

    Args:
        image: (3, H, W) in [-1, 1].
        maps: words and their maps (h, w), of `diffusion.attention.word_maps`.
    """
    pixels = ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0)
    height, width = pixels.shape[:2]
    panels: list[tuple[str, Tensor | None]] = [("image", None), *maps]
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    size = (SIDE * columns, (SIDE + 0.25) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, (title, heat) in zip(axes.flat, panels, strict=False):
        axis.set_title(title, fontsize=9)
        axis.imshow(pixels if heat is None else pixels.mean(2), cmap="gray", vmin=0, vmax=1)
        if heat is not None:
            axis.imshow(heat, cmap="inferno", alpha=0.65, extent=(0, width, height, 0), interpolation="bilinear")
    return figure
