"""Updates of a weight as torch parametrizations: low rank and masked, W_t = W_{t-1} + (A_t B_t) ⊙ M_t, or full.

While a task is learned, the module's own forward computes the equation. Afterwards the update is folded into the weight
and the module is the stock one again.
"""

import torch
from torch import Tensor, nn

from .masks import CachedPerStep, Mask


class Update(CachedPerStep):
    """W + ΔW while a task is learned; a subclass defines `delta`."""

    def delta(self) -> Tensor:
        """ΔW, of the weight's shape, fp32."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        return self.delta()

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.value().to(weight.dtype)


class LowRank(Update):
    """W + A B (C-LoRA, eq. 2 [paper]).

    A: (D1, r) starts at zero, so that the model is unchanged before the first step [recalled]; B: (r, D2). A and B are
    the papers' names; peft's are the other way round. Both are fp32 whatever the weight's precision is.

    Args:
        weight: (D1, D2), of which shape and device are used.
        rank: r, 1 to min(D1, D2).

    Raises:
        ValueError: the rank does not fit the weight.
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
    """W + D, where D has the weight's shape and starts at zero: full fine-tuning, written as an update.

    Args:
        weight: any shape; its shape, memory layout and device are used. D is fp32 whatever its precision is.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.D = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))

    def delta(self) -> Tensor:
        return self.D

    def cache(self) -> None:
        """D is a parameter: there is nothing to compute."""


class Rows(nn.Module):
    """An adapter on some rows of a weight: one of several matrices that are stored as one, as Q, K and V."""

    def __init__(self, adapter: nn.Module, rows: slice):
        super().__init__()
        self.adapter, self.rows = adapter, rows

    def forward(self, weight: Tensor) -> Tensor:
        above, own, below = weight[: self.rows.start], weight[self.rows], weight[self.rows.stop :]
        return torch.cat([above, self.adapter(own), below])
