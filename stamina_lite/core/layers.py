"""Weights that are adapted task after task: attach an adapter, train it, fold it into the weight."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .adapters import Rows, Update


class AdaptedWeight:
    """One weight over a sequence of tasks: as it was at first, as it is now (both fp32), its adapter while a task is
    learned, and what a method keeps of past tasks beside it (`memory`, empty for most).

    Adapting leaves every other parameter alone; folding is the only place that writes a base weight, and it does so in
    fp32 whatever the model's precision, so that fifty folds do not drift.

    rows: only these of the module's tensor, as K and V of a weight that holds Q, K and V; all where not said.
    """

    def __init__(self, name: str, module: Any, parameter: str = "weight", rows: slice | None = None):
        self.name, self.module, self.parameter, self.rows = name, module, parameter, rows
        self.start = self.weight.detach().float().clone()
        self.current = self.start.clone()
        self.adapter: Any = None  # an `Update`, while a task is learned
        self.past = torch.zeros_like(self.start)
        self.memory: dict[str, Tensor] = {}

    @property
    def weight(self) -> Tensor:
        """The module's own tensor, or its rows of it; with its adapter on, the changed one."""
        whole = getattr(self.module, self.parameter)
        return whole if self.rows is None else whole[self.rows]

    def attach(self, adapter: Update) -> None:
        """Put an adapter on the weight. The optimizer is made after this."""
        self.adapter = adapter
        change = adapter if self.rows is None else Rows(adapter, self.rows)
        parametrize.register_parametrization(self.module, self.parameter, change)
        adapter.train()  # torch has just set it to the mode of its module, and in a frozen one a mask would not learn
        self.module.parametrizations[self.parameter].original.requires_grad_(False)

    def delta(self) -> Tensor:
        """A_t B_t ⊙ M_t of the task being learned, as the present step has it: (D1, D2)."""
        return self.adapter.value()

    @torch.no_grad()
    def fold(self, change: Callable[[Tensor], Tensor] = lambda delta: delta) -> Tensor:
        """W_t = W_{t-1} + ΔW_t, written into the weight; returns ΔW_t (D1, D2) and leaves the module stock.

        change: what is made of the learned ΔW_t before it is folded.
        """
        self.adapter.eval()
        delta = change(self.adapter.delta())
        self.withdraw()
        self.restore(self.current + delta)
        return delta

    def withdraw(self) -> None:
        """Take the adapter off and leave the weight as it was before the task.

        Torch takes off all adapters of a tensor at once, so of layers that share one the first does it for all.
        """
        if parametrize.is_parametrized(self.module, self.parameter):
            parametrize.remove_parametrizations(self.module, self.parameter, leave_parametrized=False)
        self.adapter = None

    @torch.no_grad()
    def restore(self, weight: Tensor) -> None:
        """Set the present weight to an fp32 (D1, D2) tensor: what folding and resuming have in common."""
        self.current = weight.to(self.start)
        self.past = self.current - self.start  # Σ_{t'<t} A_t' B_t'
        self.weight.copy_(self.current)


def layers_of(model: nn.Module, endings: Iterable[str]) -> list[AdaptedWeight]:
    """The linear layers of a model whose names end so; for a U-Net's cross-attention: attn2.to_k, attn2.to_v."""
    endings = tuple(endings)
    found = [AdaptedWeight(n, m) for n, m in model.named_modules() if n.endswith(endings) and isinstance(m, nn.Linear)]
    if not found:
        raise ValueError(
            f"no linear layer of this {type(model).__name__} ends in {', '.join(endings)}: nothing to adapt"
        )
    return found


def parts_of(model: nn.Module, ending: str, parts: str, wanted: str) -> list[AdaptedWeight]:
    """The wanted matrices of linear layers that store several, one below the other; of timm's ViTs K and V:
    parts_of(vit, "attn.qkv", "qkv", "kv").

    parts: a letter for each matrix, from top to bottom.
    """
    found = []
    for layer in layers_of(model, [ending]):
        each = len(layer.start) // len(parts)
        for part in wanted:
            k = parts.index(part)
            home = layer.name.removesuffix(parts)
            found.append(AdaptedWeight(f"{home}{part}", layer.module, rows=slice(k * each, (k + 1) * each)))
    return found


def every_weight(model: nn.Module, without: str = "") -> list[AdaptedWeight]:
    """All parameters of a model, weights and biases, as layers; but for those of its part `without`."""
    modules = dict(model.named_modules())
    names = [name for name, _ in model.named_parameters() if not (without and name.startswith(f"{without}."))]
    split = [name.rpartition(".") for name in names]
    return [AdaptedWeight(f"{home}.{own}".lstrip("."), modules[home], own) for home, _, own in split]
