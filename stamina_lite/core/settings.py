"""The settings of a method, checked when they are made."""

import math
from dataclasses import asdict, dataclass, fields, replace

from ..errors import UserError
from .masks import FactorMask, FreeMask, MLPMask, RandomMask

GUIDANCE = 1.5  # scale of classifier-free guidance; the default is that of the embedded base
POSITIVE = ("steps", "epochs", "batch", "rank", "mask_rank", "temperature", "lr", "lr_token", "lr_head", "drawn")
NOT_NEGATIVE = ("forget", "sparse", "cool", "prior", "decay", "distill")
MASKS = {"mlp": MLPMask, "factors": FactorMask, "free": FreeMask, "random": RandomMask}


@dataclass(frozen=True)
class AdapterSettings:
    """How weights are changed in a task, whatever the model and the data are. A method may start from others."""

    batch: int = 8  # pictures a step
    rank: int = 16  # r of A: (D1, r), B: (r, D2); cut to what a small weight allows
    lr: float = 5e-3  # adapters
    forget: float = 0.0  # λ of L_forget, or of EWC's penalty
    sparse: float = 0.0  # λ of L_sparse
    mask: str = "mlp"  # what makes the mask's logits: mlp, factors, free, or random for a fixed mask
    mask_rank: int = 16
    temperature: float = 1.0  # τ of the Gumbel-softmax
    cool: float = 0.0  # share of the steps in which its noise falls to zero; 0: it stays to the last
    hard: bool = True  # a binary mask, or a soft one
    density: float = 0.08  # share of weights that a random mask leaves open, or that pruning keeps
    decay: float = 1.0  # p of the scaled merge: task t's update is folded times t^-p
    drawn: int = 64  # pictures that EWC's Fisher information is taken of, or that the base draws for training beside

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{field.name} must be a finite number, not {value}")
            if isinstance(value, int) and value > 2**31:
                raise UserError(f"{field.name} must be smaller than {value}")
            if field.name in POSITIVE and not value > 0:
                raise UserError(f"{field.name} must be above zero, not {value}")
            if field.name in NOT_NEGATIVE and not value >= 0:
                raise UserError(f"{field.name} must be zero or more, not {value}")
        if not 0 < self.density <= 1:
            raise UserError(f"density must be above 0 and at most 1, not {self.density}")
        if self.mask not in MASKS:
            raise UserError(f"unknown mask {self.mask}: choose one of {', '.join(MASKS)}")

    def changed(self, **options):
        """A copy with some settings changed; unknown ones are refused."""
        known = {f.name for f in fields(self)}
        for name in options:
            if name not in known:
                raise UserError(f"unknown setting {name}: choose from {', '.join(sorted(known))}")
        return replace(self, **options)

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Settings(AdapterSettings):
    """How a concept is learned. The defaults are those of the embedded base; a method may start from others."""

    steps: int = 60  # training steps a concept
    lr_token: float = 2e-2  # token row or token MLP
    prior: float = 0.0  # weight of the loss on pictures that the model itself drew, half a batch beside each batch
    guidance: float = GUIDANCE  # and with which scale of classifier-free guidance they are drawn
    prior_prompts: str = "a photo of a person; a photo of a waterfall"  # what of; replay draws past concepts instead

    def __post_init__(self):
        super().__post_init__()
        if not self.guidance >= 1:
            raise UserError(f"guidance must be a number from 1, not {self.guidance}")


@dataclass(frozen=True)
class ClassSettings(AdapterSettings):
    """How a task of classes is learned."""

    epochs: int = 5
    batch: int = 32
    lr: float = 1e-3  # what changes inside: adapters, weights, or prompts
    lr_head: float = 5e-3
    distill: float = 1.0  # weight of LwF's loss on past classes
    threshold: float = 0.98  # InfLoRA: share of the past inputs that the protected subspace holds

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold must be above 0 and at most 1, not {self.threshold}")
