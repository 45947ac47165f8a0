"""One concept, learned by a text-to-image model: what is frozen, what is trained, the loss, and drawing pictures."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from . import tokens
from .adapters import Layer, layers_of
from .data import Concept, UserError, check_prompt
from .methods import Method

TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}")
CROSS_ATTENTION = ("attn2.to_k", "attn2.to_v")
GUIDANCE = 1.5  # scale of classifier-free guidance; the default is that of the embedded base


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator that depends on these numbers alone, so that nothing has to be carried from task to task."""
    value = 0
    for n in numbers:
        value = (value * 1_000_003 + n + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(value)


@dataclass
class Learned:
    """What learning one concept left: all a figure needs, and the row of its token."""

    row: Tensor  # (width,)
    steps: list[dict] = field(default_factory=list)
    weight_change: float = 0.0  # mean over layers of ‖W_t - W_init‖
    step_change: float = 0.0  # mean over layers of ‖ΔW_t‖
    mask_density: float | None = None  # share of weights the folded masks leave open
    masks: dict[str, Tensor] = field(default_factory=dict)  # layer -> (D1, D2) bool
    trained: int = 0  # parameters the optimizer held
    seconds: float = 0.0


class TextToImage:
    """A stock StableDiffusionPipeline, frozen but for the K and V of its cross-attention and one token at a time.

    Everything trained is fp32 and everything else keeps the pipeline's precision. Images are (n, 3, H, W) in [-1, 1].
    """

    def __init__(self, pipe):
        self.pipe = pipe
        self.unet, self.vae, self.text = pipe.unet, pipe.vae, pipe.text_encoder
        self.size = self.unet.config.sample_size * pipe.vae_scale_factor
        for model in (self.unet, self.vae, self.text):
            model.requires_grad_(False).eval()
        self.unet.to(memory_format=torch.channels_last)
        try:
            self.layers: list[Layer] = layers_of(self.unet, CROSS_ATTENTION)
        except ValueError as error:
            raise UserError(f"this base cannot be customised: {error}") from None
        self.words = len(pipe.tokenizer)  # the base vocabulary; custom tokens follow it
        self.custom: dict[str, int] = {}  # token -> row

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def table(self) -> torch.nn.Embedding:
        return self.text.get_input_embeddings()

    @torch.no_grad()
    def encode(self, images: Tensor, batch: int = 32) -> Tensor:
        """Latents of a concept's pictures, encoded once: (n, 3, H, W) -> (n, C, h, w), scaled, fp32."""
        parts = [self.vae.encode(x.to(self.vae.device, self.vae.dtype)).latent_dist.mean for x in images.split(batch)]
        return torch.cat(parts).float() * self.vae.config.scaling_factor

    def add_token(self, token: str, row: Tensor) -> None:
        """Give a token its row (width,) in the stock embedding table."""
        if token not in self.custom:
            self.custom[token] = tokens.add_token(self.pipe.tokenizer, self.text, token)
        with torch.no_grad():
            self.table.weight[self.custom[token]] = row.to(self.table.weight)

    def learn(self, concept: Concept, method: Method, seed: int, task: int, on_step: Callable | None = None) -> Learned:
        """Train on the concept's pictures, then fold: afterwards the pipeline is stock again and knows `concept.token`.

        on_step(step, numbers) is called after every step. Draws depend on (seed, task) alone.
        """
        started = time.perf_counter()
        latents = self.encode(concept.load(self.size)).to(memory_format=torch.channels_last)
        start = tokens.random_start(self.table, self.words, seeded(seed, task, 0))
        self.add_token(concept.token, start)
        token = method.token(start, seeded(seed, task, 1)).to(self.device)
        tokens.attach(self.table, self.custom[concept.token], token)
        draw = seeded(seed, task, 2)
        for layer in self.layers:
            adapter = method.adapter(layer.current, draw)
            if adapter is not None:
                layer.attach(adapter)
        adapted = [layer for layer in self.layers if layer.adapter is not None]
        try:
            steps = self._train(latents, concept.token, token, adapted, method, seeded(seed, task, 3), on_step)
        except BaseException:
            for layer in adapted:  # interrupted or failed: the model is left as it was before this task
                layer.withdraw()
            tokens.fold(self.table)
            raise
        trained = sum(p.numel() for m in (token, *(layer.adapter for layer in adapted)) for p in m.parameters())
        masks = {layer.name: binary_mask(layer) for layer in adapted if hasattr(layer.adapter, "mask")}
        changes = [layer.fold() for layer in adapted]
        return Learned(
            row=tokens.fold(self.table),
            steps=steps,
            weight_change=mean([layer.past.norm().item() for layer in self.layers]),
            step_change=mean([c.norm().item() for c in changes]),
            mask_density=mean([m.float().mean().item() for m in masks.values()]) if masks else None,
            masks=masks,
            trained=trained,
            seconds=time.perf_counter() - started,
        )

    def _train(self, latents, token_name, token, adapted, method, draw, on_step) -> list[dict]:
        s, scheduler = method.settings, self.pipe.scheduler
        factors = [p for layer in adapted for p in layer.adapter.parameters()]
        groups = [{"params": list(token.parameters()), "lr": s.lr_token}]
        groups += [{"params": factors, "lr": s.lr}] if factors else []
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        ids = self.tokenize([t.format(token_name) for t in TEMPLATES])
        log = []
        for step in range(s.steps):
            picked = torch.randint(len(latents), (s.batch,), generator=draw)
            told = torch.randint(len(TEMPLATES), (s.batch,), generator=draw)
            x = latents[picked.to(latents.device)]
            noise = torch.randn(x.shape, generator=draw).to(x)
            t = torch.randint(scheduler.config.num_train_timesteps, (s.batch,), generator=draw).to(x.device)
            for layer in adapted:
                if hasattr(layer.adapter, "mask"):
                    layer.adapter.mask.draw(draw)
            words = self.text(ids)[0][told.to(x.device)]  # each template is encoded once a step
            noisy = scheduler.add_noise(x, noise, t).to(self.unet.dtype)
            predicted = self.unet(noisy, t, words).sample
            diffusion = F.mse_loss(predicted.float(), target(scheduler, x, noise, t))
            penalties = [p for p in map(method.penalty, adapted) if p is not None]
            loss = diffusion + torch.stack(penalties).sum() if penalties else diffusion
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            numbers = {"loss": loss.item(), "diffusion": diffusion.item()}
            log.append({"step": step, **numbers})
            if on_step:
                on_step(step, numbers)
        return log

    def tokenize(self, prompts: list[str]) -> Tensor:
        """(n, positions) token ids, padded to the text encoder's length as Stable Diffusion does."""
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return ids.input_ids.to(self.device)

    @torch.no_grad()
    def draw(
        self, prompts: list[str], seeds: list[int], steps: int = 20, guidance: float = GUIDANCE, batch: int = 64
    ) -> Tensor:
        """One picture a (prompt, seed) pair, depending on its seed alone: (n, 3, H, W) in [-1, 1], on the CPU."""
        check_prompts(prompts, self.pipe.tokenizer)
        self.pipe.set_progress_bar_config(disable=True)
        out = []
        for k in range(0, len(prompts), batch):
            generators = [torch.Generator().manual_seed(s) for s in seeds[k : k + batch]]
            pictures = self.pipe(
                prompts[k : k + batch], num_inference_steps=steps, guidance_scale=guidance,
                generator=generators, output_type="pt",
            ).images  # fmt: skip
            out.append(pictures.float().cpu() * 2 - 1)
        return torch.cat(out)


def target(scheduler, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the U-Net should predict, by the scheduler's own prediction type."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(x, noise, t)
    raise UserError(f"the base's scheduler predicts {kind}: expected epsilon or v_prediction")


def binary_mask(layer: Layer) -> Tensor:
    """The mask that folding uses, as booleans: (D1, D2)."""
    mask = layer.adapter.mask.eval()
    with torch.no_grad():
        return (mask() > 0.5).cpu()


def check_prompts(prompts: list[str], tokenizer) -> None:
    for prompt in set(prompts):
        check_prompt(prompt, tokenizer)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
