"""Methods for classification only."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.adapters import Full, LowRank
from ..core.layers import AdaptedWeight
from ..core.method import Method
from .finetuning import CustomDiffusionEWC
from .heads import write_means
from .subspaces import grow, input_covariances, leading


class FineTuning(Method):
    """Fine-tuning of every weight with a loss over all classes seen: past classes are forgotten."""

    name = "ft"
    full_finetuning = True
    task_local_loss = False

    def adapter(self, layer, generator):
        return Full(layer.current)


class FineTuningLocal(FineTuning):
    """Fine-tuning with a loss over the task's classes only (FT++ of Smith et al. 2023, after Ahn et al. 2021)."""

    name = "ft++"
    task_local_loss = True


class LearningWithoutForgetting(FineTuningLocal):
    """FT++ with distillation of the past classes' logits of the model before the task (Li & Hoiem 2016, eq. 3)."""

    name = "lwf"
    T = 2.0

    def begin(self, model, images):
        self.before = copy.deepcopy(model.vit) if model.past else None

    def auxiliary_loss(self, model, x, logits):
        """T² KL(softmax(before / T) ‖ softmax(logits / T)) over past classes, mean over the batch."""
        if self.before is None:
            return None
        with torch.no_grad():
            teacher = F.log_softmax(self.before.head(model.embed(self.before, x))[:, model.past] / self.T, 1)
        student = F.log_softmax(logits[:, model.past] / self.T, 1)
        divergence = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
        return self.settings.distill * self.T**2 * divergence


class ElasticWeightConsolidation(FineTuningLocal):
    """FT++ with EWC's penalty, λ/2 Σ F (W_t − W_{t-1})² (Kirkpatrick et al. 2017)."""

    name = "ewc"
    penalty = CustomDiffusionEWC.penalty
    end = CustomDiffusionEWC.end


class Joint(FineTuning):
    """All classes at once: the upper bound."""

    name = "ub"
    joint = True


class NearestClassMean(Method):
    """The class whose mean of frozen features is nearest, as in the head `Means`; nothing is trained. [ours]"""

    name = "ncm"
    head = False

    def adapter(self, layer, generator):
        return None

    @torch.no_grad()
    def end(self, model, images, adapters, generator):
        labels = images.dataset.labels[images.indices]
        batches = images.dataset.stream(images.indices.split(128))
        features = torch.cat([model.features(x.to(model.device)) for x in batches])
        write_means(model.head, features, labels, images.classes)


class InfLoRA(Method):
    """LoRA with B frozen to directions that past tasks' inputs do not use (Liang & Li 2024).

    Before a task, the rows of B become the leading directions of its inputs outside the protected subspace; only A is
    trained. After the task, the subspace is extended until it contains `threshold` of the inputs' energy (GPM, Saha et
    al. 2021; the paper's DualGPM stores the smaller of it and its complement, which saves memory only).
    """

    name = "inflora"

    def begin(self, model, images):
        self.inputs = input_covariances(model, images)

    def adapter(self, layer, generator):
        adapter: Any = super().adapter(layer, generator)
        directions = leading(self.inputs[layer.module], layer.memory.get("space"), len(adapter.B))
        adapter.B.requires_grad_(False).copy_(directions)
        return adapter

    def end(self, model, images, adapters, generator):
        inputs = input_covariances(model, images)
        for layer in model.layers:
            layer.memory["space"] = grow(layer.memory.get("space"), inputs[layer.module], self.settings.threshold)


class Decoupled(LowRank):
    """W_t = W_init + Σ_{k<t} α_k D_k + A_t B_t: past directions D_k of norm one are frozen, magnitudes α_k trained."""

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
    """LoRA with separate directions, frozen after their task, and magnitudes, all trained (Wu et al. 2025)."""

    name = "sd-lora"
    qkv_parts = "qv"

    def adapter(self, layer, generator):
        return Decoupled(layer, min(self.settings.rank, *layer.current.shape), generator)

    @torch.no_grad()
    def end(self, model, images, adapters, generator):
        for layer in model.layers:
            adapter: Any = adapters[layer.name]
            norm, memory = (adapter.A @ adapter.B).norm(), layer.memory
            memory["A"] = torch.cat([adapter.A_past, adapter.A.detach()[None] / norm.clamp_min(1e-12)])
            memory["B"] = torch.cat([adapter.B_past, adapter.B.detach()[None]])
            memory["alpha"] = torch.cat([adapter.alpha.detach(), norm[None]])
