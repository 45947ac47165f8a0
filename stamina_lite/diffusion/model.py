"""Concepts, learned by a text-to-image model: what is frozen, what is trained, and the loss."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from ..core import tokens
from ..core.adaptation import Adaptation, Change, check_finite, check_trained, withdraw
from ..core.layers import AdaptedWeight, every_weight, layers_of
from ..core.method import Method
from ..core.seeds import seeded
from ..core.settings import GUIDANCE
from ..errors import UserError
from ..runs import distributed
from . import history
from .captions import PROMPT, CaptionedLatents, caption_with_templates
from .concepts import Concept
from .sampling import Drawing

CROSS_ATTENTION = ("attn2.to_k", "attn2.to_v")


@dataclass
class Learned(Change):
    """What a task left: all a figure needs, and the rows of its tokens."""

    rows: dict[str, Tensor] = field(default_factory=dict)  # token -> (width,)
    steps: list[dict] = field(default_factory=list)
    trained: int = 0  # parameters the optimizer held
    seconds: float = 0.0


class TextToImage(Drawing):
    """A stock StableDiffusionPipeline that learns: frozen but for K and V of its cross-attention and a task's tokens.

    full_finetuning: all weights of the U-Net may change, not only those K and V.
    Everything trained is fp32 and everything else keeps the pipeline's precision. Images are (n, 3, H, W) in [-1, 1].
    """

    def __init__(self, pipe, full_finetuning: bool = False):
        super().__init__(pipe)
        try:
            self.layers: list[AdaptedWeight] = (
                every_weight(self.unet) if full_finetuning else layers_of(self.unet, CROSS_ATTENTION)
            )
        except ValueError as error:
            raise UserError(f"this base cannot be customised: {error}") from None
        self.before = 0  # tasks that the base has learned already, if it was exported from a run
        history.take_up(self)
        self.prior: CaptionedLatents | None = None  # images of the base, for methods that use them

    def learn(
        self,
        concepts: Concept | Sequence[Concept],
        method: Method,
        seed: int,
        task: int,
        on_step: Callable | None = None,
    ) -> Learned:
        """Train on pictures of a concept, or of several, then fold: the pipeline is stock again and knows its token.

        on_step(step, numbers) is called after every step. Draws depend on (seed, task) alone. Raises UserError where
        the loss is no finite number any more.
        """
        started = time.perf_counter()
        again, task = method.joint and task > 1, task + self.before
        concepts = [concepts] if isinstance(concepts, Concept) else list(concepts)
        parts = [self.encode(c.load(self.size)) for c in concepts]
        subjects = [c.token for c, part in zip(concepts, parts, strict=True) for _ in part]
        own = caption_with_templates(torch.cat(parts).to(memory_format=torch.channels_last), subjects)
        begin, inside, draw = (seeded(seed, task, k) for k in range(3))
        made = {}
        for concept in concepts:
            start = tokens.random_start(self.table, self.words, begin)
            if again:
                start = self.table.weight[self.custom[concept.token]].detach().float().clone()
            self.add_token(concept.token, start)
            made[concept.token] = method.token(start, inside).to(self.device)
        held = [layer.current for layer in self.layers]
        try:
            method.begin(self, own)
            beside = method.prior_images(self, seeded(seed, task, 4)) if method.settings.lambda_prior else None
            tokens.attach(self.table, {self.custom[name]: token for name, token in made.items()})
            adaptation = Adaptation(self.layers, method, draw)
            steps = self._train(own, beside, list(made.values()), adaptation, seeded(seed, task, 3), on_step)
        except BaseException:
            withdraw(self.layers, held)
            if is_parametrized(self.table):
                tokens.fold(self.table)
            raise
        trained = [*adaptation.parameters(), *(p for token in made.values() for p in token.parameters())]
        adaptation.fold(task)
        rows = tokens.fold(self.table)
        method.end(self, own, seeded(seed, task, 5))
        return Learned(
            **vars(adaptation.change()),
            rows={name: rows[self.custom[name]] for name in made},
            steps=steps,
            trained=sum(p.numel() for p in trained),
            seconds=time.perf_counter() - started,
        )

    def _train(self, own, beside, made, adaptation: Adaptation, draw, on_step) -> list[dict]:
        s = adaptation.method.settings
        factors = adaptation.parameters()
        groups = [{"params": [p for token in made for p in token.parameters()], "lr": s.lr_token}]
        groups += [{"params": factors, "lr": s.lr}] if factors else []
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        # Of a loss as it is most gradients inside a U-Net in fp16 are smaller than its smallest number.
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.unet.dtype == torch.float16)
        captions = self.tokenize([*own.captions, *(beside.captions if beside else ())])
        batches = [s.batch, *([max(1, s.batch // 2)] if beside else [])]
        mine, n = distributed.share(*batches), s.batch // distributed.count()
        log = []
        for step in range(s.steps):
            x, told = own.pick(s.batch, draw)
            if beside:
                more, said = beside.pick(batches[1], draw)
                x, told = torch.cat([x, more]), torch.cat([told, said + len(own.captions)])
            adaptation.sample_noise(step / s.steps, draw)
            optimizer.zero_grad()
            with adaptation.cached():
                errors = self.errors(x, captions, told, draw, mine)
                diffusion = errors[:n].mean()
                penalties = adaptation.penalties()
                penalties += [s.lambda_prior * errors[n:].mean()] if beside else []
                loss = diffusion + torch.stack(penalties).sum() if penalties else diffusion
                scaler.scale(loss).backward()
            losses = torch.stack([loss, diffusion]).detach()
            distributed.average([losses, *(p.grad for group in groups for p in group["params"] if p.grad is not None)])
            scaler.step(optimizer)
            scaler.update()
            numbers = dict(zip(("loss", "diffusion"), losses.tolist(), strict=True))
            check_finite(numbers["loss"], step)
            log.append({"step": step, **numbers})
            if on_step:
                on_step(step, numbers)
        check_trained(groups)
        return log

    def errors(
        self, x: Tensor, captions: Tensor, told: Tensor, generator: torch.Generator, mine: slice = slice(None)
    ) -> Tensor:
        """L_diff of every picture at a random time and noise, of those that are `mine`: (n,).

        x: (n, C, h, w); captions: (m, positions) token ids; told: (n,), which one a picture is told of. A caption is
        encoded once, however many pictures it is told of. Time and noise are drawn for all.
        """
        scheduler = self.pipe.scheduler
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(x),), generator=generator).to(x.device)
        x, told, noise, t = x[mine], told[mine], noise[mine], t[mine]
        distinct, which = told.to(captions.device).unique(return_inverse=True)
        words = self.text(captions[distinct])[0].index_select(0, which)  # indexing adds gradients in any order
        noisy = scheduler.add_noise(x, noise, t).to(self.unet.dtype)
        predicted = self.unet(noisy, t, words.to(self.unet.dtype)).sample
        return F.mse_loss(predicted.float(), target(scheduler, x, noise, t), reduction="none").mean((1, 2, 3))

    def losses(self, pictures: CaptionedLatents, n: int, generator: torch.Generator) -> Iterator[Callable[[], Tensor]]:
        """L_diff of n pictures, one at a time, as functions: what the Fisher information is taken of."""
        captions = self.tokenize(pictures.captions)
        for _ in range(n):
            x, told = pictures.pick(1, generator)

            def loss(x=x, told=told) -> Tensor:
                return self.errors(x, captions, told, generator).sum()

            yield loss

    def base_pictures(self, prompts: list[str], n: int, guidance: float = GUIDANCE) -> CaptionedLatents:
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
            self.prior = CaptionedLatents(latents, prompts, torch.tensor(which)[:, None])
        return self.prior

    def past_pictures(self, n: int, generator: torch.Generator, guidance: float = GUIDANCE) -> CaptionedLatents | None:
        """n pictures that the model as it is draws of its past concepts in turn; None before the second concept."""
        past = list(self.custom)[:-1]  # the last is the concept to be learned
        if not past:
            return None
        subjects = [past[k % len(past)] for k in range(n)]
        prompts = [PROMPT.format(token) for token in subjects]
        return caption_with_templates(self.imagine(prompts, generator, guidance), subjects)


def target(scheduler, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the U-Net should predict, by the scheduler's own prediction type."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(x, noise, t)
    raise UserError(f"the base's scheduler predicts {kind}: expected epsilon or v_prediction")
