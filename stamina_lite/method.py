"""What a method of continual learning may decide, and the settings it starts from."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Layer, LowRank, Update
from .drawing import GUIDANCE
from .errors import UserError
from .masks import FactorMask, FreeMask, MLPMask, RandomMask
from .tokens import Vector

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


class Method:
    """What a method trains and what it penalises. As it stands: a low-rank change, a token row, no penalty.

    Hooks are called in the order in which they stand here. `model` is what learns: a `diffusion.TextToImage` or a
    `classification.Classifier`; `pictures` are the task's own, as that model is trained on them.
    """

    name = ""
    settings: Any  # `Settings`, or `class_methods.ClassSettings`
    defaults: dict = {}  # for text-to-image; those for classification stand in `class_methods`
    everywhere = False  # every weight may change, not only K and V (of a U-Net: those of its cross-attention)
    parts = "kv"  # which of a ViT's Q, K and V may change where not every weight may
    joint = False  # everything is learned at once, round after round, and not one task after another
    alone = False  # every concept has a model of its own, which is kept: nothing is merged
    local = True  # a classifier's loss compares the classes of the task with one another, not with those of the past
    head = True  # its head is trained

    def __init__(self, settings: AdapterSettings | None = None, **options):
        """settings: those to learn by; without them the method's defaults for text-to-image, changed by options."""
        self.settings = settings or Settings().changed(**{**self.defaults, **options})

    def prompts(self, width: int, depth: int, tasks: int, generator: torch.Generator) -> Any:
        """A `prompts.Pool` for a ViT of so many blocks, made once for all tasks, or None."""
        return None

    def begin(self, model, pictures) -> None:
        """Before a task: what the weights should be when it starts."""

    def beside(self, model, generator: torch.Generator) -> Any:
        """Pictures that are trained beside the concept's, weighed by `prior` if that is above zero, or None."""
        prompts = [prompt.strip() for prompt in self.settings.prior_prompts.split(";")]
        return model.base_pictures(prompts, self.settings.drawn, self.settings.guidance)

    def token(self, start: Tensor, generator: torch.Generator) -> nn.Module:
        """What produces the token's row from its start (width,)."""
        return Vector(start, generator)

    def adapter(self, layer: Layer, generator: torch.Generator) -> Update | None:
        """The change of a weight, or None where it stays as it is."""
        return LowRank(layer.current, min(self.settings.rank, *layer.current.shape), generator)

    def penalty(self, layer: Layer) -> Tensor | None:
        """What a layer adds to the loss, weighed by its λ: a scalar, or None."""
        return None

    def guide(self, model, x: Tensor, logits: Tensor) -> Tensor | None:
        """What a batch of pictures adds to a classifier's loss: a scalar, or None. logits: (n, classes)."""
        return None

    def folded(self, delta: Tensor, task: int) -> Tensor:
        """What of a weight's learned change is kept after the task."""
        return delta

    def end(self, model, pictures, generator: torch.Generator) -> None:
        """After folding: what later tasks need to know of this one goes to `layer.memory`."""
