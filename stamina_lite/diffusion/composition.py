"""Two concepts in one picture: is each of them there, in its place?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..measures.accuracy import directions
from ..measures.features import Features
from .captions import PROMPT
from .concepts import Concept

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
    """Are both concepts of a pair in its pictures? {"both", "one", "nearer"}, each in [0, 1].  [ours]

    images: (n, 3, H, W) in [-1, 1]. like_first, like_second: name -> features (m, d) of the real pictures of all
    concepts that each of the two is told from: the scene from other scenes, anything else from everything. A concept is
    looked for in its part: the first in the left half and the second in the right one; before a scene, the first in
    either half and the scene in the whole picture.

    both, one: share of pictures in which both concepts, or at least one, are the nearest to their part. nearer: the
    share of other concepts that are nearer to a part than its own, mean over the two; 0 if always found, by chance 1/2
    (1/3 for what may stand in either half).
    """
    left, right = (features(half) for half in halves(images))
    if pair.scene:
        first = torch.minimum(nearer(left, pair.first, like_first), nearer(right, pair.first, like_first))
        second = nearer(features(images), pair.second, like_second)
    else:
        first, second = nearer(left, pair.first, like_first), nearer(right, pair.second, like_second)
    found = torch.stack([first == 0, second == 0])
    return {
        "both": found.all(0).double().mean().item(),
        "one": found.any(0).double().mean().item(),
        "nearer": torch.stack([first, second]).mean().item(),
    }


def nearer(part: Tensor, concept: Concept, like: Mapping) -> Tensor:
    """For features of parts of pictures (n, d) the share of other concepts whose mean is nearer than its own: (n,)."""
    closeness = part.double() @ directions([*like.values()]).T  # (n, N)
    own = closeness[:, [*like].index(concept.name)]
    return (closeness > own[:, None]).double().sum(1) / (len(like) - 1)


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
