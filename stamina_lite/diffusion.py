"""Concepts, learned by a text-to-image model: what is frozen, what is trained, and the loss."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from . import metrics, tokens
from .adapters import Layer, every_weight, layers_of
from .data import Concept, UserError
from .drawing import GUIDANCE, Drawing, seeded
from .method import Method
from .pictures import Pictures, described

CROSS_ATTENTION = ("attn2.to_k", "attn2.to_v")


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


class TextToImage(Drawing):
    """A stock StableDiffusionPipeline that learns: frozen but for K and V of its cross-attention and a task's tokens.

    everywhere: all weights of the U-Net may change, not only those K and V.
    Everything trained is fp32 and everything else keeps the pipeline's precision. Images are (n, 3, H, W) in [-1, 1].
    """

    def __init__(self, pipe, everywhere: bool = False):
        super().__init__(pipe)
        try:
            self.layers: list[Layer] = every_weight(self.unet) if everywhere else layers_of(self.unet, CROSS_ATTENTION)
        except ValueError as error:
            raise UserError(f"this base cannot be customised: {error}") from None
        self.prior: Pictures | None = None  # what the base draws of general words, for methods that train beside it

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
        try:
            method.begin(self)
            before = [layer.current for layer in self.layers]
            beside = method.beside(self, seeded(seed, task, 4)) if method.settings.prior else None
            tokens.attach(self.table, {self.custom[name]: token for name, token in made.items()})
            adapted = self._adapt(method, draw)
            steps = self._train(own, beside, list(made.values()), adapted, method, seeded(seed, task, 3), on_step)
        except BaseException:
            self._withdraw(held)
            raise
        modules = [*made.values(), *(layer.adapter for layer in adapted)]
        trained = sum(p.numel() for module in modules for p in module.parameters())
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

    def _adapt(self, method: Method, generator: torch.Generator) -> list[Layer]:
        """Put a method's adapters on; the layers that have one."""
        adapters = [method.adapter(layer, generator) for layer in self.layers]
        adapted = [
            (layer, adapter) for layer, adapter in zip(self.layers, adapters, strict=True) if adapter is not None
        ]
        for layer, adapter in adapted:
            layer.attach(adapter)
        return [layer for layer, _ in adapted]

    def _withdraw(self, weights: list[Tensor]) -> None:
        """Leave the model as it was before a task that was interrupted or failed."""
        for layer, weight in zip(self.layers, weights, strict=True):
            if layer.adapter is not None:
                layer.withdraw()
            layer.restore(weight)
        if is_parametrized(self.table):
            tokens.fold(self.table)

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
            noise = max(0.0, 1 - step / (s.cool * s.steps)) if s.cool else 1.0
            for layer in adapted:
                if hasattr(layer.adapter, "mask"):
                    layer.adapter.mask.draw(draw, noise)
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

    def base_pictures(self, prompts: list[str], n: int, guidance: float = GUIDANCE) -> Pictures:
        """n pictures that the base drew of prompts in turn: the same for every task, run and method."""
        if self.prior is None:
            held = [layer.current for layer in self.layers]
            for layer in self.layers:
                layer.restore(layer.start)
            which = [k % len(prompts) for k in range(n)]
            try:
                latents = self.imagine([prompts[k] for k in which], seeded(0), guidance)
            finally:
                for layer, weight in zip(self.layers, held, strict=True):
                    layer.restore(weight)
            self.prior = Pictures(latents, prompts, torch.tensor(which)[:, None])
        return self.prior


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


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
