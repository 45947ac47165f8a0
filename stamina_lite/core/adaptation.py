"""The weight half of a task, from the first step to the fold: what a method does to the layers of any model."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial

import torch
from torch import Tensor

from ..errors import UserError
from .layers import AdaptedWeight
from .masks import mask_overlap
from .method import Method
from .seeds import on_device


@dataclass
class Change:
    """What a task did to the weights; numbers are means over layers."""

    weight_change: float = 0.0  # ‖W_t - W_init‖
    step_change: float = 0.0  # ‖ΔW_t‖, W_t less the weights the task began with
    touched: float | None = None  # share of Σ|W_{t-1} - W_init| where ΔW_t is not zero
    alignment: float | None = None  # cosine of |W_{t-1} - W_init| and |ΔW_t|
    mask_density: float | None = None  # share of weights the folded masks leave open
    masks: dict[str, Tensor] = field(default_factory=dict)  # layer -> (D1, D2) bool

    def numbers(self) -> dict:
        """What a task's record tells of it: all but the masks."""
        return {f.name: getattr(self, f.name) for f in fields(Change) if f.name != "masks"}


class Adaptation:
    """A method's adapters on the layers it wants to change. Attached when made; `fold` or `withdraw` takes them off."""

    def __init__(self, layers: list[AdaptedWeight], method: Method, generator: torch.Generator):
        self.layers, self.method = layers, method
        self.before = [layer.current for layer in layers]
        adapters = [method.adapter(layer, generator) for layer in layers]
        pairs = [(layer, adapter) for layer, adapter in zip(layers, adapters, strict=True) if adapter is not None]
        for layer, adapter in pairs:
            layer.attach(adapter)
        self.adapted = [layer for layer, _ in pairs]
        self.masks: dict[str, Tensor] = {}

    def parameters(self) -> list[Tensor]:
        return [p for layer in self.adapted for p in layer.adapter.parameters() if p.requires_grad]

    def sample_noise(self, share: float, generator: torch.Generator) -> None:
        """Draw the masks' noise of a step; share: how much of the task's steps is done, in [0, 1)."""
        anneal = self.method.settings.noise_anneal
        strength = max(0.0, 1 - share / anneal) if anneal else 1.0
        masks = [layer.adapter.mask for layer in self.adapted if hasattr(layer.adapter, "mask")]
        if masks:
            generator = on_device(generator, self.adapted[0].current.device)
        for mask in masks:
            mask.sample_noise(generator, strength)

    @contextmanager
    def cached(self):
        """While a step lasts: each ΔW is computed once, for the model and the penalties."""
        for layer in self.adapted:
            layer.adapter.cache()
        try:
            yield
        finally:
            for layer in self.adapted:
                layer.adapter.clear_cache()

    def penalties(self) -> list[Tensor]:
        """What the layers add to the loss, those that add something."""
        return [p for p in map(self.method.penalty, self.adapted) if p is not None]

    def fold(self, task: int) -> None:
        """W_t = W_{t-1} + ΔW_t in every adapted layer."""
        self.masks = {layer.name: binary_mask(layer) for layer in self.adapted if hasattr(layer.adapter, "mask")}
        for layer in self.adapted:
            layer.fold(partial(self.method.transform_update, task=task))

    def change(self) -> Change:
        """What the task did, once it is over."""
        moved = [(old - layer.start, layer.current - old) for old, layer in zip(self.before, self.layers, strict=True)]
        shares = [touched(past, step) for past, step in moved if past.any() and step.any()]
        return Change(
            weight_change=mean([layer.past.norm().item() for layer in self.layers]),
            step_change=mean([step.norm().item() for _, step in moved]),
            touched=mean([s[0] for s in shares]) if shares else None,
            alignment=mean([s[1] for s in shares]) if shares else None,
            mask_density=mean([m.float().mean().item() for m in self.masks.values()]) if self.masks else None,
            masks=self.masks,
        )


def check_finite(loss: float, step: int) -> None:
    """Raise UserError where training has run away: what it would leave is no model any more."""
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss} at step {step + 1}: lower the learning rates (--lr) or the penalties")


def check_trained(groups: list[dict]) -> None:
    """The same of what the last step has left in an optimizer's groups."""
    if not all(parameter.isfinite().all() for group in groups for parameter in group["params"]):
        raise UserError("the last step has left no finite weights: lower the learning rates (--lr) or the penalties")


def withdraw(layers: list[AdaptedWeight], weights: list[Tensor]) -> None:
    """Leave layers as they were before a task that was interrupted or failed: adapters off, these weights back."""
    for layer, weight in zip(layers, weights, strict=True):
        if layer.adapter is not None:
            layer.withdraw()
        layer.restore(weight)


def tensors_of(layers: list[AdaptedWeight]) -> dict[str, Tensor]:
    """What a saved task has of the layers: their weights, and what a method keeps beside them."""
    kept = {f"memory.{what}.{layer.name}": value for layer in layers for what, value in layer.memory.items()}
    return {f"weight.{layer.name}": layer.current for layer in layers} | kept


def kept_beside(layers: list[AdaptedWeight]) -> int:
    """How many numbers a method keeps beside layers; what K and V of one module have in common counts once."""
    seen: dict[tuple, list[Tensor]] = {}
    for layer in layers:
        for what, kept in layer.memory.items():
            others = seen.setdefault((layer.module, what), [])
            if not any(torch.equal(kept, other) for other in others):
                others.append(kept)
    return sum(kept.numel() for others in seen.values() for kept in others)


def restore(layers: list[AdaptedWeight], tensors: dict[str, Tensor]) -> None:
    """Put back what `tensors_of` has told; other tensors may be among them."""
    named = {layer.name: layer for layer in layers}
    for name, layer in named.items():
        layer.restore(tensors[f"weight.{name}"])
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "memory":
            what, _, name = name.partition(".")
            named[name].memory[what] = tensor.to(named[name].start.device)


def mean_overlap(before: dict, now: dict) -> dict | None:
    """Overlap of two tasks' masks and its chance level, mean over layers; None where there are not two."""
    if not before or not now:
        return None
    pairs = [mask_overlap(before[name], now[name]) for name in now]
    return {"overlap": mean([p[0] for p in pairs]), "chance": mean([p[1] for p in pairs])}


def binary_mask(layer: AdaptedWeight) -> Tensor:
    """The mask that folding uses, as booleans: (D1, D2)."""
    mask = layer.adapter.mask.eval()
    with torch.no_grad():
        return (mask() > 0.5).cpu()


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def touched(past: Tensor, step: Tensor) -> tuple[float, float]:
    """What a step does to past changes of the same weight: (share, alignment), both in [0, 1].  [ours]

    share: of Σ|past|, what lies where the step is not zero; a step under a mask of density p that knows nothing of the
    past touches p. alignment: the cosine of |past| and |step|, 1 when both are large at the same places.
    """
    past, step = past.abs().double().flatten(), step.abs().double().flatten()
    share = past[step > 0].sum() / past.sum()
    return share.item(), torch.nn.functional.cosine_similarity(past, step, dim=0).item()
