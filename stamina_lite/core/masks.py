"""Masks of a weight: which of its entries a task may change. Learned by the Gumbel-softmax, or fixed."""

from typing import Any

import torch
from torch import Tensor, nn


class CachedPerStep(nn.Module):
    """A module whose result is computed once a training step, between `cache` and `clear_cache`.

    The model's forward and the penalties of a step then share one graph.
    """

    cached: Any = None

    def compute(self) -> Any:
        raise NotImplementedError

    def cache(self) -> None:
        self.cached = self.compute()

    def clear_cache(self) -> None:
        self.cached = None

    def value(self) -> Any:
        """The cached result, or else a new one."""
        return self.compute() if self.cached is None else self.cached


class Mask(CachedPerStep):
    """A (D1, D2) mask from learned logits by the Gumbel-softmax of two classes, on and off.

    M = GumbelSoftmax(Z, τ)[on], rounded to {0, 1} with the gradient of the soft mask (straight-through) if `hard`.
    In `eval` there is no noise: M = 1[Z_on > Z_off]. The paper says in words: hard-attention masks, made by low-rank
    MLPs with Gumbel-softmax [paper]; the construction is ours [ours].
    """

    def __init__(self, shape: torch.Size, temperature: float = 1.0, hard: bool = True):
        super().__init__()
        self.shape, self.temperature, self.hard = torch.Size(shape), temperature, hard
        self.noise: Tensor | None = None

    def logits(self) -> tuple[Tensor, Tensor]:
        """Z_on and Z_off, each (D1, D2)."""
        raise NotImplementedError

    def sample_noise(self, generator: torch.Generator, strength: float = 1.0) -> None:
        """Sample the Gumbel noise of one step, on the generator's device.

        The difference of two Gumbel variables is logistic. With a strength below 1, a step trains fewer weights that
        the fold leaves out.
        """
        noise = torch.rand(self.shape, generator=generator, device=generator.device)
        self.noise = strength * noise.clamp_(1e-6, 1 - 1e-6).logit_()

    def compute(self) -> tuple[Tensor, Tensor]:
        """M (D1, D2), and L_sparse = mean(relu(Z_on)), a penalty on the mask network's positive outputs [paper; this
        form ours].
        """
        on, off = self.logits()
        return self.sample(on - off), torch.where(on > 0, on, 0).mean()  # relu would store a copy for its backward

    def sample(self, score: Tensor) -> Tensor:
        """M from Z_on - Z_off and the noise of this step: (D1, D2) -> (D1, D2)."""
        if self.training and self.noise is not None:
            score = score + self.noise.to(score.device)
        soft = torch.sigmoid(score / self.temperature)
        if not self.hard:
            return soft
        binary = (score > 0).to(soft.dtype)
        return binary + (soft - soft.detach()) if self.training else binary

    def cache(self) -> None:
        super().cache()
        self.noise = None  # it takes as much memory as the weight

    def forward(self) -> Tensor:
        """M of this step: (D1, D2)."""
        return self.value()[0]

    def sparsity(self) -> Tensor:
        """L_sparse of this step: a scalar."""
        return self.value()[1]


class MLPMask(Mask):
    """Logits from an MLP with `rank` hidden units on fixed random inputs, one for every row of the weight. [ours]

    Z[i] = relu(u_i W1 + b1) W2 + b2; u: (D1, width) is not trained; Z[i]: 2 D2 numbers, on and off.
    """

    u: Tensor

    def __init__(self, shape, rank: int = 16, width: int = 16, generator: torch.Generator | None = None, **options):
        super().__init__(shape, **options)
        rows, columns = self.shape
        self.register_buffer("u", torch.randn(rows, width, generator=generator))
        self.W1 = nn.Parameter(torch.randn(width, rank, generator=generator) / width**0.5)
        self.b1 = nn.Parameter(torch.zeros(rank))
        self.W2 = nn.Parameter(torch.randn(rank, 2 * columns, generator=generator) / rank**0.5)
        self.b2 = nn.Parameter(torch.zeros(2 * columns))

    def logits(self) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.u @ self.W1 + self.b1)  # (D1, rank)
        (W_on, W_off), (b_on, b_off) = self.W2.chunk(2, dim=1), self.b2.chunk(2)
        return torch.addmm(b_on, hidden, W_on), torch.addmm(b_off, hidden, W_off)  # each (D1, D2)


class FactorMask(Mask):
    """Logits from low-rank factors without an MLP: Z = P Q, P: (D1, k), Q: (k, 2 D2). An ablation [ours]."""

    def __init__(self, shape, rank: int = 16, generator: torch.Generator | None = None, **options):
        super().__init__(shape, **options)
        rows, columns = self.shape
        self.P = nn.Parameter(torch.randn(rows, rank, generator=generator) / rank**0.5)
        self.Q = nn.Parameter(torch.randn(rank, 2 * columns, generator=generator))

    def logits(self) -> tuple[Tensor, Tensor]:
        on, off = self.Q.chunk(2, dim=1)
        return self.P @ on, self.P @ off


class FreeMask(Mask):
    """A free logit for every entry and class, twice the parameters of the weight. An ablation [ours]."""

    def __init__(self, shape, generator: torch.Generator | None = None, **options):
        super().__init__(shape, **options)
        rows, columns = self.shape
        self.Z = nn.Parameter(torch.randn(rows, 2 * columns, generator=generator))

    def logits(self) -> tuple[Tensor, Tensor]:
        on, off = self.Z.chunk(2, dim=1)
        return on, off


class RandomMask(Mask):
    """A fixed random mask that lets a share `density` of the entries change. An ablation [ours]."""

    open: Tensor

    def __init__(self, shape, density: float, generator: torch.Generator | None = None, **options):
        super().__init__(shape, **options)
        self.register_buffer("open", torch.rand(self.shape, generator=generator) < density)

    def compute(self) -> tuple[Tensor, Tensor]:
        return self.open.float(), torch.zeros((), device=self.open.device)
