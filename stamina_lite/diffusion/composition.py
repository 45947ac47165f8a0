"""Two concepts in one image: is each of them recognised, and in its place?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..measures.accuracy import directions
from ..measures.features import Features
from .captions import PROMPT
from .concepts import Concept

SIDE = 5 / 8  # side of the squares of `halves`, as a share of the image's shorter side; fits two people side by side


@dataclass(frozen=True)
class Pair:
    """Two concepts in one prompt: side by side, the first on the left, or the first in front of a scene."""

    first: Concept
    second: Concept
    scene: bool = False  # the second concept fills the image, and the first is anywhere in front of it

    @property
    def prompt(self) -> str:
        relation = "in front of" if self.scene else "next to"
        return PROMPT.format(f"{self.first.token} {relation} {self.second.token}")


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """Crop the lower left and the lower right square of images: (n, 3, H, W) -> two of (n, 3, s, s).

    s is SIDE times the shorter of H and W.
    """
    height, width = images.shape[-2:]
    side = round(SIDE * min(height, width))
    return images[..., height - side :, :side], images[..., height - side :, width - side :]


def detect(images: Tensor, pair: Pair, like_first: Mapping, like_second: Mapping, features: Features) -> dict:
    """Measure whether both concepts of a pair are recognised in images of it.  [ours]

    The first concept is expected in the left crop (`halves`) and the second in the right crop. In front of a scene, the
    first concept is expected in either crop and the scene in the whole image.

    Args:
        images: (n, 3, H, W) in [-1, 1].
        like_first, like_second: candidates among which the first and the second concept are recognised, and which
            include it: name -> features (m, d) of the references. Scenes for a scene, all concepts for anything else.

    Returns:
        both, one: share of images in which both concepts, or at least one, are the candidates nearest to their crops.
        nearer: share of other candidates that are nearer to a crop than its concept, mean over the two concepts. 0 if
            both are always recognised; 1/2 by chance (1/3 for a concept that may be in either crop).
    """
    left, right = (features(crop) for crop in halves(images))
    if pair.scene:
        first = torch.minimum(nearer(left, pair.first, like_first), nearer(right, pair.first, like_first))
        second = nearer(features(images), pair.second, like_second)
    else:
        first, second = nearer(left, pair.first, like_first), nearer(right, pair.second, like_second)
    recognised = torch.stack([first == 0, second == 0])  # (2, n)
    return {
        "both": recognised.all(0).double().mean().item(),
        "one": recognised.any(0).double().mean().item(),
        "nearer": torch.stack([first, second]).mean().item(),
    }


def nearer(part: Tensor, concept: Concept, like: Mapping) -> Tensor:
    """The share of other concepts whose mean is nearer to each row than that of `concept`, by cosine.

    Args:
        part: features, (n, d).
        like: name -> features (m, d) of the references of all candidates, `concept` included.

    Returns:
        (n,) in [0, 1].
    """
    similarity = part.double() @ directions([*like.values()]).T  # (n, N)
    target = similarity[:, [*like].index(concept.name)]
    return (similarity > target[:, None]).double().sum(1) / (len(like) - 1)


def paste_pair(first: Tensor, second: Tensor, scene: bool = False) -> Tensor:
    """Paste real images of two concepts into one, as `detect` expects them: an upper bound of its measures.

    The first is scaled into the lower left. The second is scaled into the lower right and covers the first from the
    middle on; with `scene` it is the background.

    Args:
        first, second: (n, 3, H, W).

    Returns:
        (n, 3, H, W).
    """
    n, channels, height, width = first.shape
    side, middle = round(SIDE * min(height, width)), width // 2
    small = [torch.nn.functional.interpolate(x, (side, side), mode="area") for x in (first, second)]
    images = second.clone() if scene else torch.zeros(n, channels, height, width)
    images[..., height - side :, :side] = small[0]
    if not scene:
        images[..., height - side :, middle:] = small[1][..., side - (width - middle) :]
    return images
