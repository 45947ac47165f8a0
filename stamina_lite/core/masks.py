"""Masks of a weight: which of its entries a task may change. Learned by the Gumbel-softmax, or fixed."""

from typing import Any

import torch
from torch import Tensor, nn


class CachedPerStep(nn.Module):
    """What the model and the penalties of a training step all ask for: computed once from `hold` to `release`."""

    cached: Any = None

    def compute(self) -> Any:
        raise TypeError(f"{type(self).__name__} computes nothing")

    def cache(self) -> None:
        self.cached = self.compute()

    def clear_cache(self) -> None:
        self.cached = None

    def value(self) -> Any:
        """As it is held, or else computed."""
        return self.compute() if self.cached is None else self.cached


class Mask(CachedPerStep):
    """A (D1, D2) mask drawn from learned logits by the Gumbel-softmax of two classes, on and off.

    M = GumbelSoftmax(Z, τ)[on], rounded to {0, 1} with the soft gradient kept (straight through) unless `hard` is off.
    In `eval` there is no noise: M = 1[Z_on > Z_off]. The construction is our reconstruction [ours] of what the paper
    says in words: hard-attention masks, made by low-rank MLPs with Gumbel-softmax [paper].
    """

    def __init__(self, shape: torch.Size, temperature: float = 1.0, hard: bool = True):
        super().__init__()
        self.shape, self.temperature, self.hard = torch.Size(shape), temperature, hard
        self.noise: Tensor | None = None

    def logits(self) -> tuple[Tensor, Tensor]:
        """Z_on and Z_off, each (D1, D2)."""
        raise TypeError(f"{type(self).__name__} defines no logits")

    def sample_noise(self, generator: torch.Generator, strength: float = 1.0) -> None:
        """Draw a step's Gumbel noise where the generator is; the difference of two Gumbel variables is logistic.

        Where it is weakened (strength below 1), a step trains fewer weights that the fold will leave out.
        """
        noise = torch.rand(self.shape, generator=generator, device=generator.device)
        self.noise = strength * noise.clamp_(1e-6, 1 - 1e-6).logit_()

    def compute(self) -> tuple[Tensor, Tensor]:
        """M (D1, D2), and L_sparse = mean(relu(Z_on)), which presses on the positive outputs of the mask network
        [paper; this form ours].
        """
        on, off = self.logits()
        return self.sample(on - off), torch.where(on > 0, on, 0).mean()  # a relu would keep a copy for its backward

    def sample(self, score: Tensor) -> Tensor:
        """M of Z_on - Z_off, with the noise of this step."""
        if self.training and self.noise is not None:
            score = score + self.noise.to(score.device)
        soft = torch.sigmoid(score / self.temperature)
        if not self.hard:
            return soft
        binary = (score > 0).to(soft.dtype)
        return binary + (soft - soft.detach()) if self.training else binary

    def cache(self) -> None:
        """The noise is used up: at the size of a large model it fills as much memory as its weights."""
        super().cache()
        self.noise = None

    def forward(self) -> Tensor:
        """M, as the present step has it."""
        return self.value()[0]

    def sparsity(self) -> Tensor:
        """L_sparse of the same."""
        return self.value()[1]


class MLPMask(Mask):
    """Logits from a two-layer MLP of `rank` hidden units on a fixed random input, one input vector a row of the weight.

    Z[i] = relu(u_i W1 + b1) W2 + b2, u: (D1, width) never trained, Z[i]: 2 D2 numbers (on, off). [ours]
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
    """Logits from plain low-rank factors, without the MLP: Z = P Q, P: (D1, k), Q: (k, 2 D2). An ablation [ours]."""

    def __init__(self, shape, rank: int = 16, generator: torch.Generator | None = None, **options):
        super().__init__(shape, **options)
        rows, columns = self.shape
        self.P = nn.Parameter(torch.randn(rows, rank, generator=generator) / rank**0.5)
        self.Q = nn.Parameter(torch.randn(rank, 2 * columns, generator=generator))

    def logits(self) -> tuple[Tensor, Tensor]:
        on, off = self.Q.chunk(2, dim=1)
        return self.P @ on, self.P @ off


class FreeMask(Mask):
    """A free logit for every weight and class. An ablation [ours]: it costs twice the weight itself while training."""

    def __init__(self, shape, generator: torch.Generator | None = None, **options):
        super().__init__(shape, **options)
        rows, columns = self.shape
        self.Z = nn.Parameter(torch.randn(rows, 2 * columns, generator=generator))

    def logits(self) -> tuple[Tensor, Tensor]:
        on, off = self.Z.chunk(2, dim=1)
        return on, off


class RandomMask(Mask):
    """A fixed mask, drawn once: `density` of the weights are open, nothing of it is learned. An ablation [ours]."""

    open: Tensor

    def __init__(self, shape, density: float, generator: torch.Generator | None = None, **options):
        super().__init__(shape, **options)
        self.register_buffer("open", torch.rand(self.shape, generator=generator) < density)

    def compute(self) -> tuple[Tensor, Tensor]:
        return self.open.float(), torch.zeros((), device=self.open.device)  # there is nothing to press on


# Masks of STAMINA: boolean or {0, 1} tensors of a weight's shape.


def density(mask: Tensor) -> float:
    """Share of the weights that a mask lets change, in [0, 1]."""
    return mask.double().mean().item()


def mask_overlap(m1: Tensor, m2: Tensor) -> tuple[float, float]:
    """Overlap |m1 ∧ m2| / |m1 ∨ m2| of two masks, and what chance would give: (overlap, chance).  [ours]

    Chance is that of independent masks of the same densities p, q: pq / (p + q − pq). Both 0 when both masks are empty.
    """
    m1, m2 = m1.bool(), m2.bool()
    union = density(m1 | m2)
    if union == 0:
        return 0.0, 0.0
    p, q = density(m1), density(m2)
    return density(m1 & m2) / union, p * q / (p + q - p * q)
