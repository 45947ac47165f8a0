"""Means with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


def mean_interval(values: Sequence[float], *, n: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of independent values, such as one per concept.  [ours]

    For differences between two methods on the same concepts this is the paired interval. Raises ValueError for no
    values.
    """
    if not len(values):
        raise ValueError("an interval needs at least one value")
    x = torch.as_tensor(values, dtype=torch.float64)
    picks = torch.randint(len(x), (n, len(x)), generator=torch.Generator().manual_seed(seed))
    tail = (1 - level) / 2
    low, high = x[picks].mean(1).quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return low, high


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True)
class Number:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        rounded = (round(scale * v, digits) + 0.0 for v in (self.mean, self.low, self.high))  # + 0.0: no -0.00
        mean, low, high = (f"{v:.{digits}f}" for v in rounded)
        return f"{mean} [{low}, {high}]"


def mean_of_pairs(pairs) -> dict[str, float]:
    """Mean of the numbers of every name, from (name, number) pairs."""
    grouped: dict[str, list[float]] = {}
    for name, number in pairs:
        grouped.setdefault(name, []).append(number)
    return {name: sum(numbers) / len(numbers) for name, numbers in grouped.items()}


def number(values: dict[str, float]) -> Number | None:
    """Mean and interval over concepts; None without values."""
    if not values:
        return None
    each = [values[name] for name in sorted(values)]
    return Number(sum(each) / len(each), *mean_interval(each))
