"""Subspaces of a layer's inputs that past tasks use (GPM, InfLoRA)."""

from collections import Counter

import torch
from torch import Tensor, nn


@torch.no_grad()
def input_covariances(model, images, most: int = 256) -> dict[nn.Module, Tensor]:
    """E[x xᵀ] of the inputs of a classifier's adapted modules, over all tokens of at most `most` images.

    Returns:
        {module: (D2, D2)}, float64, of images without augmentation.
    """
    modules = {layer.module for layer in model.layers}
    sums: dict[nn.Module, Tensor] = {}
    tokens: Counter[nn.Module] = Counter()

    def listen(module, inputs):
        x = inputs[0].flatten(0, -2).double()
        sums[module] = sums.get(module, 0) + x.T @ x
        tokens[module] += len(x)

    hooks = [module.register_forward_pre_hook(listen) for module in modules]
    indices = images.indices[:: -(-len(images.indices) // most)]  # evenly from all classes
    try:
        for x in images.dataset.stream(indices.split(64)):
            model.features(x.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return {module: total / tokens[module] for module, total in sums.items()}


def without(covariance: Tensor, space: Tensor | None) -> Tensor:
    """The covariance of inputs outside a subspace, (I − M Mᵀ) C (I − M Mᵀ). space: M (D2, k), orthonormal columns."""
    if space is None:
        return covariance
    m = space.double()
    free = torch.eye(len(m), dtype=m.dtype, device=m.device) - m @ m.T
    return free @ covariance @ free


def leading(covariance: Tensor, space: Tensor | None, rank: int) -> Tensor:
    """The `rank` leading directions of inputs outside a subspace: (rank, D2), orthonormal rows, fp32."""
    _, vectors = torch.linalg.eigh(without(covariance, space))  # by rising eigenvalue
    found = vectors.T.flip(0)[:rank]
    if space is not None:  # where nothing is left outside, eigenvectors of zero may lie inside
        found = found - found @ space.double() @ space.double().T
    return found.float()


def grow(space: Tensor | None, covariance: Tensor, threshold: float) -> Tensor:
    """Extend a subspace until it contains `threshold` of the inputs' energy: (D2, k) -> (D2, k' ≥ k), fp32.

    Energy is the trace of the covariance (GPM, Saha et al. 2021, eq. 9).
    """
    values, vectors = torch.linalg.eigh(without(covariance, space))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    contained = covariance.trace() - values.sum()
    missing = threshold * covariance.trace() - contained
    more = int((values.cumsum(0) < missing).sum()) + 1 if missing > 0 else 0
    old = covariance.new_zeros(len(covariance), 0) if space is None else space.double()
    wider = torch.linalg.qr(torch.cat([old, vectors[:, :more]], 1))[0]
    return wider[:, : min(wider.shape)].float()
