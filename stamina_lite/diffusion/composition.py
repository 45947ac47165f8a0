"""Two concepts in one image: is each of them recognised, in its place?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..measures.accuracy import directions
from ..measures.features import Features
from .captions import PROMPT
from .concepts import Concept

SIDE = 5 / 8  # of the image's side: each of two people side by side fills a square of about that size at the bottom


@dataclass(frozen=True)
class Pair:
    """Two concepts in one prompt: side by side, the first on the left, or the first in front of a scene."""

    first: Concept
    second: Concept
    scene: bool = False  # the second fills the image, and the first is anywhere in front of it

    @property
    def prompt(self) -> str:
        words = "in front of" if self.scene else "next to"
        return PROMPT.format(f"{self.first.token} {words} {self.second.token}")


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """The lower left and the lower right square of images: (n, 3, H, W) -> two of (n, 3, SIDE H, SIDE W)."""
    height, width = images.shape[-2:]
    side = round(SIDE * min(height, width))
    return images[..., height - side :, :side], images[..., height - side :, width - side :]


def detect(images: Tensor, pair: Pair, like_first: Mapping, like_second: Mapping, features: Features) -> dict:
    """Are both concepts of a pair recognised in images of it?  [ours]

    The first concept is looked for in the left part and the second in the right part; in front of a scene, the first in
    either part and the scene in the whole image.

    Args:
        images: (n, 3, H, W) in [-1, 1].
        like_first, like_second: name -> features (m, d) of the references of all concepts that the first, or the
            second, is distinguished from: a scene from other scenes, anything else from all concepts.

    Returns:
        both, one: share of images in which both concepts, or at least one, are the nearest to their part.
        nearer: share of other concepts that are nearer to a part than its own, mean over the two. 0 if both are always
            recognised; by chance 1/2 (1/3 for a concept that may be in either part).
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
    """The share of other concepts whose mean is nearer to each row than the concept's own: (n, d) -> (n,)."""
    similarity = part.double() @ directions([*like.values()]).T  # (n, N)
    target = similarity[:, [*like].index(concept.name)]
    return (similarity > target[:, None]).double().sum(1) / (len(like) - 1)


def pasted(first: Tensor, second: Tensor, scene: bool = False) -> Tensor:
    """Real images of two concepts in one, as `detect` expects them: the ceiling of its measures.

    (n, 3, H, W) twice -> (n, 3, H, W): the first is scaled into the lower left, the second into the lower right, both
    up to the middle, or the second is the background.
    """
    n, channels, height, width = first.shape
    side, middle = round(SIDE * min(height, width)), width // 2
    small = [torch.nn.functional.interpolate(x, (side, side), mode="area") for x in (first, second)]
    out = second.clone() if scene else torch.zeros(n, channels, height, width)
    out[..., height - side :, :side] = small[0]
    if not scene:
        out[..., height - side :, middle:] = small[1][..., side - (width - middle) :]
    return out
