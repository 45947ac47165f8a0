"""Continual text-to-image customisation: STAMINA and C-LoRA, small enough to read.

from stamina_lite import ContinualLearner, load_base, concepts
from stamina_lite import ContinualClassifier, load_backbone, class_set
"""

from importlib import import_module

__version__ = "0.1.0"

HOME = {  # public name -> module; loaded when first used, so that the command line answers at once
    "ContinualLearner": "sequence",
    "run_sequence": "sequence",
    "Evaluation": "evaluation",
    "load_base": "bases",
    "ContinualClassifier": "class_sequence",
    "load_backbone": "backbones",
    "class_set": "class_sets",
    "concepts": "data",
    "Concept": "data",
    "UserError": "errors",
    "METHODS": "methods",
    "Settings": "method",
    "make_method": "methods",
}
__all__ = [*HOME]


def __getattr__(name: str):
    if name not in HOME:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f".{HOME[name]}", __name__), name)
