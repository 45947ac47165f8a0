"""MMD² between two sets of pictures in feature space, its bootstrap interval, and A_mmd and F_mmd.

All functions compute in float64 on features, which features.py extracts from pictures.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .intervals import _mean

Kernel = Callable[[Tensor, Tensor], Tensor]  # (n, d), (m, d) -> (n, m)


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x·y + 1)³ on unit vectors: 0 if opposite, 1 if orthogonal, 8 if equal.  [ours]

    The paper's kernel is polynomial and its MMD is printed ×10³ [recalled]; ours is not scaled. On lite0 and mini50 it
    is 0 ± 0.2 within a concept (8 against 8 pictures) and about 4 between two people or two waterfalls.
    """
    return (x @ y.T + 1) ** 3


def kid_kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x·y / d + 1)³, the kernel of KID (Bińkowski et al. 2018, arXiv 1801.01401), d = x.shape[1].

    KID is defined for features that are not normalised (|x|² of the order of d). On unit vectors x·y / d is at most 1 /
    d and the kernel almost linear: values are small (0.001 between two people) and comparable only for equal features.
    """
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2(x: Tensor, y: Tensor, *, kernel: Kernel = cubic, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy of two samples of any two sizes; it can be negative.

    MMD² = Σ_{i≠j} k(x_i, x_j) / n(n-1) + Σ_{i≠j} k(y_i, y_j) / m(m-1) − 2 Σ_{i,j} k(x_i, y_j) / nm
    (Gretton et al. 2012, JMLR 13, eq. 3)  x: (n, d), y: (m, d), n, m ≥ 2.

    paired: x_i and y_i were generated from the same noise, which makes them more similar than their distributions are
    and would bias MMD² downwards. The pairs (i, i) are left out of the last sum, which then has n(n-1) terms and is
    unbiased [ours]. Raises ValueError for fewer than two rows, or paired samples of different sizes.
    """
    grams = _grams(x, y, kernel, paired)
    return _weighted_mmd2(*grams, torch.ones(1, len(x)).double(), torch.ones(1, len(y)).double(), paired).item()


def kid(x: Tensor, y: Tensor) -> float:
    """Kernel distance of KID over the whole samples, as one subset: x (n, d), y (m, d). Scale: `kid_kernel`."""
    return mmd2(x, y, kernel=kid_kernel)


def bootstrap(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel = cubic,
    paired: bool = False,
    n: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of MMD² over the pictures, the rows of x and of y.  [ours]

    A picture that is resampled twice would form a pair with itself, which has the largest kernel value, and bias every
    replicate upwards by about (k(x, x) − mean k(x, x')) / n for each sample. Rows therefore get multiplicities w, v,
    and the sums within a sample run over pairs of *different* pictures: Σ_{i≠j} w_i w_j k_ij / Σ_{i≠j} w_i w_j.
    Replicates then scatter around mmd2(x, y). Paired rows are resampled together, and the cross term omits the same
    pairs.

    If both samples have the same distribution, MMD² is degenerate and the bootstrap only approximate (Arcones & Giné
    1992): intervals are too wide. With 8 pictures a side every interval is rough.
    """
    generator = torch.Generator().manual_seed(seed)
    w = _multiplicities(n, len(x), generator)
    v = w if paired else _multiplicities(n, len(y), generator)
    values = _weighted_mmd2(*_grams(x, y, kernel, paired), w, v, paired)
    values = values[values.isfinite()]  # a resample of few pictures may contain only one, which has no pairs
    tail = (1 - level) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return low, high


def _grams(x: Tensor, y: Tensor, kernel: Kernel, paired: bool) -> tuple[Tensor, Tensor, Tensor]:
    """k(x, x), k(x, y), k(y, y) in float64, with zeros where a pair does not count."""
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"MMD² needs two rows or more on each side: got {len(x)} and {len(y)}")
    if paired and len(x) != len(y):
        raise ValueError(f"paired samples are of one size: got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    k_xx, k_xy, k_yy = kernel(x, x), kernel(x, y), kernel(y, y)
    k_xx.fill_diagonal_(0)
    k_yy.fill_diagonal_(0)
    if paired:
        k_xy.fill_diagonal_(0)
    return k_xx, k_xy, k_yy


def _weighted_mmd2(k_xx: Tensor, k_xy: Tensor, k_yy: Tensor, w: Tensor, v: Tensor, paired: bool) -> Tensor:
    """MMD² once for every row of multiplicities: w: (b, n), v: (b, m) -> (b,). All ones give the plain estimate."""

    def mean_of_pairs(k: Tensor, a: Tensor, b: Tensor, without_diagonal: bool) -> Tensor:
        pairs = a.sum(1) * b.sum(1) - ((a * b).sum(1) if without_diagonal else 0)
        return ((a @ k) * b).sum(1) / pairs

    within = mean_of_pairs(k_xx, w, w, True) + mean_of_pairs(k_yy, v, v, True)
    return within - 2 * mean_of_pairs(k_xy, w, v, paired)


def _multiplicities(draws: int, size: int, generator: torch.Generator) -> Tensor:
    """How often each of `size` pictures occurs in a resample of as many: (draws, size), rows sum to size."""
    picks = torch.randint(size, (draws, size), generator=generator)
    return torch.zeros(draws, size).double().scatter_add_(1, picks, torch.ones(draws, size).double())


# Text-to-image: X_{i,j} are pictures of concept j generated after task i, X_{D,j} its real ones.


def a_mmd(mmd_final: Sequence[float]) -> float:
    """A_mmd = (1/N) Σ_j MMD(X_{D,j}, X_{N,j}): distance of the final model from the data; lower is better.  [paper]

    mmd_final: N values, mmd2(real, generated after task N) of each concept.
    """
    return _mean(mmd_final)


def f_mmd(mmd_since_learned: Sequence[float]) -> float:
    """F_mmd = (1/(N−1)) Σ_{j<N} MMD(X_{j,j}, X_{N,j}): how far concepts drifted; lower is better.  [paper]

    mmd_since_learned: N − 1 values, mmd2(generated after task j, generated after task N) of each concept but the last.
    If both used the same noise, from mmd2(..., paired=True). 0 when there is one concept only.
    """
    return _mean(mmd_since_learned)
