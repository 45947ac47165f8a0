"""What a task changed in a model's weights."""

from dataclasses import dataclass, field, fields

from torch import Tensor

from ..core.adaptation import Adaptation
from ..measures.masks import mask_overlap, touched


@dataclass
class Change:
    """What a task changed in the weights. Numbers are means over weights."""

    weight_change: float = 0.0  # ‖W_t - W_init‖
    step_change: float = 0.0  # ‖W_t - W_{t-1}‖
    touched: float | None = None  # share of Σ|W_{t-1} - W_init| where ΔW_t is not zero
    alignment: float | None = None  # cosine of |W_{t-1} - W_init| and |ΔW_t|
    mask_density: float | None = None  # share of weights that the folded masks let change
    masks: dict[str, Tensor] = field(default_factory=dict)  # name of a weight -> (D1, D2) bool

    def numbers(self) -> dict:
        """All but the masks: what a task's record contains."""
        return {f.name: getattr(self, f.name) for f in fields(Change) if f.name != "masks"}


def change_of(adaptation: Adaptation) -> Change:
    """What a task changed. Call after the fold."""
    layers = adaptation.layers
    moved = [(old - layer.start, layer.current - old) for old, layer in zip(adaptation.before, layers, strict=True)]
    shares = [touched(past, step) for past, step in moved if past.any() and step.any()]
    masks = adaptation.masks
    return Change(
        weight_change=mean([(layer.current - layer.start).norm().item() for layer in layers]),
        step_change=mean([step.norm().item() for _, step in moved]),
        touched=mean([share for share, _ in shares]) if shares else None,
        alignment=mean([cosine for _, cosine in shares]) if shares else None,
        mask_density=mean([m.float().mean().item() for m in masks.values()]) if masks else None,
        masks=masks,
    )


def mean_overlap(before: dict, now: dict) -> dict | None:
    """Overlap of two tasks' masks and its chance level, means over weights; None unless both tasks have masks."""
    if not before or not now:
        return None
    pairs = [mask_overlap(before[name], now[name]) for name in now]
    return {"overlap": mean([p[0] for p in pairs]), "chance": mean([p[1] for p in pairs])}


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
