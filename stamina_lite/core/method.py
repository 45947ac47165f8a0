"""What a method of continual learning may decide."""

from typing import Any

import torch
from torch import Tensor, nn

from .adapters import LowRank, Update
from .layers import AdaptedWeight
from .settings import AdapterSettings, Settings
from .tokens import Vector


class Method:
    """What a method trains and what it penalises. As it stands: a low-rank change, a token row, no penalty.

    Hooks are called in the order in which they stand here. `model` is what learns: a `TextToImage` or a
    `Classifier`; `pictures` are the task's own, as that model is trained on them.
    """

    name = ""
    settings: Any  # `Settings`, or `ClassSettings`
    defaults: dict = {}  # for text-to-image; those for classification stand in `methods.registry`
    full_finetuning = False  # every weight may change, not only K and V (of a U-Net: those of its cross-attention)
    qkv_parts = "kv"  # which of a ViT's Q, K and V may change where not every weight may
    joint = False  # everything is learned at once, round after round, and not one task after another
    separate_models = False  # every concept has a model of its own, which is kept: nothing is merged
    task_local_loss = (
        True  # a classifier's loss compares the classes of the task with one another, not with those of the past
    )
    head = True  # its head is trained

    def __init__(self, settings: AdapterSettings | None = None, **options):
        """settings: those to learn by; without them the method's defaults for text-to-image, changed by options."""
        self.settings = settings or Settings().changed(**{**self.defaults, **options})

    def prompts(self, width: int, depth: int, tasks: int, generator: torch.Generator) -> Any:
        """A `prompts.Pool` for a ViT of so many blocks, made once for all tasks, or None."""
        return None

    def begin(self, model, pictures) -> None:
        """Before a task: what the weights should be when it starts."""

    def prior_images(self, model, generator: torch.Generator) -> Any:
        """Pictures that are trained beside the concept's, weighed by `prior` if that is above zero, or None."""
        prompts = [prompt.strip() for prompt in self.settings.prior_prompts.split(";")]
        return model.base_pictures(prompts, self.settings.n_prior, self.settings.guidance)

    def token(self, start: Tensor, generator: torch.Generator) -> nn.Module:
        """What produces the token's row from its start (width,)."""
        return Vector(start, generator)

    def adapter(self, layer: AdaptedWeight, generator: torch.Generator) -> Update | None:
        """The change of a weight, or None where it stays as it is."""
        return LowRank(layer.current, min(self.settings.rank, *layer.current.shape), generator)

    def penalty(self, layer: AdaptedWeight) -> Tensor | None:
        """What a layer adds to the loss, weighed by its λ: a scalar, or None."""
        return None

    def auxiliary_loss(self, model, x: Tensor, logits: Tensor) -> Tensor | None:
        """What a batch of pictures adds to a classifier's loss: a scalar, or None. logits: (n, classes)."""
        return None

    def transform_update(self, delta: Tensor, task: int) -> Tensor:
        """What of a weight's learned change is kept after the task."""
        return delta

    def end(self, model, pictures, generator: torch.Generator) -> None:
        """After folding: what later tasks need to know of this one goes to `layer.memory`."""
