"""The other methods for text-to-image: Textual Inversion, and methods that fine-tune weights."""

import torch

from ..core.adapters import Full
from ..core.method import Method
from .closed_form import fisher_diagonal, merge
from .lora import Stamina


class TextualInversion(Method):
    """Only the token's row is trained, the model is frozen (Gal et al. 2022)."""

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
    """Fine-tuning of K and V with prior images of the base, one concept after another (Kumari et al. 2023)."""

    name = "custom-diffusion"
    defaults = {"lr": 1e-3, "lr_token": 4e-2, "lambda_prior": 1.0}

    def adapter(self, layer, generator):
        return Full(layer.current)


class DreamBooth(CustomDiffusion):
    """Fine-tuning of the whole U-Net with prior images of the base (Ruiz et al. 2023); the text encoder is frozen."""

    name = "dreambooth"
    defaults = {"lr": 1e-4, "lr_token": 4e-2, "lambda_prior": 1.0}
    full_finetuning = True


class GenerativeReplay(CustomDiffusion):
    """Fine-tuning of K and V with images of past concepts, generated before the task (Shin et al. 2017)."""

    name = "replay"
    defaults = {"lr": 3e-4, "lr_token": 2e-2, "lambda_prior": 1.0}

    def prior_images(self, model, generator):
        return model.past_images(self.settings.n_prior, generator, self.settings.guidance)


class CustomDiffusionEWC(CustomDiffusion):
    """Custom Diffusion with EWC's penalty on important weights, λ/2 Σ F (W_t − W_{t-1})² (Kirkpatrick et al. 2017).

    F is the sum of all past tasks' diagonal Fisher information; the anchor is the weight before the task (online EWC,
    Schwarz et al. 2018).
    """

    name = "custom-diffusion-ewc"
    defaults = {"lr": 5e-4, "lr_token": 2e-2, "lambda_prior": 1.0, "lambda_forget": 100.0}

    def penalty(self, layer):
        if "fisher" not in layer.memory:
            return None
        return self.settings.lambda_forget / 2 * (layer.memory["fisher"] * layer.delta().square()).sum()

    def end(self, model, images, adapters, generator):
        weights = [layer.weight.requires_grad_() for layer in model.layers]
        losses = model.losses(images, self.settings.n_prior, generator)
        for layer, fisher in zip(model.layers, fisher_diagonal(losses, weights), strict=True):
            layer.weight.requires_grad_(False)
            layer.memory["fisher"] = fisher + layer.memory.get("fisher", 0)


class LoRAEWC(CustomDiffusionEWC):
    """LoRA with EWC's penalty on its update, λ/2 Σ F (A_t B_t)²: Fisher information in place of L_forget's past²."""

    name = "lora-ewc"
    defaults = {"lambda_forget": 1e4}
    adapter = Method.adapter


class CustomDiffusionMerge(CustomDiffusion):
    """Custom Diffusion from the base for every concept; all models are merged in closed form (their eqs. 4, 5)."""

    name = "custom-diffusion-merge"
    defaults = {"lr": 3e-3, "lr_token": 1e-2, "lambda_prior": 1.0}

    def begin(self, model, images):
        for layer in model.layers:
            layer.restore(layer.start)

    def end(self, model, images, adapters, generator):
        keys, regularisation = model.token_features(), model.word_features()  # (2, width), (n, width)
        for layer in model.layers:
            values = keys @ layer.current.T  # (2, D1), by the matrix that this concept was trained with
            memory = layer.memory
            memory["keys"] = torch.cat([memory.get("keys", keys[:0]), keys])
            memory["values"] = torch.cat([memory.get("values", values[:0]), values])
            layer.restore(merge(layer.start, regularisation, memory["keys"], memory["values"]))


class Offline(CustomDiffusion):
    """Custom Diffusion on all concepts at once, in as many rounds as there are concepts: the upper bound."""

    name = "offline"
    joint = True
