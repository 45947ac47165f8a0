"""Weights that are adapted task after task: attach an adapter, train it, fold it into the weight."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .adapters import Rows, Update


class AdaptedWeight:
    """One weight of a model over a sequence of tasks.

    Adapting leaves every other parameter alone. Folding is the only place that writes a base weight, and it does so in
    fp32 whatever the model's precision, so that fifty folds do not drift.

    Args:
        name: its name in the model.
        module, parameter: the module that holds it, and the parameter's name there.
        rows: only these rows of the parameter, as K and V of a matrix that holds Q, K and V; by default all.

    Attributes:
        start: the weight before the first task, (D1, D2), fp32.
        current: the weight after the last task, (D1, D2), fp32.
        adapter: the `Update` that is trained, while a task is learned.
        memory: tensors that a method keeps of past tasks; empty for most.
    """

    def __init__(self, name: str, module: Any, parameter: str = "weight", rows: slice | None = None):
        self.name, self.module, self.parameter, self.rows = name, module, parameter, rows
        self.start = self.weight.detach().float().clone()
        self.current = self.start.clone()
        self.adapter: Any = None
        self.memory: dict[str, Tensor] = {}
        self._past: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The module's parameter, or its rows; with an adapter attached, the changed one."""
        whole = getattr(self.module, self.parameter)
        return whole if self.rows is None else whole[self.rows]

    @property
    def past(self) -> Tensor:
        """The sum of all past updates, Σ_{t'<t} A_t' B_t': (D1, D2). Computed when a method first asks for it."""
        if self._past is None:
            self._past = self.current - self.start
        return self._past

    def attach(self, adapter: Update) -> None:
        """Attach an adapter. Make the optimizer after this."""
        self.adapter = adapter
        change = adapter if self.rows is None else Rows(adapter, self.rows)
        parametrize.register_parametrization(self.module, self.parameter, change)
        adapter.train()  # torch has just given it the mode of its module, and in eval mode a mask does not learn
        self.module.parametrizations[self.parameter].original.requires_grad_(False)

    def delta(self) -> Tensor:
        """The update of the task that is being learned, (A_t B_t) ⊙ M_t, as the present step has it: (D1, D2)."""
        return self.adapter.value()

    @torch.no_grad()
    def fold(self, transform: Callable[[Tensor], Tensor] = lambda delta: delta) -> Tensor:
        """Write W_t = W_{t-1} + ΔW_t into the weight and detach the adapter.

        Args:
            transform: applied to the learned ΔW_t before it is folded.

        Returns:
            ΔW_t, (D1, D2).
        """
        self.adapter.eval()
        delta = transform(self.adapter.delta())
        self.withdraw()
        self.restore(self.current + delta)
        return delta

    def withdraw(self) -> None:
        """Detach the adapter and leave the weight as it was before the task.

        torch removes all parametrizations of a tensor at once: the first of several weights in one tensor does it.
        """
        if parametrize.is_parametrized(self.module, self.parameter):
            parametrize.remove_parametrizations(self.module, self.parameter, leave_parametrized=False)
        self.adapter = None

    @torch.no_grad()
    def restore(self, weight: Tensor) -> None:
        """Set the current weight, (D1, D2) in fp32, after a fold or from a stored run."""
        self.current, self._past = weight.to(self.start), None
        self.weight.copy_(self.current)

    def restart(self, weight: Tensor) -> None:
        """Set the weight before the first task, (D1, D2), of a base that has learned tasks already."""
        self.start, self._past = weight.to(self.start), None


def layers_of(model: nn.Module, endings: Iterable[str]) -> list[AdaptedWeight]:
    """The linear layers of a model whose names end in one of `endings`: attn2.to_k, attn2.to_v for cross-attention.

    Raises:
        ValueError: there is none.
    """
    endings = tuple(endings)
    found = [AdaptedWeight(n, m) for n, m in model.named_modules() if n.endswith(endings) and isinstance(m, nn.Linear)]
    if not found:
        raise ValueError(
            f"no linear layer of this {type(model).__name__} ends in {', '.join(endings)}: nothing to adapt"
        )
    return found


def parts_of(model: nn.Module, ending: str, parts: str, wanted: str) -> list[AdaptedWeight]:
    """Matrices that linear layers store below one another: parts_of(vit, "attn.qkv", "qkv", "kv") are K and V.

    Args:
        ending: of the layers' names.
        parts: a letter for every matrix in a layer, from top to bottom.
        wanted: the letters of those that are adapted.
    """
    found = []
    for layer in layers_of(model, [ending]):
        size = len(layer.start) // len(parts)
        for part in wanted:
            first, prefix = parts.index(part) * size, layer.name.removesuffix(parts)
            found.append(AdaptedWeight(f"{prefix}{part}", layer.module, rows=slice(first, first + size)))
    return found


def every_weight(model: nn.Module, without: str = "") -> list[AdaptedWeight]:
    """All parameters of a model, weights and biases; `without`: the name of a submodule that is left out."""
    modules, found = dict(model.named_modules()), []
    for name, _ in model.named_parameters():
        if without and name.startswith(f"{without}."):
            continue
        module, _, parameter = name.rpartition(".")
        found.append(AdaptedWeight(name, modules[module], parameter))
    return found
