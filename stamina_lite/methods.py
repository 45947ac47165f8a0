"""Every method of the text-to-image tables: a short class that says how it differs, and no more."""

from typing import Any

import torch

from .adapters import Full, Layer, MaskedLowRank
from .closed_form import fisher_diagonal, merge
from .errors import UserError
from .method import MASKS, Method
from .tokens import MLP


class LoRA(Method):
    """LoRA on K and V, one concept after another, with nothing against forgetting (W_t = W_{t-1} + A_t B_t)."""

    name = "lora"


class CLoRA(Method):
    """LoRA with self-regularisation (C-LoRA, eqs. 1-3 [paper])."""

    name = "c-lora"
    defaults = {"forget": 0.3}  # this and the other values: lowest A_mmd on tune5, results/tuning

    def penalty(self, layer):
        return self.settings.forget * l_forget(layer)


class Stamina(Method):
    """C-LoRA's update under a learned hard mask, tokens from an MLP (STAMINA, eq. 4 [paper]; details [ours])."""

    name = "stamina"
    defaults = {"forget": 3.0, "sparse": 0.1}

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
        value = self.settings.sparse * layer.adapter.mask.sparsity()
        return value + self.settings.forget * l_forget(layer) if self.settings.forget else value


class StaminaNoMask(Stamina):
    """Ablation: a plain low-rank update, without the mask."""

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


class StaminaNoSparsity(Stamina):
    """Ablation: nothing presses on the masks."""

    name = "stamina-no-sparsity"
    defaults = {**Stamina.defaults, "sparse": 0.0}


class StaminaSoftMask(Stamina):
    """Ablation: the mask keeps its soft values, while training and when folded."""

    name = "stamina-soft-mask"
    defaults = {**Stamina.defaults, "hard": False}


class StaminaFactorMask(Stamina):
    """Ablation: the mask's logits are plain low-rank factors, without the MLP."""

    name = "stamina-factor-mask"
    defaults = {**Stamina.defaults, "mask": "factors"}


class StaminaFreeMask(Stamina):
    """Ablation: a free logit for every weight."""

    name = "stamina-free-mask"
    defaults = {**Stamina.defaults, "mask": "free"}


class StaminaRandomMask(Stamina):
    """Ablation: a fixed random mask, as open as STAMINA's learned ones are in the end."""

    name = "stamina-random-mask"
    defaults = {"forget": Stamina.defaults["forget"], "mask": "random"}


class LoRAScaled(LoRA):
    """LoRA whose t-th update is folded times t^-p: for p = 1 weights are the mean of what tasks arrived at [ours]."""

    name = "lora-scaled"
    defaults = {"decay": 0.25}

    def folded(self, delta, task):
        return delta * task**-self.settings.decay


class LoRAPruned(LoRA):
    """LoRA that folds the largest entries of its update only: a mask by magnitude, after training [ours]."""

    name = "lora-pruned"
    defaults = {"density": 0.1}

    def folded(self, delta, task):
        kept = max(1, round(self.settings.density * delta.numel()))
        return delta * (delta.abs() >= delta.abs().flatten().topk(kept).values[-1])


class LoRAOrthogonal(LoRA):
    """LoRA that starts from the input directions past updates use least: B is drawn among them [ours]."""

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
    """LoRA from the base anew for every concept, never merged: a model a concept, the ceiling of plasticity [ours]."""

    name = "lora-alone"
    alone = True

    def begin(self, model, pictures):
        for layer in model.layers:
            layer.restore(layer.start)


class TextualInversion(Method):
    """Only the token's row is trained; the model stays as it is (Gal et al. 2022)."""

    name = "ti"
    defaults = {"lr_token": 2.8284e-2}

    def adapter(self, layer, generator):
        return None


class TextualInversionPlus(TextualInversion):
    """Textual Inversion with STAMINA's MLP token; our reading of the table's TI++ [ours]."""

    name = "ti++"
    defaults = {"lr_token": 4e-2}
    token = Stamina.token


class CustomDiffusion(Method):
    """K and V themselves, with pictures of the base beside, one concept after another (Kumari et al. 2023)."""

    name = "custom-diffusion"
    defaults = {"lr": 1e-3, "lr_token": 4e-2, "prior": 1.0}

    def adapter(self, layer, generator):
        return Full(layer.current)


class DreamBooth(CustomDiffusion):
    """Every weight of the U-Net, with pictures of the base beside (Ruiz et al. 2023; the text encoder is frozen)."""

    name = "dreambooth"
    defaults = {"lr": 1e-4, "lr_token": 4e-2, "prior": 1.0}
    everywhere = True


class GenerativeReplay(CustomDiffusion):
    """K and V themselves, beside pictures of past concepts drawn by the model before the task (Shin et al. 2017)."""

    name = "replay"
    defaults = {"lr": 3e-4, "lr_token": 2e-2, "prior": 1.0}

    def beside(self, model, generator):
        return model.past_pictures(self.settings.drawn, generator, self.settings.guidance)


class CustomDiffusionEWC(CustomDiffusion):
    """Custom Diffusion with a penalty on weights that mattered: λ/2 Σ F (W_t − W_{t-1})² (Kirkpatrick et al. 2017).

    F is the sum of all past tasks' diagonal Fisher information, the anchor the weights before the task (online EWC,
    Schwarz et al. 2018).
    """

    name = "custom-diffusion-ewc"
    defaults = {"lr": 5e-4, "lr_token": 2e-2, "prior": 1.0, "forget": 100.0}

    def penalty(self, layer):
        if "fisher" not in layer.memory:
            return None
        return self.settings.forget / 2 * (layer.memory["fisher"] * layer.delta().square()).sum()

    def end(self, model, pictures, generator):
        weights = [layer.weight.requires_grad_() for layer in model.layers]
        losses = model.losses(pictures, self.settings.drawn, generator)
        for layer, fisher in zip(model.layers, fisher_diagonal(losses, weights), strict=True):
            layer.weight.requires_grad_(False)
            layer.memory["fisher"] = fisher + layer.memory.get("fisher", 0)


class CustomDiffusionMerge(CustomDiffusion):
    """Custom Diffusion from the base for every concept, then one model from all in closed form (their eqs. 4, 5)."""

    name = "custom-diffusion-merge"
    defaults = {"lr": 3e-3, "lr_token": 1e-2, "prior": 1.0}

    def begin(self, model, pictures):
        for layer in model.layers:
            layer.restore(layer.start)

    def end(self, model, pictures, generator):
        told, kept = model.token_features(), model.word_features()  # (2, width), (n, width)
        for layer in model.layers:
            answers = told @ layer.current.T  # (2, D1), of this concept's own matrix
            memory = layer.memory
            memory["keys"] = torch.cat([memory.get("keys", told[:0]), told])
            memory["values"] = torch.cat([memory.get("values", answers[:0]), answers])
            layer.restore(merge(layer.start, kept, memory["keys"], memory["values"]))


class Offline(CustomDiffusion):
    """Custom Diffusion on all concepts at once, as many rounds as there are concepts: the upper bound."""

    name = "offline"
    joint = True


def l_forget(layer: Layer) -> torch.Tensor:
    """‖ |Σ_{t'<t} A_t' B_t'| ⊙ A_t B_t ‖²_F of one matrix (C-LoRA, eq. 3 [paper]); the caller sums over layers."""
    return (layer.past * layer.delta()).square().sum()  # squared, so |·| need not be taken


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
