"""Measures of learning and forgetting, computed from image features and accuracies."""

from .accuracy import (
    accuracy_by_task,
    backward_transfer,
    concept_accuracy,
    directions,
    final_mean,
    forgetting_chaudhry,
    forgetting_coda,
    forgetting_mammoth,
    mean_of_running_means,
    nearest_concepts,
)
from .alignment import image_alignment, text_alignment
from .intervals import Number, mean_interval, mean_of_pairs, number
from .mmd import a_mmd, bootstrap, cubic, f_mmd, kid, kid_kernel, mmd2

__all__ = [
    "Number", "a_mmd", "accuracy_by_task", "backward_transfer", "bootstrap", "concept_accuracy", "cubic", "directions",
    "f_mmd", "final_mean", "forgetting_chaudhry", "forgetting_coda", "forgetting_mammoth", "image_alignment", "kid",
    "kid_kernel", "mean_interval", "mean_of_pairs", "mean_of_running_means", "mmd2", "nearest_concepts", "number",
    "text_alignment",
]  # fmt: skip
