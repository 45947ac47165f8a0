"""Adapted weights as tensors, for a stored run and for an exported folder."""

import torch
from torch import Tensor

from ..core.layers import AdaptedWeight


def state_tensors(layers: list[AdaptedWeight]) -> dict[str, Tensor]:
    """{"weight.NAME": current weight, "memory.KEY.NAME": what a method keeps of past tasks}."""
    tensors = {f"weight.{layer.name}": layer.current for layer in layers}
    for layer in layers:
        for key, value in layer.memory.items():
            tensors[f"memory.{key}.{layer.name}"] = value
    return tensors


def load_state(layers: list[AdaptedWeight], tensors: dict[str, Tensor]) -> None:
    """Restore weights and memory from `state_tensors`; other keys are ignored."""
    named = {layer.name: layer for layer in layers}
    for name, layer in named.items():
        layer.restore(tensors[f"weight.{name}"])
    for full_key, tensor in tensors.items():
        kind, _, rest = full_key.partition(".")
        if kind == "memory":
            key, _, name = rest.partition(".")
            named[name].memory[key] = tensor.to(named[name].start.device)


def memory_size(layers: list[AdaptedWeight]) -> int:
    """Numbers that a method keeps of past tasks. A tensor that K and V of one module share counts once."""
    counted: dict[tuple, list[Tensor]] = {}
    for layer in layers:
        for key, value in layer.memory.items():
            others = counted.setdefault((layer.module, key), [])
            if not any(torch.equal(value, other) for other in others):
                others.append(value)
    return sum(value.numel() for others in counted.values() for value in others)
