"""Every method: its class, its source, its settings in both halves, and how figures show it. All else reads this."""

from dataclasses import dataclass

from ..core.method import Method
from ..core.settings import ClassSettings
from ..errors import UserError
from .classifiers import (
    ElasticWeightConsolidation,
    FineTuning,
    FineTuningLocal,
    InfLoRA,
    Joint,
    LearningWithoutForgetting,
    NearestClassMean,
    SDLoRA,
)
from .finetuning import (
    CustomDiffusion,
    CustomDiffusionEWC,
    CustomDiffusionMerge,
    DreamBooth,
    GenerativeReplay,
    LoRAEWC,
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
from .prompts import L2P, CODAPrompt, DeepL2P, DualPrompt

STAMINA, C_LORA, OURS = "arXiv 2311.18763", "arXiv 2304.06027", "ours"
CLASSES_PLAIN = {"lr_head": 2.5e-3, "lambda_forget": 100.0}  # STAMINA's settings for classes, without a mask
CLASSES_MASKED = {**CLASSES_PLAIN, "lambda_sparse": 0.1}


@dataclass(frozen=True)
class Entry:
    """The facts of a method. Its name and its settings for text-to-image are `method.name` and `method.defaults`.

    Attributes:
        method: its class.
        source: the publication it is from, or "ours".
        colour: of its lines and points in figures of concepts; None if it is for classes only.
        family: its group in figures of classes.
        classes: the settings it starts from in classification; None if it is for concepts only. They have the highest
            A_N on the tuning classes, results/tuning-classes.
    """

    method: type[Method]
    source: str
    colour: str | None = None
    family: str = ""
    classes: dict | None = None


# Methods that meet in one figure have Okabe and Ito's colours, which the colour-blind can tell apart; others are shades
# of their family's hue.
REGISTRY = (
    Entry(LoRA, "arXiv 2106.09685", "#E69F00", "adapters", {"lr_head": 1e-2}),
    Entry(CLoRA, C_LORA, "#0072B2", "adapters", {"lr_head": 1e-2, "lambda_forget": 100.0}),
    Entry(Stamina, STAMINA, "#D55E00", "STAMINA", CLASSES_MASKED),
    Entry(TextualInversion, "arXiv 2208.01618", "#000000"),
    Entry(TextualInversionPlus, OURS, "#999999"),
    Entry(DreamBooth, "arXiv 2208.12242", "#3F1F69"),
    Entry(GenerativeReplay, "arXiv 1705.08690", "#5B3A8C"),
    Entry(CustomDiffusion, "arXiv 2212.04488", "#7B5BAE"),
    Entry(CustomDiffusionMerge, "arXiv 2212.04488", "#9C80C8"),
    Entry(CustomDiffusionEWC, "arXiv 1612.00796", "#BCA8DE"),
    Entry(Offline, "arXiv 2212.04488", "#332288"),
    Entry(StaminaNoMask, STAMINA, "#56B4E9", "ablations", CLASSES_PLAIN),
    Entry(StaminaNoTokenMLP, STAMINA, "#009E73"),
    Entry(StaminaNeither, STAMINA, "#CC79A7"),
    Entry(StaminaNoForget, OURS, "#F0E442", "ablations", {**CLASSES_MASKED, "lambda_forget": 0.0}),
    Entry(StaminaNoSparsity, OURS, "#8C2D04", "ablations", {**CLASSES_MASKED, "lambda_sparse": 0.0}),
    Entry(StaminaSoftMask, OURS, "#A63F0B", "ablations", {**CLASSES_MASKED, "hard": False}),
    Entry(StaminaFactorMask, OURS, "#C65A1E", "ablations", {**CLASSES_MASKED, "mask": "factors"}),
    Entry(StaminaFreeMask, OURS, "#E58B57", "ablations", {**CLASSES_MASKED, "mask": "free"}),
    Entry(StaminaRandomMask, OURS, "#F2B58F", "ablations", {**CLASSES_PLAIN, "mask": "random", "density": 0.41}),
    Entry(LoRAScaled, OURS, "#6B8E23", "adapters", {"lr_head": 2.5e-3, "merge_exponent": 1.0}),
    Entry(LoRAOrthogonal, OURS, "#8FAF4A"),
    Entry(LoRAPruned, OURS, "#B5CF7F"),
    Entry(LoRAEWC, "arXiv 1612.00796", "#44AA99"),
    Entry(LoRAAlone, OURS, "#117733"),
    Entry(Joint, "the upper bound", None, "bounds", {"lr": 1e-4, "lr_head": 2.5e-3}),
    Entry(NearestClassMean, OURS, None, "bounds", {}),
    Entry(FineTuning, "the lower bound", None, "whole weights", {"lr": 3e-5, "lr_head": 1e-2}),
    Entry(FineTuningLocal, "arXiv 2211.13218", None, "whole weights", {"lr": 3e-5}),
    Entry(LearningWithoutForgetting, "arXiv 1606.09282", None, "whole weights", {"lr": 1e-4, "distill": 10.0}),
    Entry(
        ElasticWeightConsolidation, "arXiv 1612.00796", None, "whole weights", {"lr": 1.5e-4, "lambda_forget": 1000.0}
    ),
    Entry(L2P, "arXiv 2112.08654", None, "prompts", {"lr": 1e-2}),
    Entry(DeepL2P, "arXiv 2112.08654", None, "prompts", {"lr": 1e-2, "lr_head": 1e-2}),
    Entry(DualPrompt, "arXiv 2204.04799", None, "prompts", {"lr": 1e-2, "lr_head": 2.5e-3}),
    Entry(CODAPrompt, "arXiv 2211.13218", None, "prompts", {"lr": 3e-3}),
    Entry(InfLoRA, "arXiv 2404.00228", None, "adapters", {"threshold": 0.9}),
    Entry(SDLoRA, "arXiv 2501.13198", None, "adapters", {}),
)
METHODS: dict[str, type[Method]] = {e.method.name: e.method for e in REGISTRY if e.colour}
CLASS_METHODS: dict[str, type[Method]] = {e.method.name: e.method for e in REGISTRY if e.classes is not None}
CLASS_DEFAULTS: dict[str, dict] = {e.method.name: e.classes for e in REGISTRY if e.classes is not None}

# Rows of stored grids that are a method with another head than the trained one (`heads`)
WITH_HEAD = {"c-lora-means": ("c-lora", "means"), "stamina-means": ("stamina", "means")}


def make_method(name: str, **options) -> Method:
    """A method for text-to-image by its name.

    Args:
        options: settings that differ from the method's defaults.

    Raises:
        UserError: the name or a setting is unknown, or a value is out of its range.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name}: choose one of {', '.join(METHODS)}")
    return METHODS[name](**options)


def make_class_method(name: str, **options) -> Method:
    """A method for classification by its name, or of a row of WITH_HEAD; arguments and errors as `make_method`."""
    name = WITH_HEAD.get(name, (name, ""))[0]
    if name not in CLASS_METHODS:
        raise UserError(f"unknown method {name}: choose one of {', '.join(CLASS_METHODS)}")
    return CLASS_METHODS[name](ClassSettings().changed(**{**CLASS_DEFAULTS[name], **options}))
