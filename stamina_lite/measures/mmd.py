"""MMD² between two sets of pictures in feature space, its bootstrap interval, and A_mmd and F_mmd.

Everything here is arithmetic in float64 on tensors; pictures become features in features.py.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .intervals import _mean

Kernel = Callable[[Tensor, Tensor], Tensor]  # (n, d), (m, d) -> (n, m)


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x·y + 1)³ on unit vectors: from 0 (opposite) over 1 (orthogonal) to 8 (equal).  [ours]

    The paper's kernel is polynomial, its MMD printed ×10³ [recalled]; ours is printed as it is. Scale, on lite0 and
    mini50: 0 ± 0.2 within a concept (8 against 8 pictures), about 4 between two people or two waterfalls.
    """
    return (x @ y.T + 1) ** 3


def kid_kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (x·y / d + 1)³, the kernel of KID (Bińkowski et al. 2018, arXiv 1801.01401), d = x.shape[1].

    KID is meant for features that are not normalised (|x|² of the order of d). On ours, which are unit vectors, x·y / d
    is at most 1 / d and the kernel all but linear: values are small (0.001 between two people), and compare only with
    others of the same features.
    """
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2(x: Tensor, y: Tensor, *, kernel: Kernel = cubic, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy of two samples of any two sizes; it can be negative.

    MMD² = Σ_{i≠j} k(x_i, x_j) / n(n-1) + Σ_{i≠j} k(y_i, y_j) / m(m-1) − 2 Σ_{i,j} k(x_i, y_j) / nm
    (Gretton et al. 2012, JMLR 13, eq. 3)  x: (n, d), y: (m, d), n, m ≥ 2.

    paired: x_i and y_i were drawn from the same noise, so they are alike beyond what their distributions are, and MMD²
    comes out too low. The pairs (i, i) are then left out of the last sum, which has n(n-1) terms left and is unbiased
    again  [ours].
    Raises ValueError on fewer than two rows, or on pairs that do not match.
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
    """Percentile interval (low, high) of MMD² when the pictures, rows of x and of y, are drawn anew.  [ours]

    A picture drawn twice is not two independent pictures: its pair with itself has the largest kernel value, and plain
    resampling lifts every replicate by about (k(x, x) − mean k(x, x')) / n for each sample. So rows get multiplicities
    w, v instead of being copied, and the sums within a sample run over pairs of *different* pictures, weighted:
    Σ_{i≠j} w_i w_j k_ij / Σ_{i≠j} w_i w_j. Replicates then scatter about mmd2(x, y) itself. Paired rows are drawn
    together, and the cross term leaves out the same pairs.

    When both samples are of one distribution MMD² is degenerate and the bootstrap is only approximate (Arcones & Giné
    1992): intervals come out wide. At 8 pictures a side any interval is rough.
    """
    generator = torch.Generator().manual_seed(seed)
    w = _multiplicities(n, len(x), generator)
    v = w if paired else _multiplicities(n, len(y), generator)
    values = _weighted_mmd2(*_grams(x, y, kernel, paired), w, v, paired)
    values = values[values.isfinite()]  # of few pictures a draw may hold one only, which has no pairs
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
    """A_mmd = (1/N) Σ_j MMD(X_{D,j}, X_{N,j}): what the final model knows; lower is better.  [paper]

    mmd_final: N values, mmd2(real, generated after task N) of each concept.
    """
    return _mean(mmd_final)


def f_mmd(mmd_since_learned: Sequence[float]) -> float:
    """F_mmd = (1/(N−1)) Σ_{j<N} MMD(X_{j,j}, X_{N,j}): how far concepts drifted; lower is better.  [paper]

    mmd_since_learned: N − 1 values, mmd2(generated after task j, generated after task N) of each concept but the last.
    If both used the same noise, from mmd2(..., paired=True). 0 when there is one concept only.
    """
    return _mean(mmd_since_learned)
