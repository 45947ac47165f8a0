"""A question with a figure: which concept does a generated image show?"""

import random
from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ..errors import UserError

MOST = 4  # candidates


def quiz(drawn: Image.Image, real: Mapping[str, Image.Image], answer: str, seed: int = 0) -> Figure:
    """A generated image, real candidates A, B, C, ... beside it in a random order, and the answer upside down below.

    Args:
        real: an image of each of 2 to MOST candidates, by name.
        answer: the name of the candidate that `drawn` shows.
        seed: of the order of the candidates.

    Raises:
        UserError: the answer is no candidate, or there are too few or too many of them.
    """
    if answer not in real or not 2 <= len(real) <= MOST:
        raise UserError(f"{answer} must be one of 2 to {MOST} candidates, not of {', '.join(real) or 'none'}")
    names = random.Random(seed).sample(sorted(real), len(real))
    letters = "ABCD"[: len(names)]
    figure, axes = plt.subplots(
        1, len(names) + 2, figsize=(1.1 * len(names) + 1.6, 1.7), dpi=max(drawn.width, 110), layout="constrained",
        width_ratios=[1, 0.35, *[1] * len(names)],
    )  # fmt: skip
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    panels = [("which is it?", drawn), *((letter, real[name]) for letter, name in zip(letters, names, strict=True))]
    for axis, (title, picture) in zip([axes[0], *axes[2:]], panels, strict=True):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    figure.supxlabel(f"answer: {letters[names.index(answer)]}, {answer}", fontsize=7, rotation=180, color="#555555")
    return figure
