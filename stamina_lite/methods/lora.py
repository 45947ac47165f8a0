"""LoRA, C-LoRA, STAMINA and its ablations: short classes that say how they differ, and no more."""

from typing import Any

import torch

from ..core.adapters import MaskedLowRank
from ..core.layers import AdaptedWeight
from ..core.masks import FactorMask, FreeMask, MLPMask, RandomMask
from ..core.method import Method
from ..core.tokens import MLP

MASKS = {"mlp": MLPMask, "factors": FactorMask, "free": FreeMask, "random": RandomMask}


class LoRA(Method):
    """LoRA on K and V, one task after another, without protection against forgetting: W_t = W_{t-1} + A_t B_t."""

    name = "lora"


class CLoRA(Method):
    """LoRA with self-regularisation (C-LoRA, eqs. 1-3 [paper])."""

    name = "c-lora"
    defaults = {"lambda_forget": 0.3}  # this and the other values: lowest A_mmd on tune5, results/tuning

    def penalty(self, layer):
        return self.settings.lambda_forget * l_forget(layer)


class Stamina(Method):
    """C-LoRA's update under a learned hard mask, tokens from an MLP (STAMINA, eq. 4 [paper]; details [ours])."""

    name = "stamina"
    defaults = {"lambda_forget": 3.0, "lambda_sparse": 0.1}

    def adapter(self, layer, generator):
        s, shape = self.settings, layer.current.shape
        options = {"temperature": s.temperature, "hard": s.hard, "generator": generator}
        if s.mask in ("mlp", "factors"):
            options["rank"] = min(s.mask_rank, *shape)
        if s.mask == "random":
            options["density"] = s.density
        return MaskedLowRank(layer.current, min(s.rank, *shape), MASKS[s.mask](shape, **options), generator)

    def token(self, start, generator):
        return MLP(start, generator)

    def penalty(self, layer):
        value = self.settings.lambda_sparse * layer.adapter.mask.sparsity()
        return value + self.settings.lambda_forget * l_forget(layer) if self.settings.lambda_forget else value


class StaminaNoMask(Stamina):
    """Ablation: a plain low-rank update, without the mask."""

    name = "stamina-no-mask"
    defaults = {"lambda_forget": Stamina.defaults["lambda_forget"]}  # without a mask there is no L_sparse
    adapter = Method.adapter
    penalty = CLoRA.penalty


class StaminaNoTokenMLP(Stamina):
    """Ablation: with the mask, but a plain token row."""

    name = "stamina-no-token-mlp"
    token = Method.token


class StaminaNeither(StaminaNoMask):
    """Ablation: neither mask nor token MLP: C-LoRA at STAMINA's settings."""

    name = "stamina-neither"
    token = Method.token


class StaminaNoForget(Stamina):
    """Ablation: without L_forget."""

    name = "stamina-no-forget"
    defaults = {**Stamina.defaults, "lambda_forget": 0.0}


class StaminaNoSparsity(Stamina):
    """Ablation: without L_sparse."""

    name = "stamina-no-sparsity"
    defaults = {**Stamina.defaults, "lambda_sparse": 0.0}


class StaminaSoftMask(Stamina):
    """Ablation: a soft mask, in training and in the fold."""

    name = "stamina-soft-mask"
    defaults = {**Stamina.defaults, "hard": False}


class StaminaFactorMask(Stamina):
    """Ablation: the mask's logits are low-rank factors without an MLP."""

    name = "stamina-factor-mask"
    defaults = {**Stamina.defaults, "mask": "factors"}


class StaminaFreeMask(Stamina):
    """Ablation: the mask has a free logit for every entry."""

    name = "stamina-free-mask"
    defaults = {**Stamina.defaults, "mask": "free"}


class StaminaRandomMask(Stamina):
    """Ablation: a fixed random mask with the density of STAMINA's learned masks."""

    name = "stamina-random-mask"
    defaults = {"lambda_forget": Stamina.defaults["lambda_forget"], "mask": "random"}


class LoRAScaled(LoRA):
    """LoRA whose update of task t is multiplied by t^-p before the fold; p = 1 averages all tasks' updates [ours]."""

    name = "lora-scaled"
    defaults = {"merge_exponent": 0.25}

    def transform_update(self, delta, task):
        return delta * task**-self.settings.merge_exponent


class LoRAPruned(LoRA):
    """LoRA that folds only the largest entries of its update: a mask by magnitude after training [ours]."""

    name = "lora-pruned"
    defaults = {"density": 0.1}

    def transform_update(self, delta, task):
        n_kept = max(1, round(self.settings.density * delta.numel()))
        return delta * (delta.abs() >= delta.abs().flatten().topk(n_kept).values[-1])


class LoRAOrthogonal(LoRA):
    """LoRA whose B starts in the input directions that past updates use least [ours]."""

    name = "lora-orthogonal"
    defaults = {"lr": 2.5e-3, "lr_token": 4e-2}

    def adapter(self, layer, generator):
        adapter: Any = super().adapter(layer, generator)
        rank, columns = adapter.B.shape
        _, sizes, directions = torch.linalg.svd(layer.past, full_matrices=True)  # (D2, D2), by falling size
        used = int((sizes > 1e-6 * sizes[0]).sum()) if sizes[0] > 0 else 0
        free = directions[min(used, columns - rank) :]
        start = torch.randn(rank, len(free), generator=generator).to(free) / len(free) ** 0.5
        with torch.no_grad():
            adapter.B.copy_(start @ free)
        return adapter


class LoRAAlone(LoRA):
    """LoRA from the base for every concept, with a model for each: the upper bound of plasticity [ours]."""

    name = "lora-alone"
    separate_models = True

    def begin(self, model, images):
        for layer in model.layers:
            layer.restore(layer.start)


def l_forget(layer: AdaptedWeight) -> torch.Tensor:
    """‖ |Σ_{t'<t} A_t' B_t'| ⊙ A_t B_t ‖²_F of one matrix (C-LoRA, eq. 3 [paper]); the caller sums over layers."""
    return (layer.past * layer.delta()).square().sum()  # squared, so |·| need not be taken
