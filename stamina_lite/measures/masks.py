"""Density and overlap of masks, and the share of past updates that a task changes again."""

import torch
from torch import Tensor


def density(mask: Tensor) -> float:
    """Share of ones in a {0, 1} mask, in [0, 1]."""
    return mask.double().mean().item()


def mask_overlap(m1: Tensor, m2: Tensor) -> tuple[float, float]:
    """Overlap |m1 ∧ m2| / |m1 ∨ m2| of two {0, 1} masks, and its chance level: (overlap, chance).  [ours]

    The chance level is that of independent masks of the same densities p, q: pq / (p + q − pq). Both are 0 when both
    masks are empty.
    """
    m1, m2 = m1.bool(), m2.bool()
    union = density(m1 | m2)
    if union == 0:
        return 0.0, 0.0
    p, q = density(m1), density(m2)
    return density(m1 & m2) / union, p * q / (p + q - p * q)


def touched(past: Tensor, step: Tensor) -> tuple[float, float]:
    """How much an update overlaps with the sum of all past updates of a weight.  [ours]

    Returns:
        share: the part of Σ|past| at entries where the step is not zero. A random mask of density p has share p.
        alignment: the cosine of |past| and |step|, 1 where both are large at the same entries.
        Both in [0, 1].
    """
    past, step = past.abs().double().flatten(), step.abs().double().flatten()
    share = past[step > 0].sum() / past.sum()
    return share.item(), torch.nn.functional.cosine_similarity(past, step, dim=0).item()
