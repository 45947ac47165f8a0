"""What needs no training: the diagonal of the Fisher information (EWC), and Custom Diffusion's merge of models."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def fisher_diagonal(losses: Iterable[Callable[[], Tensor]], weights: Sequence[Tensor]) -> list[Tensor]:
    """F = E[(∂ℓ/∂θ)²], the diagonal of the empirical Fisher information (EWC, Kirkpatrick et al. 2017, eq. 3).

    losses: one function a sample, giving its negative log-likelihood, a scalar; weights: tensors of any shape that
    require gradients. Returns a tensor of the same shape for each. The square is taken sample by sample: of a batch's
    mean gradient it would be something else.
    """
    total, count = [torch.zeros_like(w) for w in weights], 0
    for loss in losses:
        gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
        total = [f if g is None else f + g.square() for f, g in zip(total, gradients, strict=True)]
        count += 1
    return [f / count for f in total]


def merge(weight: Tensor, kept: Tensor, keys: Tensor, values: Tensor, ridge: float = 1e-4) -> Tensor:
    """One K or V matrix that answers each concept's words as that concept's own matrix did, and all others as before.

    Ŵ = argmin_W ‖(W − W_0) C_regᵀ‖²_F  subject to  W Cᵀ = V  (Custom Diffusion, Kumari et al. 2023, eqs. 4 and 5):
    Ŵ = W_0 + (V − W_0 Cᵀ)(d Cᵀ)⁻¹ d  with  d = C (C_regᵀ C_reg)⁻¹.

    weight: W_0 (D1, D2); kept: C_reg (m, D2), features of words that should keep their meaning; keys: C (n, D2);
    values: Vᵀ (n, D1). Float64 inside. Features of real sentences all but fill a subspace, so C_regᵀ C_reg gets `ridge`
    times its mean eigenvalue on the diagonal; where keys depend on each other, the least change that fits them best
    is taken.  [ours]
    """
    w, c_reg, c, v = (x.double() for x in (weight, kept, keys, values))
    gram = c_reg.T @ c_reg / len(c_reg)
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    d = torch.linalg.solve(gram, c.T).T  # (n, D2)
    change = (v.T - w @ c.T) @ torch.linalg.pinv(d @ c.T, rtol=1e-6) @ d
    return (w + change).to(weight)
