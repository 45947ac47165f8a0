"""Concepts, learned by a text-to-image model: what is frozen, what is trained, the loss, and drawing pictures."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from . import metrics, tokens
from .adapters import Layer, every_weight, layers_of
from .data import Concept, UserError, check_prompt
from .method import Method
from .pictures import PROMPT, Pictures, described

CROSS_ATTENTION = ("attn2.to_k", "attn2.to_v")
GUIDANCE = 1.5  # scale of classifier-free guidance; the default is that of the embedded base
DRAWING_STEPS = 10  # of UniPC; on the embedded base as good as twenty of DDIM


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator that depends on these numbers alone, so that nothing has to be carried from task to task."""
    value = 0
    for n in numbers:
        value = (value * 1_000_003 + n + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(value)


@dataclass
class Learned:
    """What a task left: all a figure needs, and the rows of its tokens."""

    rows: dict[str, Tensor]  # token -> (width,)
    steps: list[dict] = field(default_factory=list)
    weight_change: float = 0.0  # mean over layers of ‖W_t - W_init‖
    step_change: float = 0.0  # mean over layers of ‖ΔW_t‖, W_t less the weights the task began with
    touched: float | None = None  # share of Σ|W_{t-1} - W_init| where ΔW_t is not zero, mean over layers
    alignment: float | None = None  # cosine of |W_{t-1} - W_init| and |ΔW_t|, mean over layers
    mask_density: float | None = None  # share of weights the folded masks leave open
    masks: dict[str, Tensor] = field(default_factory=dict)  # layer -> (D1, D2) bool
    trained: int = 0  # parameters the optimizer held
    seconds: float = 0.0


class TextToImage:
    """A stock StableDiffusionPipeline, frozen but for the K and V of its cross-attention and the tokens of a task.

    everywhere: all weights of the U-Net may change, not only those K and V.
    Everything trained is fp32 and everything else keeps the pipeline's precision. Images are (n, 3, H, W) in [-1, 1].
    """

    def __init__(self, pipe, everywhere: bool = False):
        self.pipe = pipe
        self.unet, self.vae, self.text = pipe.unet, pipe.vae, pipe.text_encoder
        self.size = self.unet.config.sample_size * pipe.vae_scale_factor
        for model in (self.unet, self.vae, self.text):
            model.requires_grad_(False).eval()
        self.unet.to(memory_format=torch.channels_last)
        try:
            self.layers: list[Layer] = every_weight(self.unet) if everywhere else layers_of(self.unet, CROSS_ATTENTION)
        except ValueError as error:
            raise UserError(f"this base cannot be customised: {error}") from None
        self.words = len(pipe.tokenizer)  # the base vocabulary; custom tokens follow it
        self.custom: dict[str, int] = {}  # token -> row, in the order in which they were learned
        self.prior: Pictures | None = None  # what the base draws of general words, for methods that train beside it

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

    def learn(
        self,
        concepts: Concept | Sequence[Concept],
        method: Method,
        seed: int,
        task: int,
        on_step: Callable | None = None,
    ) -> Learned:
        """Train on pictures of a concept, or of several, then fold: the pipeline is stock again and knows its token.

        on_step(step, numbers) is called after every step. Draws depend on (seed, task) alone.
        """
        started = time.perf_counter()
        concepts = [concepts] if isinstance(concepts, Concept) else list(concepts)
        parts = [self.encode(c.load(self.size)) for c in concepts]
        subjects = [c.token for c, part in zip(concepts, parts, strict=True) for _ in part]
        own = described(torch.cat(parts).to(memory_format=torch.channels_last), subjects)
        begin, inside, draw = (seeded(seed, task, k) for k in range(3))
        made = {}
        for concept in concepts:
            start = tokens.random_start(self.table, self.words, begin)
            if method.joint and task > 1:
                start = self.table.weight[self.custom[concept.token]].detach().float().clone()
            self.add_token(concept.token, start)
            made[concept.token] = method.token(start, inside).to(self.device)
        held = [layer.current for layer in self.layers]
        method.begin(self)
        before = [layer.current for layer in self.layers]
        beside = method.beside(self, seeded(seed, task, 4)) if method.settings.prior else None
        tokens.attach(self.table, {self.custom[name]: token for name, token in made.items()})
        adapters = [(layer, method.adapter(layer, draw)) for layer in self.layers]
        adapted = [layer for layer, adapter in adapters if adapter is not None]
        for layer, adapter in adapters:
            if adapter is not None:
                layer.attach(adapter)
        trained = [*made.values(), *(layer.adapter for layer in adapted)]
        try:
            steps = self._train(own, beside, list(made.values()), adapted, method, seeded(seed, task, 3), on_step)
        except BaseException:  # interrupted or failed: the model is left as it was before this task
            for layer in adapted:
                layer.withdraw()
            for layer, weight in zip(self.layers, held, strict=True):
                layer.restore(weight)
            tokens.fold(self.table)
            raise
        trained = sum(p.numel() for module in trained for p in module.parameters())
        masks = {layer.name: binary_mask(layer) for layer in adapted if hasattr(layer.adapter, "mask")}
        for layer in adapted:
            layer.fold(partial(method.folded, task=task))
        rows = tokens.fold(self.table)
        method.end(self, own, seeded(seed, task, 5))
        moved = [(old - layer.start, layer.current - old) for old, layer in zip(before, self.layers, strict=True)]
        shares = [metrics.touched(past, step) for past, step in moved if past.any() and step.any()]
        return Learned(
            rows={name: rows[self.custom[name]] for name in made},
            steps=steps,
            weight_change=mean([layer.past.norm().item() for layer in self.layers]),
            step_change=mean([step.norm().item() for _, step in moved]),
            touched=mean([s[0] for s in shares]) if shares else None,
            alignment=mean([s[1] for s in shares]) if shares else None,
            mask_density=mean([m.float().mean().item() for m in masks.values()]) if masks else None,
            masks=masks,
            trained=trained,
            seconds=time.perf_counter() - started,
        )

    def _train(self, own, beside, made, adapted, method, draw, on_step) -> list[dict]:
        s = method.settings
        factors = [p for layer in adapted for p in layer.adapter.parameters()]
        groups = [{"params": [p for token in made for p in token.parameters()], "lr": s.lr_token}]
        groups += [{"params": factors, "lr": s.lr}] if factors else []
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        captions = self.tokenize([*own.captions, *(beside.captions if beside else ())])
        log = []
        for step in range(s.steps):
            x, told = own.pick(s.batch, draw)
            if beside:
                more, said = beside.pick(max(1, s.batch // 2), draw)
                x, told = torch.cat([x, more]), torch.cat([told, said + len(own.captions)])
            for layer in adapted:
                if hasattr(layer.adapter, "mask"):
                    layer.adapter.mask.draw(draw)
            errors = self.errors(x, captions, told, draw)
            diffusion = errors[: s.batch].mean()
            penalties = [p for p in map(method.penalty, adapted) if p is not None]
            penalties += [s.prior * errors[s.batch :].mean()] if beside else []
            loss = diffusion + torch.stack(penalties).sum() if penalties else diffusion
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            numbers = {"loss": loss.item(), "diffusion": diffusion.item()}
            log.append({"step": step, **numbers})
            if on_step:
                on_step(step, numbers)
        return log

    def errors(self, x: Tensor, captions: Tensor, told: Tensor, generator: torch.Generator) -> Tensor:
        """L_diff of every picture at a random time and noise: (n,).

        x: (n, C, h, w); captions: (m, positions) token ids; told: (n,), which one a picture is told of. A caption is
        encoded once, however many pictures it is told of.
        """
        scheduler = self.pipe.scheduler
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(x),), generator=generator).to(x.device)
        distinct, which = told.to(captions.device).unique(return_inverse=True)
        words = self.text(captions[distinct])[0][which]
        noisy = scheduler.add_noise(x, noise, t).to(self.unet.dtype)
        predicted = self.unet(noisy, t, words.to(self.unet.dtype)).sample
        return F.mse_loss(predicted.float(), target(scheduler, x, noise, t), reduction="none").mean((1, 2, 3))

    def losses(self, pictures: Pictures, n: int, generator: torch.Generator) -> Iterator[Callable[[], Tensor]]:
        """L_diff of n pictures, one at a time, as functions: what the Fisher information is taken of."""
        captions = self.tokenize(pictures.captions)
        for _ in range(n):
            x, told = pictures.pick(1, generator)
            yield lambda x=x, told=told: self.errors(x, captions, told, generator).sum()

    @torch.no_grad()
    def imagine(self, prompts: list[str], generator: torch.Generator) -> Tensor:
        """Latents of pictures that the model as it is draws, one a prompt, to be trained on: (n, C, h, w)."""
        seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
        return self._run(prompts, seeds, output_type="latent").to(memory_format=torch.channels_last)

    def base_pictures(self, prompts: list[str], n: int) -> Pictures:
        """n pictures that the base drew of prompts in turn: the same for every task, run and method."""
        if self.prior is None:
            held = [layer.current for layer in self.layers]
            for layer in self.layers:
                layer.restore(layer.start)
            which = [k % len(prompts) for k in range(n)]
            latents = self.imagine([prompts[k] for k in which], seeded(0))
            for layer, weight in zip(self.layers, held, strict=True):
                layer.restore(weight)
            self.prior = Pictures(latents, prompts, torch.tensor(which)[:, None])
        return self.prior

    @torch.no_grad()
    def token_features(self) -> Tensor:
        """What the text encoder makes of the newest token, and of the end of its sentence: (2, width)."""
        name, index = list(self.custom.items())[-1]
        ids = self.tokenize([PROMPT.format(name)])
        place = (ids[0] == index).nonzero()[0, 0]
        return self.text(ids)[0][0, [place, place + 1]].float()

    @torch.no_grad()
    def word_features(self, n: int = 200) -> Tensor:
        """What it makes of n sentences with words of the base vocabulary, position by position: (m, width)."""
        vocabulary = self.pipe.tokenizer.convert_ids_to_tokens(range(self.words))
        known = [w.removesuffix("</w>") for w in vocabulary if w.endswith("</w>") and w[:-4].isalpha()]
        ids = self.tokenize([PROMPT.format(w) for w in known[:: max(1, len(known) // n)][:n]])
        ends = (ids == self.pipe.tokenizer.eos_token_id).int().argmax(1)
        inside = torch.arange(ids.shape[1], device=ids.device)[None] <= ends[:, None]
        return self.text(ids)[0][inside].float()

    def tokenize(self, prompts: list[str]) -> Tensor:
        """(n, positions) token ids, padded to the text encoder's length as Stable Diffusion does."""
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return ids.input_ids.to(self.device)

    def draw(
        self,
        prompts: list[str],
        seeds: list[int],
        steps: int = DRAWING_STEPS,
        guidance: float = GUIDANCE,
        batch: int = 64,
    ) -> Tensor:
        """One picture a (prompt, seed) pair, depending on its seed alone: (n, 3, H, W) in [-1, 1], on the CPU.

        Drawn with UniPC (Zhao et al. 2023), whatever scheduler the pipeline has: it needs the fewest steps.
        """
        check_prompts(prompts, self.pipe.tokenizer)
        return self._run(prompts, seeds, steps, guidance, batch, "pt").cpu() * 2 - 1

    def _run(self, prompts, seeds, steps=DRAWING_STEPS, guidance=GUIDANCE, batch=64, output_type="pt") -> Tensor:
        from diffusers import UniPCMultistepScheduler

        own = self.pipe.scheduler
        self.pipe.set_progress_bar_config(disable=True)
        out = []
        try:
            self.pipe.scheduler = UniPCMultistepScheduler.from_config(own.config)
            for k in range(0, len(prompts), batch):
                generators = [torch.Generator().manual_seed(s) for s in seeds[k : k + batch]]
                pictures = self.pipe(
                    prompts[k : k + batch], num_inference_steps=steps, guidance_scale=guidance,
                    generator=generators, output_type=output_type,
                ).images  # fmt: skip
                out.append(pictures.float())
        finally:
            self.pipe.scheduler = own
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
