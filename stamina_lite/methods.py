"""Every method of the text-to-image tables: a short class that says how it differs, and no more."""

from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor, nn

from .adapters import FactorMask, FreeMask, Layer, LowRank, MaskedLowRank, MLPMask
from .data import UserError
from .tokens import MLP, Vector

MASKS = {"mlp": MLPMask, "factors": FactorMask, "free": FreeMask}


@dataclass(frozen=True)
class Settings:
    """How a concept is learned. The defaults are those of the embedded base; a method may start from others."""

    steps: int = 120  # training steps a concept
    batch: int = 8  # pictures a step
    rank: int = 16  # r of A: (D1, r), B: (r, D2); cut to what a small weight allows
    lr: float = 5e-3  # adapters
    lr_token: float = 2e-2  # token row or token MLP
    forget: float = 0.0  # λ of L_forget
    sparse: float = 0.0  # λ of L_sparse
    mask: str = "mlp"  # what makes the mask's logits: mlp, factors or free
    mask_rank: int = 16
    temperature: float = 1.0  # τ of the Gumbel-softmax
    hard: bool = True  # a binary mask, or a soft one

    def __post_init__(self):
        for name in ("steps", "batch", "rank", "mask_rank", "temperature", "lr", "lr_token"):
            if not getattr(self, name) > 0:  # refuses NaN too
                raise UserError(f"{name} must be above zero, not {getattr(self, name)}")
        for name in ("forget", "sparse"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be zero or more, not {getattr(self, name)}")
        if self.mask not in MASKS:
            raise UserError(f"unknown mask {self.mask}: choose one of {', '.join(MASKS)}")

    def changed(self, **options) -> "Settings":
        """A copy with some settings changed; unknown ones are refused."""
        known = {f.name for f in fields(self)}
        for name in options:
            if name not in known:
                raise UserError(f"unknown setting {name}: choose from {', '.join(sorted(known))}")
        return replace(self, **options)

    def as_dict(self) -> dict:
        return asdict(self)


class Method:
    """What a method trains and what it penalises. As it stands: a low-rank change, a token row, no penalty."""

    name = ""
    defaults: dict = {}

    def __init__(self, **options):
        self.settings = Settings().changed(**{**self.defaults, **options})

    def adapter(self, weight: Tensor, generator: torch.Generator) -> LowRank | None:
        """The change of a K or V matrix (D1, D2), or None where weights stay as they are."""
        return LowRank(weight, min(self.settings.rank, *weight.shape), generator)

    def token(self, start: Tensor, generator: torch.Generator) -> nn.Module:
        """What produces the token's row from a random start (width,)."""
        return Vector(start, generator)

    def penalty(self, layer: Layer) -> Tensor | None:
        """What a layer adds to the loss, weighed by its λ: a scalar, or None."""
        return None


class LoRA(Method):
    """LoRA on K and V, one concept after another, with nothing against forgetting (W_t = W_{t-1} + A_t B_t)."""

    name = "lora"


class CLoRA(Method):
    """LoRA with self-regularisation (C-LoRA, eqs. 1-3 [paper])."""

    name = "c-lora"
    defaults = {"forget": 0.3}  # this and STAMINA's: lowest A_mmd on tune5, results/tuning

    def penalty(self, layer):
        return self.settings.forget * l_forget(layer)


class Stamina(Method):
    """C-LoRA's update under a learned hard mask, and a token from an MLP (STAMINA, eq. 4 [paper]; details [ours])."""

    name = "stamina"
    defaults = {"forget": 3.0, "sparse": 0.1}

    def adapter(self, weight, generator):
        s = self.settings
        options = {"rank": min(s.mask_rank, *weight.shape)} if s.mask != "free" else {}
        mask = MASKS[s.mask](weight.shape, generator=generator, temperature=s.temperature, hard=s.hard, **options)
        return MaskedLowRank(weight, min(s.rank, *weight.shape), mask, generator)

    def token(self, start, generator):
        return MLP(start, generator)

    def penalty(self, layer):
        value = self.settings.sparse * layer.adapter.mask.sparsity()
        return value + self.settings.forget * l_forget(layer) if self.settings.forget else value


class StaminaNoMask(Stamina):
    """Ablation: the MLP token, but a plain low-rank update."""

    name = "stamina-no-mask"
    defaults = {"forget": Stamina.defaults["forget"]}  # without a mask there is no L_sparse
    adapter = Method.adapter
    penalty = CLoRA.penalty


class StaminaNoTokenMLP(Stamina):
    """Ablation: the mask, but a plain token row."""

    name = "stamina-no-token-mlp"
    token = Method.token


class StaminaNeither(StaminaNoMask):
    """Ablation: neither mask nor token MLP: C-LoRA at STAMINA's settings."""

    name = "stamina-neither"
    token = Method.token


class StaminaNoForget(Stamina):
    """Ablation: masks alone against forgetting, without L_forget."""

    name = "stamina-no-forget"
    defaults = {**Stamina.defaults, "forget": 0.0}


class TextualInversion(Method):
    """Only the token's row is trained; the model stays as it is (Gal et al. 2022)."""

    name = "ti"

    def adapter(self, weight, generator):
        return None


class TextualInversionPlus(TextualInversion):
    """Textual Inversion with STAMINA's MLP token; our reading of the table's TI++ [ours]."""

    name = "ti++"
    token = Stamina.token


def l_forget(layer: Layer) -> Tensor:
    """‖ |Σ_{t'<t} A_t' B_t'| ⊙ A_t B_t ‖²_F of one matrix (C-LoRA, eq. 3 [paper]); the caller sums over layers."""
    return (layer.past.abs() * layer.delta()).square().sum()


METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        LoRA, CLoRA, Stamina, StaminaNoMask, StaminaNoTokenMLP, StaminaNeither, StaminaNoForget,
        TextualInversion, TextualInversionPlus,
    )
}  # fmt: skip


def make_method(name: str, **options) -> Method:
    """A method by its name, with settings that differ from its defaults. Raises UserError for unknown names."""
    if name not in METHODS:
        raise UserError(f"unknown method {name}: choose one of {', '.join(METHODS)}")
    return METHODS[name](**options)
