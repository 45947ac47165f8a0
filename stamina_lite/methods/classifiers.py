"""Methods of the classification tables that text-to-image does not have."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.adapters import Full, LowRank
from ..core.layers import AdaptedWeight
from ..core.method import Method
from .finetuning import CustomDiffusionEWC
from .lora import CLoRA, Stamina
from .subspaces import grow, input_covariances, leading


class FineTuning(Method):
    """Every weight, and a loss over all classes seen: the present ones push the past ones out."""

    name = "ft"
    full_finetuning = True
    task_local_loss = False

    def adapter(self, layer, generator):
        return Full(layer.current)


class FineTuningLocal(FineTuning):
    """Fine-tuning whose loss leaves past classes out (FT++ of Smith et al. 2023, after Ahn et al. 2021)."""

    name = "ft++"
    task_local_loss = True


class LearningWithoutForgetting(FineTuningLocal):
    """FT++, with the past classes' logits held to those of the model before the task (Li & Hoiem 2016, their eq. 3)."""

    name = "lwf"
    T = 2.0

    def begin(self, model, pictures):
        self.before = copy.deepcopy(model.vit) if model.past else None

    def auxiliary_loss(self, model, x, logits):
        """T² KL(softmax(before / T) ‖ softmax(now / T)) over past classes, mean over the batch."""
        if self.before is None:
            return None
        with torch.no_grad():
            told = self.before.head(model.embed(self.before, x))[:, model.past]
        now = F.log_softmax(logits[:, model.past] / self.T, 1)
        apart = F.kl_div(now, F.log_softmax(told / self.T, 1), log_target=True, reduction="batchmean")
        return self.settings.distill * self.T**2 * apart


class ElasticWeightConsolidation(FineTuningLocal):
    """FT++ with the penalty of the text-to-image half: λ/2 Σ F (W_t − W_{t-1})² (Kirkpatrick et al. 2017)."""

    name = "ewc"
    penalty = CustomDiffusionEWC.penalty
    end = CustomDiffusionEWC.end


class Joint(FineTuning):
    """All classes at once: the upper bound."""

    name = "ub"
    joint = True


class NearestClassMean(Method):
    """Nothing is trained: a picture belongs to the class whose mean of frozen features is nearest. [ours]

    ‖f − μ‖² is smallest where μ·f − ‖μ‖²/2 is largest: a linear head with rows μ and bias −‖μ‖²/2.
    """

    name = "ncm"
    head = False

    def adapter(self, layer, generator):
        return None

    @torch.no_grad()
    def end(self, model, pictures, adapters, generator):
        labels = pictures.pictures.labels[pictures.places]
        parts = pictures.pictures.stream(pictures.places.split(128))
        features = torch.cat([model.features(x.to(model.device)) for x in parts])
        for label in pictures.classes:
            mean = features[labels == label].mean(0)
            model.head.weight[label], model.head.bias[label] = mean, -mean.square().sum() / 2


class CLoRAMeans(CLoRA):
    """C-LoRA, and when a task is over the nearest class mean of its features for a head, which then stays. [ours]"""

    name = "c-lora-means"
    end = NearestClassMean.end


class StaminaMeans(Stamina):
    """STAMINA, with the same head. [ours]"""

    name = "stamina-means"
    end = NearestClassMean.end


class InfLoRA(Method):
    """LoRA whose B is frozen to directions that past tasks' inputs do not use (Liang & Li 2024).

    Before a task B's rows become the leading directions of its inputs with the protected subspace taken out; only A is
    trained. Afterwards the subspace grows until it holds `threshold` of the task's inputs (GPM, Saha et al. 2021; their
    DualGPM keeps the smaller of it and its complement, which is a matter of memory only).
    """

    name = "inflora"

    def begin(self, model, pictures):
        self.inputs = input_covariances(model, pictures)

    def adapter(self, layer, generator):
        adapter: Any = super().adapter(layer, generator)
        directions = leading(self.inputs[layer.module], layer.memory.get("space"), len(adapter.B))
        adapter.B.requires_grad_(False).copy_(directions)
        return adapter

    def end(self, model, pictures, adapters, generator):
        inputs = input_covariances(model, pictures)
        for layer in model.layers:
            layer.memory["space"] = grow(layer.memory.get("space"), inputs[layer.module], self.settings.threshold)


class Decoupled(LowRank):
    """W_t = W_init + Σ_{k<t} α_k D_k + A_t B_t: past directions D_k, of norm one, stay; their magnitudes α_k learn."""

    past: Tensor
    A_past: Tensor
    B_past: Tensor

    def __init__(self, layer: AdaptedWeight, rank: int, generator: torch.Generator | None = None):
        super().__init__(layer.current, rank, generator)
        self.register_buffer("past", layer.past)
        self.register_buffer("A_past", layer.memory.get("A", self.A.detach()[None][:0]))  # (t-1, D1, r)
        self.register_buffer("B_past", layer.memory.get("B", self.B.detach()[None][:0]))  # (t-1, r, D2)
        self.alpha = torch.nn.Parameter(layer.memory.get("alpha", self.A.new_zeros(0)).clone())

    def delta(self) -> Tensor:
        scaled = self.A_past * self.alpha[:, None, None]
        return (scaled @ self.B_past).sum(0) - self.past + super().delta()


class SDLoRA(Method):
    """LoRA with direction and magnitude apart: past directions are kept, all magnitudes trained (Wu et al. 2025)."""

    name = "sd-lora"
    qkv_parts = "qv"

    def adapter(self, layer, generator):
        return Decoupled(layer, min(self.settings.rank, *layer.current.shape), generator)

    @torch.no_grad()
    def end(self, model, pictures, adapters, generator):
        for layer in model.layers:
            adapter: Any = adapters[layer.name]
            norm, memory = (adapter.A @ adapter.B).norm(), layer.memory
            memory["A"] = torch.cat([adapter.A_past, adapter.A.detach()[None] / norm.clamp_min(1e-12)])
            memory["B"] = torch.cat([adapter.B_past, adapter.B.detach()[None]])
            memory["alpha"] = torch.cat([adapter.alpha.detach(), norm[None]])
