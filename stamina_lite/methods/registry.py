"""Every method by its name, with the settings it starts from in either half."""

from ..core.method import Method
from ..core.settings import ClassSettings
from ..errors import UserError
from . import prompts
from .classifiers import (
    CLoRAMeans,
    ElasticWeightConsolidation,
    FineTuning,
    FineTuningLocal,
    InfLoRA,
    Joint,
    LearningWithoutForgetting,
    NearestClassMean,
    SDLoRA,
    StaminaMeans,
)
from .finetuning import (
    CustomDiffusion,
    CustomDiffusionEWC,
    CustomDiffusionMerge,
    DreamBooth,
    GenerativeReplay,
    Offline,
    TextualInversion,
    TextualInversionPlus,
)
from .lora import (
    CLoRA,
    LoRA,
    LoRAAlone,
    LoRAOrthogonal,
    LoRAPruned,
    LoRAScaled,
    Stamina,
    StaminaFactorMask,
    StaminaFreeMask,
    StaminaNeither,
    StaminaNoForget,
    StaminaNoMask,
    StaminaNoSparsity,
    StaminaNoTokenMLP,
    StaminaRandomMask,
    StaminaSoftMask,
)

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        LoRA, CLoRA, Stamina,
        TextualInversion, TextualInversionPlus,
        DreamBooth, GenerativeReplay, CustomDiffusion, CustomDiffusionMerge, CustomDiffusionEWC, Offline,
        StaminaNoMask, StaminaNoTokenMLP, StaminaNeither, StaminaNoForget, StaminaNoSparsity,
        StaminaSoftMask, StaminaFactorMask, StaminaFreeMask, StaminaRandomMask,
        LoRAScaled, LoRAOrthogonal, LoRAPruned, LoRAAlone,
    )
}  # fmt: skip


def make_method(name: str, **options) -> Method:
    """A method by its name, with settings that differ from its defaults. Raises UserError for unknown names."""
    if name not in METHODS:
        raise UserError(f"unknown method {name}: choose one of {', '.join(METHODS)}")
    return METHODS[name](**options)


PLAIN = {"lr_head": 2.5e-3, "lambda_forget": 100.0}  # STAMINA's settings but for its mask; of its ablations too
MASKED = {**PLAIN, "lambda_sparse": 0.1}
# name -> class, and the settings it starts from: highest A_N on the tuning classes, results/tuning-classes
CLASS_METHODS: dict[str, tuple[type[Method], dict]] = {
    "ub": (Joint, {"lr": 1e-4, "lr_head": 2.5e-3}),
    "ft": (FineTuning, {"lr": 3e-5, "lr_head": 1e-2}),
    "ft++": (FineTuningLocal, {"lr": 3e-5}),
    "lwf": (LearningWithoutForgetting, {"lr": 1e-4, "distill": 10.0}),
    "ewc": (ElasticWeightConsolidation, {"lr": 1.5e-4, "lambda_forget": 1000.0}),
    "l2p++": (prompts.L2P, {"lr": 1e-2}),
    "deep-l2p++": (prompts.DeepL2P, {"lr": 1e-2, "lr_head": 1e-2}),
    "dualprompt": (prompts.DualPrompt, {"lr": 1e-2, "lr_head": 2.5e-3}),
    "coda-p": (prompts.CODAPrompt, {"lr": 3e-3}),
    "lora": (LoRA, {"lr_head": 1e-2}),
    "c-lora": (CLoRA, {"lr_head": 1e-2, "lambda_forget": 100.0}),
    "stamina": (Stamina, MASKED),
    "stamina-no-mask": (StaminaNoMask, PLAIN),
    "stamina-no-forget": (StaminaNoForget, {**MASKED, "lambda_forget": 0.0}),
    "stamina-no-sparsity": (StaminaNoSparsity, {**MASKED, "lambda_sparse": 0.0}),
    "stamina-soft-mask": (StaminaSoftMask, {**MASKED, "hard": False}),
    "stamina-factor-mask": (StaminaFactorMask, {**MASKED, "mask": "factors"}),
    "stamina-free-mask": (StaminaFreeMask, {**MASKED, "mask": "free"}),
    "stamina-random-mask": (StaminaRandomMask, {**PLAIN, "mask": "random", "density": 0.41}),
    "lora-scaled": (LoRAScaled, {"lr_head": 2.5e-3, "merge_exponent": 1.0}),
    "inflora": (InfLoRA, {"threshold": 0.9}),
    "sd-lora": (SDLoRA, {}),
    "ncm": (NearestClassMean, {}),
    "c-lora-means": (CLoRAMeans, {"lr_head": 1e-2, "lambda_forget": 100.0}),
    "stamina-means": (StaminaMeans, MASKED),
}


def make_class_method(name: str, **options) -> Method:
    """A method by its name, with settings that differ from those it starts from. Raises UserError for unknown names."""
    if name not in CLASS_METHODS:
        raise UserError(f"unknown method {name}: choose one of {', '.join(CLASS_METHODS)}")
    method, start = CLASS_METHODS[name]
    return method(ClassSettings().changed(**{**start, **options}))
