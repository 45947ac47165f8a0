"""Training steps of diffusers' published scripts, written out plainly with stock classes, to be measured against.

They follow examples/dreambooth/train_dreambooth_lora.py and examples/custom_diffusion/train_custom_diffusion.py in what
a step computes, in its order and in which precision. What differs from them, for both: pictures and token ids lie ready
on the device and nothing is read or augmented (so Custom Diffusion's loss has no mask); no `accelerate`, whose autocast
is written out; the rate is constant without a scheduler. Half precision is bfloat16, so that no gradient is scaled.
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import Tensor, nn

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")  # of self- and cross-attention, as the script has it
CROSS_KV = ("attn2.to_k", "attn2.to_v")
PRIOR = "a photo of a person"


class StockLoop:
    """What the scripts have in common. images: (n, 3, H, W) in [-1, 1]; a subclass sets `trained` and `clipped`."""

    rate = 1e-4

    def __init__(self, pipe, images: Tensor):
        self.unet, self.vae, self.text, self.tokenizer = pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.dtype, self.device = self.vae.dtype, self.vae.device
        self.images = images.to(self.device)
        for model in (self.unet, self.vae, self.text):
            model.requires_grad_(False)
        self.unet.train()

    def finish(self, trained: list[Tensor], clipped: list[Tensor]) -> None:
        """Make the optimizer once it is known what is trained; the gradients of `clipped` are limited in their norm."""
        self.trained, self.clipped = trained, clipped
        self.optimizer = torch.optim.AdamW(trained, self.rate, weight_decay=1e-2)

    def autocast(self):
        """What `accelerate` puts around the models that it prepared, where precision is mixed."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def tokenize(self, prompts: list[str]) -> Tensor:
        n = self.tokenizer.model_max_length
        ids = self.tokenizer(prompts, padding="max_length", max_length=n, truncation=True, return_tensors="pt")
        return ids.input_ids.to(self.device)

    def encode(self) -> Tensor:
        latents = self.vae.encode(self.images.to(self.dtype)).latent_dist.sample()
        return latents * self.vae.config.scaling_factor

    def noisy(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents at random times, those times, and the noise that was added."""
        noise = torch.randn_like(latents)
        steps = self.scheduler.config.num_train_timesteps
        t = torch.randint(0, steps, (len(latents),), device=latents.device)
        return self.scheduler.add_noise(latents, noise, t), t, noise

    def loss(self) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no loss")

    def update(self) -> None:
        """What follows the backward pass."""
        nn.utils.clip_grad_norm_(self.clipped, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self) -> float:
        loss = self.loss()
        loss.backward()
        self.update()
        return loss.item()


class DreamBoothLoRA(StockLoop):
    """train_dreambooth_lora.py without prior pictures: peft's LoRA on attention; no token is trained.

    kept: the latents are encoded once, which the script does not do. rank: the script's default is 4.
    """

    def __init__(self, pipe, images: Tensor, targets=ATTENTION, rank: int = 16, kept: bool = False):
        super().__init__(pipe, images)
        self.unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=[*targets])
        )
        cast_training_params(self.unet, torch.float32)
        trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.finish(trained, trained)
        self.ids = self.tokenize(["a photo of person"] * len(images))
        with torch.no_grad():
            self.latents = self.encode() if kept else None

    def loss(self) -> Tensor:
        latents = self.encode() if self.latents is None else self.latents
        noisy, t, noise = self.noisy(latents)
        words = self.text(self.ids)[0]
        with self.autocast():
            predicted = self.unet(noisy, t, words).sample
        return F.mse_loss(predicted.float(), noise.float())


class CustomDiffusion(StockLoop):
    """train_custom_diffusion.py with prior preservation: K and V of cross-attention and the token, n pictures of the
    concept and n of the prior a step.

    The text encoder stays fp32 under autocast, as in the script's mixed_precision=fp16.
    """

    rate = 1e-5

    def __init__(self, pipe, images: Tensor, prior: Tensor):
        super().__init__(pipe, torch.cat([images, prior]))
        nn.Module.to(self.text, torch.float32)
        self.text.train()
        self.tokenizer.add_tokens("<new1>")
        self.row = self.tokenizer.convert_tokens_to_ids("<new1>")
        self.text.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.text.requires_grad_(False)
        table = self.text.get_input_embeddings().weight.requires_grad_()
        self.unet.set_attn_processor({name: self.processor(name) for name in self.unet.attn_processors})
        trained = [p for processor in self.unet.attn_processors.values() for p in processor.parameters()]
        self.finish([table, *trained], [*self.text.parameters(), *trained])
        self.ids = self.tokenize(["photo of a <new1> person"] * len(images) + [PRIOR] * len(prior))

    def processor(self, name: str) -> CustomDiffusionAttnProcessor2_0:
        """Own fp32 copies of K and V in cross-attention, the stock weights elsewhere."""
        attention = self.unet.get_submodule(name.removesuffix(".processor"))
        crossed = not name.endswith("attn1.processor")
        width = {"hidden_size": attention.to_k.out_features, "cross_attention_dim": attention.to_k.in_features}
        made = CustomDiffusionAttnProcessor2_0(train_kv=crossed, train_q_out=False, **width).to(self.device)
        if crossed:
            weights = {f"to_{x}_custom_diffusion.weight": getattr(attention, f"to_{x}").weight for x in "kv"}
            made.load_state_dict(weights)
        return made

    def loss(self) -> Tensor:
        noisy, t, noise = self.noisy(self.encode())
        with self.autocast():
            words = self.text(self.ids)[0].float()
        predicted = self.unet(noisy, t, words).sample
        (own, prior), (target, prior_target) = predicted.float().chunk(2), noise.float().chunk(2)
        return F.mse_loss(own, target, reduction="none").mean((1, 2, 3)).mean() + F.mse_loss(prior, prior_target)

    def update(self) -> None:
        gradient = self.text.get_input_embeddings().weight.grad
        others = torch.arange(len(self.tokenizer)) != self.row
        gradient[others, :] = gradient[others, :].fill_(0)
        super().update()


LOOPS = {  # row -> loop of a pipeline, n pictures of a concept and n of the prior
    "dreambooth-lora": lambda pipe, own, prior: DreamBoothLoRA(pipe, own),
    "peft on K, V": lambda pipe, own, prior: DreamBoothLoRA(pipe, own, CROSS_KV),
    "peft on K, V, latents kept": lambda pipe, own, prior: DreamBoothLoRA(pipe, own, CROSS_KV, kept=True),
    "custom-diffusion": lambda pipe, own, prior: CustomDiffusion(pipe, own, prior),
}


def make_loop(name: str, pipe, images: Tensor) -> StockLoop:
    """The loop of a row; images: (2 n, 3, H, W), half of them for the prior where there is one."""
    return LOOPS[name](pipe, *images.chunk(2))
