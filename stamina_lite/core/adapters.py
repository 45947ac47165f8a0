"""Changes of a weight as torch parametrizations; low rank and masked, W_t = W_{t-1} + (A_t B_t) ⊙ M_t, or full.

While a task is learned the module's own forward computes the equation; afterwards it is folded into the weight and
nothing of ours is left.
"""

import torch
from torch import Tensor, nn

from .masks import CachedPerStep, Mask


class Update(CachedPerStep):
    """W + ΔW, the change of a weight while a task is learned; a subclass says what `delta` is."""

    def delta(self) -> Tensor:
        """The change of the weight: of the weight's shape, fp32."""
        raise TypeError(f"{type(self).__name__} defines no delta")

    def compute(self) -> Tensor:
        return self.delta()

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.value().to(weight.dtype)


class LowRank(Update):
    """W + A B (C-LoRA, eq. 2 [paper]).

    A: (D1, r) starts at zero, so the first step changes nothing [recalled]; B: (r, D2).
    weight: (D1, D2), only its shape and device are used. The factors are fp32 whatever the weight is.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator | None = None):
        super().__init__()
        rows, columns = weight.shape
        if not 1 <= rank <= min(rows, columns):
            raise ValueError(f"rank {rank} does not fit a {rows}x{columns} weight: choose 1 to {min(rows, columns)}")
        start = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.A = nn.Parameter(torch.zeros(rows, rank, device=weight.device))
        self.B = nn.Parameter(start.to(weight.device))

    def delta(self) -> Tensor:
        return self.A @ self.B


class MaskedLowRank(LowRank):
    """W + (A B) ⊙ M (STAMINA, eq. 4 [paper]); M comes from a `Mask` of the same shape."""

    def __init__(self, weight: Tensor, rank: int, mask: Mask, generator: torch.Generator | None = None):
        super().__init__(weight, rank, generator)
        self.mask = mask.to(weight.device)

    def delta(self) -> Tensor:
        return super().delta() * self.mask()

    def cache(self) -> None:
        self.mask.cache()
        super().cache()

    def clear_cache(self) -> None:
        self.mask.clear_cache()
        super().clear_cache()


class Full(Update):
    """W + D, D of the weight's own shape, from zero: plain fine-tuning, written as a change like the others.

    weight: any shape, only its shape, layout and device are used. D is fp32 whatever the weight is.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.D = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))

    def delta(self) -> Tensor:
        return self.D

    def cache(self) -> None:
        """There is nothing to compute."""


class Rows(nn.Module):
    """An adapter on some rows of a weight, the others as they are: one matrix of several that are stored as one."""

    def __init__(self, adapter: nn.Module, rows: slice):
        super().__init__()
        self.adapter, self.rows = adapter, rows

    def forward(self, weight: Tensor) -> Tensor:
        above, own, below = weight[: self.rows.start], weight[self.rows], weight[self.rows.stop :]
        return torch.cat([above, self.adapter(own), below])
