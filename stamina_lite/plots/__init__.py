"""The figures: every function returns a matplotlib Figure, drawn from stored results alone."""

from .attention import word_figure
from .classes import (
    accuracy_curves,
    accuracy_matrix,
    head_accuracy,
    head_ranking,
    learned_and_kept,
    mask_overlap,
    predictions,
    ranking,
)
from .concepts import (
    accuracy,
    drift_sheet,
    forgetting,
    load_results,
    plasticity,
    run_sheet,
    sheet,
    weight_change,
)
from .masks import load_masks, mask_panel, mask_pictures
from .quiz import quiz
from .style import colour

__all__ = [
    "accuracy", "accuracy_curves", "accuracy_matrix", "colour", "drift_sheet", "forgetting", "head_accuracy",
    "head_ranking", "learned_and_kept", "load_masks", "load_results", "mask_overlap", "mask_panel", "mask_pictures",
    "plasticity", "predictions", "quiz", "ranking", "run_sheet", "sheet", "weight_change", "word_figure",
]  # fmt: skip
