"""The weights of a model during a task: adapters are attached, trained and folded."""

from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .layers import AdaptedWeight
from .method import Method
from .seeds import on_device


class Adaptation:
    """The adapters that a method puts on weights for one task. `fold` or `withdraw` detaches them.

    Args:
        layers: all weights that the method may change.
        generator: source of the adapters' initial values.

    Attributes:
        adapted: the weights that have an adapter.
        adapters: their adapters by the weights' names, also after the fold.
        before: the weights before the task, in the order of `layers`.
        masks: after the fold, name of a weight -> (D1, D2) bool.
    """

    def __init__(self, layers: list[AdaptedWeight], method: Method, generator: torch.Generator):
        self.layers, self.method = layers, method
        self.before = [layer.current for layer in layers]
        adapters = [method.adapter(layer, generator) for layer in layers]
        pairs = [(layer, adapter) for layer, adapter in zip(layers, adapters, strict=True) if adapter is not None]
        for layer, adapter in pairs:
            layer.attach(adapter)
        self.adapted = [layer for layer, _ in pairs]
        self.adapters = {layer.name: adapter for layer, adapter in pairs}
        self.masks: dict[str, Tensor] = {}

    def parameters(self) -> list[Tensor]:
        """The adapters' parameters that are trained."""
        return [p for adapter in self.adapters.values() for p in adapter.parameters() if p.requires_grad]

    def sample_noise(self, progress: float, generator: torch.Generator) -> None:
        """Sample the masks' Gumbel noise for one step; progress: the share of steps that are done, in [0, 1)."""
        anneal = self.method.settings.noise_anneal
        strength = max(0.0, 1 - progress / anneal) if anneal else 1.0
        masks: list[Any] = [adapter.mask for adapter in self.adapters.values() if hasattr(adapter, "mask")]
        if masks:
            generator = on_device(generator, self.adapted[0].current.device)
        for mask in masks:
            mask.sample_noise(generator, strength)

    @contextmanager
    def cached(self):
        """Compute each ΔW once for the whole step: the model and the penalties share it."""
        for adapter in self.adapters.values():
            adapter.cache()
        try:
            yield
        finally:
            for adapter in self.adapters.values():
                adapter.clear_cache()

    def penalties(self) -> list[Tensor]:
        """The method's penalties, a scalar for every weight that has one."""
        return [p for p in map(self.method.penalty, self.adapted) if p is not None]

    def fold(self, task: int) -> None:
        """W_t = W_{t-1} + ΔW_t in every adapted weight."""
        self.masks = {layer.name: binary_mask(layer) for layer in self.adapted if hasattr(layer.adapter, "mask")}
        for layer in self.adapted:
            layer.fold(partial(self.method.transform_update, task=task))


def withdraw(layers: list[AdaptedWeight], weights: list[Tensor]) -> None:
    """Detach all adapters and restore these weights, after a task that failed or was interrupted."""
    for layer, weight in zip(layers, weights, strict=True):
        if layer.adapter is not None:
            layer.withdraw()
        layer.restore(weight)


def binary_mask(layer: AdaptedWeight) -> Tensor:
    """The mask of the fold: (D1, D2) bool, on the CPU."""
    mask = layer.adapter.mask.eval()
    with torch.no_grad():
        return (mask() > 0.5).cpu()
