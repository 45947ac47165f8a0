"""Continual text-to-image customisation: STAMINA and C-LoRA, small enough to read.

from stamina_lite import ContinualLearner, load_base, concepts
from stamina_lite import ContinualClassifier, load_backbone, class_set
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .classification.backbones import load_backbone
    from .classification.learner import ContinualClassifier
    from .classification.sets import class_set
    from .core.settings import Settings
    from .diffusion.bases import load_base
    from .diffusion.concepts import Concept, concepts
    from .diffusion.evaluation import Evaluation
    from .diffusion.learner import ContinualLearner, run_sequence
    from .errors import UserError
    from .methods.registry import METHODS, make_method

__version__ = "0.1.0"
__all__ = [
    "METHODS", "Concept", "ContinualClassifier", "ContinualLearner", "Evaluation", "Settings", "UserError", "class_set",
    "concepts", "load_backbone", "load_base", "make_method", "run_sequence",
]  # fmt: skip

HOME = {  # public name -> its module, loaded when the name is first used: the command line answers at once
    "ContinualLearner": "diffusion.learner",
    "run_sequence": "diffusion.learner",
    "Evaluation": "diffusion.evaluation",
    "load_base": "diffusion.bases",
    "ContinualClassifier": "classification.learner",
    "load_backbone": "classification.backbones",
    "class_set": "classification.sets",
    "concepts": "diffusion.concepts",
    "Concept": "diffusion.concepts",
    "UserError": "errors",
    "METHODS": "methods.registry",
    "Settings": "core.settings",
    "make_method": "methods.registry",
}


def __getattr__(name: str):
    if name not in HOME:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f".{HOME[name]}", __name__), name)
