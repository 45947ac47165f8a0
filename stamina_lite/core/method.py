"""What a method of continual learning decides: the hooks that the training of a task calls."""

from typing import Any

import torch
from torch import Tensor, nn

from .adapters import LowRank, Update
from .layers import AdaptedWeight
from .settings import AdapterSettings, Settings
from .tokens import Vector


class Method:
    """What a method trains and penalises. The base class is LoRA: a low-rank update, a token row, no penalty.

    In the hooks, `model` is the `TextToImage` or the `Classifier` that learns, and `images` are the task's training
    images as that model gets them.

    Args:
        settings: its settings; by default those of `defaults` for text-to-image, changed by `options`.
    """

    name = ""
    settings: Any  # `Settings`, or `ClassSettings`
    defaults: dict = {}  # for text-to-image; those for classification are in `methods.registry`

    # Both
    full_finetuning = False  # every weight is adapted, not only K and V (in a U-Net, of its cross-attention)
    joint = False  # all tasks are learned at once, in as many rounds as there are tasks

    # Text-to-image
    separate_models = False  # every concept has its own model, trained from the base; nothing is merged

    # Classification
    qkv_parts = "kv"  # which of a ViT's Q, K and V are adapted
    task_local_loss = True  # the cross-entropy is over the task's classes, not over all classes seen so far
    head = True  # the head is trained

    def __init__(self, settings: AdapterSettings | None = None, **options):
        self.settings = settings or Settings().changed(**{**self.defaults, **options})

    # Both, in the order in which they are called

    def begin(self, model, images) -> None:
        """Called before a task, for instance to change the weights that it starts from."""

    def adapter(self, layer: AdaptedWeight, generator: torch.Generator) -> Update | None:
        """The update that is trained on a weight, or None to leave the weight as it is."""
        return LowRank(layer.current, min(self.settings.rank, *layer.current.shape), generator)

    def penalty(self, layer: AdaptedWeight) -> Tensor | None:
        """A weight's term of the loss, multiplied by its λ: a scalar, or None."""
        return None

    def transform_update(self, delta: Tensor, task: int) -> Tensor:
        """The part of a weight's learned update that is folded: (D1, D2) -> (D1, D2). task counts from 1."""
        return delta

    def end(self, model, images, adapters: dict[str, Update], generator: torch.Generator) -> None:
        """Called after the fold. What later tasks need goes to `layer.memory`, which is stored with a run.

        Args:
            adapters: the trained adapters by the names of their weights.
        """

    # Text-to-image

    def prior_images(self, model, generator: torch.Generator) -> Any:
        """Images that half a batch is taken from, with weight `lambda_prior`: `CaptionedLatents`, or None."""
        return model.base_images(self.settings)

    def token(self, start: Tensor, generator: torch.Generator) -> nn.Module:
        """The module that computes the token's row, at first equal to start (width,)."""
        return Vector(start, generator)

    # Classification

    def prompts(self, width: int, depth: int, tasks: int, generator: torch.Generator) -> Any:
        """A `prompts.Pool` for a ViT of `depth` blocks, made once for all tasks, or None."""
        return None

    def auxiliary_loss(self, model, x: Tensor, logits: Tensor) -> Tensor | None:
        """A term of the loss of a batch x (n, 3, S, S) with logits (n, classes): a scalar, or None."""
        return None
