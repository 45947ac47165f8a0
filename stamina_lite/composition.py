"""Two concepts in one picture: is each of them there, in its place?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .data import Concept
from .features import Features
from .metrics import nearest_concepts
from .pictures import PROMPT

SIDE = 5 / 8  # of the picture's: two people side by side each fill a square of about that size, standing at the bottom


@dataclass(frozen=True)
class Pair:
    """Two concepts to be drawn together: side by side, the first on the left, or the first before a scene."""

    first: Concept
    second: Concept
    scene: bool = False  # the second fills the picture, and the first stands anywhere before it

    @property
    def prompt(self) -> str:
        words = "in front of" if self.scene else "next to"
        return PROMPT.format(f"{self.first.token} {words} {self.second.token}")


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """The lower left and the lower right square of pictures: (n, 3, H, W) -> two of (n, 3, SIDE H, SIDE W)."""
    height, width = images.shape[-2:]
    side = round(SIDE * min(height, width))
    return images[..., height - side :, :side], images[..., height - side :, width - side :]


def detect(images: Tensor, pair: Pair, like_first: Mapping, like_second: Mapping, features: Features) -> dict:
    """In which share of a pair's pictures both concepts are found, and in which one at least: {"both", "one"}.  [ours]

    images: (n, 3, H, W) in [-1, 1]. like_first, like_second: name -> features (m, d) of the real pictures of all
    concepts that each of the two is told from: the scene from other scenes, anything else from everything. What is
    found is the concept whose mean is nearest: in the left half the first and in the right half the second; before a
    scene, the first in either half and the scene in the whole picture.
    """

    def is_there(part: Tensor, concept: Concept, like: Mapping) -> Tensor:
        nearest = nearest_concepts([features(part)], [*like.values()])[0]
        return torch.tensor(nearest) == [*like].index(concept.name)

    left, right = halves(images)
    if pair.scene:
        first = is_there(left, pair.first, like_first) | is_there(right, pair.first, like_first)
        second = is_there(images, pair.second, like_second)
    else:
        first, second = is_there(left, pair.first, like_first), is_there(right, pair.second, like_second)
    return {"both": (first & second).double().mean().item(), "one": (first | second).double().mean().item()}


def pasted(first: Tensor, second: Tensor, scene: bool = False) -> Tensor:
    """Real pictures of two concepts put together as `detect` expects them: its ceiling.

    first, second: (n, 3, H, W) -> (n, 3, H, W): the first shrunk into the lower left, the second into the lower right,
    each up to the middle, or behind the first as it is.
    """
    n, channels, height, width = first.shape
    side, middle = round(SIDE * min(height, width)), width // 2
    small = [torch.nn.functional.interpolate(x, (side, side), mode="area") for x in (first, second)]
    out = second.clone() if scene else torch.zeros(n, channels, height, width)
    out[..., height - side :, :side] = small[0]
    if not scene:
        out[..., height - side :, middle:] = small[1][..., side - (width - middle) :]
    return out
