"""The settings of a method: their help, ranges and defaults. Loads no torch, so that `--help` answers at once."""

import math
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any

from ..errors import UserError

GUIDANCE = 1.5  # scale of classifier-free guidance; the default is that of the embedded base
MASKS = ("mlp", "factors", "free", "random")
RENAMED = {  # names in runs and grids of earlier versions
    "forget": "lambda_forget",
    "sparse": "lambda_sparse",
    "cool": "noise_anneal",
    "decay": "merge_exponent",
    "drawn": "n_prior",
    "prior": "lambda_prior",
}


def setting(default, text: str, above=None, least=None, most=None, choices=None) -> Any:
    """A dataclass field with its help and its range.

    Args:
        default: its value where nothing else is given.
        text: the help on the command line.
        above, least, most: the value is > above, >= least and <= most, where these are given.
        choices: the only values there are.
    """
    return field(default=default, metadata={"help": text, "range": (above, least, most), "choices": choices})


@dataclass(frozen=True)
class AdapterSettings:
    """How weights are changed in a task, whatever the model and the data are. A method may start from others.

    Raises:
        UserError: a value is out of its range.
    """

    batch: int = setting(8, "images a step", above=0)
    rank: int = setting(16, "rank r of A (D1, r) and B (r, D2), at most that of the weight", above=0)
    lr: float = setting(5e-3, "learning rate of adapters, weights or prompts", above=0)
    lambda_forget: float = setting(0.0, "weight of L_forget, or of EWC's penalty", least=0)
    lambda_sparse: float = setting(0.0, "weight of L_sparse", least=0)
    mask: str = setting("mlp", "what the mask's logits come from", choices=MASKS)
    mask_rank: int = setting(16, "hidden units of the mask's MLP, or rank of its factors", above=0)
    temperature: float = setting(1.0, "temperature of the mask's Gumbel-softmax", above=0)
    noise_anneal: float = setting(0.0, "share of the steps in which the Gumbel noise falls to zero; 0: never", least=0)
    hard: bool = setting(True, "a binary mask, not a soft one")
    density: float = setting(0.08, "share of weights that a random mask or pruning keeps", above=0, most=1)
    merge_exponent: float = setting(1.0, "p of lora-scaled: task t's update is merged times t^-p", least=0)
    n_prior: int = setting(64, "images for EWC's Fisher information, or prior images", above=0)

    def __post_init__(self):
        for f in fields(self):
            check(f, getattr(self, f.name))

    def changed(self, **options):
        """A copy with some settings changed. Raises UserError for an unknown one."""
        known = {f.name for f in fields(self)}
        options = renamed(options)
        for name in options:
            if name not in known:
                raise UserError(f"unknown setting {name}: choose from {', '.join(sorted(known))}")
        return replace(self, **options)

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Settings(AdapterSettings):
    """How a concept is learned. The defaults are those of the embedded base; a method may start from others."""

    steps: int = setting(120, "training steps a concept", above=0)
    lr_token: float = setting(2e-2, "learning rate of the token, a row or an MLP", above=0)
    lambda_prior: float = setting(0.0, "weight of the loss on prior images, half a batch a step", least=0)
    guidance: float = setting(GUIDANCE, "guidance scale of all images the model draws; Stable Diffusion: 7.5", least=1)
    prior_prompts: str = setting("a photo of a person; a photo of a waterfall", "prompts of the prior images, with ;")


@dataclass(frozen=True)
class ClassSettings(AdapterSettings):
    """How a task of classes is learned."""

    epochs: int = setting(5, "how often each image of a task is seen", above=0)
    batch: int = setting(32, "images a step", above=0)
    lr: float = setting(1e-3, "learning rate of adapters, weights or prompts", above=0)
    lr_head: float = setting(5e-3, "learning rate of the head", above=0)
    distill: float = setting(1.0, "weight of LwF's loss on past classes", least=0)
    threshold: float = setting(0.98, "InfLoRA: share of past inputs in the protected subspace", above=0, most=1)


def check(f: Field, value) -> None:
    """Raise UserError where a setting's value is out of its range."""
    above, least, most = f.metadata["range"]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{f.name} must be a finite number, not {value}")
    if isinstance(value, int) and value > 2**31:
        raise UserError(f"{f.name} must be smaller than {value}")
    if above is not None and not value > above:
        raise UserError(f"{f.name} must be above {above}, not {value}")
    if least is not None and not value >= least:
        raise UserError(f"{f.name} must be {least} or more, not {value}")
    if most is not None and not value <= most:
        raise UserError(f"{f.name} must be at most {most}, not {value}")
    if f.metadata["choices"] and value not in f.metadata["choices"]:
        raise UserError(f"unknown {f.name} {value}: choose one of {', '.join(f.metadata['choices'])}")


def renamed(settings: dict) -> dict:
    """Settings by their present names."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}
