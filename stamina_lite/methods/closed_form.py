"""The diagonal of the Fisher information (EWC) and Custom Diffusion's closed-form merge of models."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def fisher_diagonal(losses: Iterable[Callable[[], Tensor]], weights: Sequence[Tensor]) -> list[Tensor]:
    """F = E[(∂ℓ/∂θ)²], the diagonal of the empirical Fisher information (EWC, Kirkpatrick et al. 2017, eq. 3).

    losses: one function a sample, giving its negative log-likelihood, a scalar; weights: tensors of any shape that
    require gradients. Returns a tensor of the same shape for each, at least in fp32. The square is taken sample by
    sample: of a batch's mean gradient it would be something else. In fp16 the loss is scaled, as in training, until
    the largest gradient just fits: of the loss as it is most gradients would be zero.
    """
    total, count = [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights], 0
    scale = 2.0**16 if any(w.dtype == torch.float16 for w in weights) else 1.0
    for loss in losses:
        value = loss()  # once: it may draw noise
        gradients = torch.autograd.grad(scale * value, weights, allow_unused=True, retain_graph=scale > 1)
        while scale > 1 and not all(g is None or g.isfinite().all() for g in gradients):
            scale /= 2
            gradients = torch.autograd.grad(scale * value, weights, allow_unused=True, retain_graph=scale > 1)
        total = [f if g is None else f + (g.to(f) / scale).square() for f, g in zip(total, gradients, strict=True)]
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
