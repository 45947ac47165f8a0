"""A stock StableDiffusionPipeline that learns concepts: what is frozen, what is trained, and the loss."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..core import tokens
from ..core.adaptation import Adaptation
from ..core.layers import AdaptedWeight, every_weight, layers_of
from ..core.method import Method
from ..core.seeds import Stream, seeded
from ..core.settings import GUIDANCE, Settings
from ..core.task import restored_on_error, train
from ..errors import UserError
from ..runs import distributed
from ..runs.changes import Change, change_of
from ..runs.checkpoint import Checkpoint
from . import history
from .captions import PROMPT, CaptionedLatents, caption_with_templates
from .concepts import Concept
from .sampling import Inference
from .training_noise import target, training_scheduler
from .vocabulary import check_prompts

CROSS_ATTENTION = ("attn2.to_k", "attn2.to_v")


@dataclass
class Learned(Change):
    """The outcome of a task."""

    rows: dict[str, Tensor] = field(default_factory=dict)  # token -> (width,)
    steps: list[dict] = field(default_factory=list)  # of every step {"step", "loss", "diffusion"}
    trained: int = 0  # number of trained parameters
    seconds: float = 0.0


class TextToImage(Inference):
    """A StableDiffusionPipeline that learns: K and V of its cross-attention and a task's tokens are trained.

    Everything trained is fp32; everything else is frozen and keeps the pipeline's precision. Images are (n, 3, H, W) in
    [-1, 1].

    Args:
        pipe: a stock pipeline, changed in place. If its folder has a history, the model goes on from it.
        full_finetuning: adapt all weights of the U-Net.

    Raises:
        UserError: the U-Net has no cross-attention or a LoRA, the scheduler no betas, or the history is damaged.
    """

    def __init__(self, pipe, full_finetuning: bool = False):
        super().__init__(pipe)
        if any(hasattr(module, "base_layer") for model in (self.unet, self.text) for module in model.modules()):
            raise UserError(
                "the pipeline has a LoRA loaded: call pipe.unload_lora_weights(), after pipe.fuse_lora() to keep it"
            )
        try:
            found = every_weight(self.unet) if full_finetuning else layers_of(self.unet, CROSS_ATTENTION)
        except ValueError as error:
            raise UserError(f"this base cannot be customised: {error}") from None
        self.layers: list[AdaptedWeight] = found
        self.training_scheduler = training_scheduler(pipe.scheduler)
        self.n_past_tasks = 0  # tasks that the base has learned already, if it was exported from a run
        history.load_past(self)
        self.prior: CaptionedLatents | None = None  # images of the base, once a method has asked for them

    def learn(
        self,
        concepts: Concept | Sequence[Concept],
        method: Method,
        seed: int,
        task: int,
        on_step: Callable | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Learned:
        """Train on the images of a concept, or of several, then fold: the pipeline is stock again and has its token.

        Args:
            concepts: learned together in this task.
            seed, task: all that random draws depend on; task counts from 1.
            on_step: called after every step with its number, from 0, and its losses.
            checkpoint: saves the training every few steps; the training goes on from what it has saved.

        Raises:
            UserError: the loss or a weight is not finite. The model is then as it was before, and so it is after an
                interruption.
        """
        started = time.perf_counter()
        again, task = method.joint and task > 1, task + self.n_past_tasks
        concepts = [concepts] if isinstance(concepts, Concept) else list(concepts)
        latents = [self.encode(c.load(self.size)) for c in concepts]
        subjects: list[str] = []
        written: list[str | None] = []
        for concept, part in zip(concepts, latents, strict=True):
            subjects += [concept.token] * len(part)
            for caption in concept.captions or [None] * len(concept.images):
                written += [caption] * (len(part) // len(concept.images))
        images = caption_with_templates(torch.cat(latents).to(memory_format=torch.channels_last), subjects, written)
        start, init = (seeded(seed, task, stream) for stream in (Stream.TOKEN_START, Stream.TOKEN_INIT))
        with restored_on_error(self.layers), self._tokens_restored_on_error():
            modules = self._tokens(concepts, method, start, init, again)
            check_prompts(images.captions, self.pipe.tokenizer)
            method.begin(self, images)
            prior = None
            if method.settings.lambda_prior:
                prior = method.prior_images(self, seeded(seed, task, Stream.PRIOR_IMAGES))
            tokens.attach(self.embedding, {self.token_ids[name]: module for name, module in modules.items()})
            adaptation = Adaptation(self.layers, method, seeded(seed, task, Stream.ADAPTERS))
            token_parameters = [p for module in modules.values() for p in module.parameters()]
            parameters = adaptation.parameters()
            steps = self._train(
                images, prior, token_parameters, adaptation, seeded(seed, task, Stream.TRAINING), on_step, checkpoint
            )
        adaptation.fold(task)
        rows = tokens.fold(self.embedding)
        method.end(self, images, adaptation.adapters, seeded(seed, task, Stream.END_OF_TASK))
        return Learned(
            **vars(change_of(adaptation)),
            rows={name: rows[self.token_ids[name]] for name in modules},
            steps=steps,
            trained=sum(p.numel() for p in parameters + token_parameters),
            seconds=time.perf_counter() - started + (checkpoint.seconds if checkpoint else 0),
        )

    def _tokens(
        self, concepts: list[Concept], method: Method, start_generator, init_generator, again: bool
    ) -> dict[str, nn.Module]:
        """Add the concepts' tokens; token -> module that computes its row. again: it starts from its present row."""
        modules = {}
        for concept in concepts:
            start = tokens.random_start(self.embedding, self.vocabulary_size, start_generator)
            if again:
                start = self.embedding.weight[self.token_ids[concept.token]].detach().float().clone()
            self.add_token(concept.token, start)
            modules[concept.token] = method.token(start, init_generator).to(self.device)
        return modules

    @contextmanager
    def as_folded(self) -> Iterator[None]:
        """Inside, during a task, the weights are what they would be if the task ended now: masks are binary."""
        adapters = [layer.adapter for layer in self.layers if layer.adapter is not None]
        for adapter in adapters:
            adapter.eval()
        try:
            yield
        finally:
            for adapter in adapters:
                adapter.train()

    @contextmanager
    def _tokens_restored_on_error(self) -> Iterator[None]:
        """Leave the vocabulary and the tokens' rows as they were before a task that fails or is interrupted."""
        tokenizer = copy.deepcopy(self.pipe.tokenizer)  # a token cannot be taken out of one
        rows = {token: self.embedding.weight[index].detach().clone() for token, index in self.token_ids.items()}
        try:
            yield
        except BaseException:
            if is_parametrized(self.embedding):
                tokens.fold(self.embedding)
            for token in [*self.token_ids]:
                if token not in rows:
                    del self.token_ids[token]
            if len(self.pipe.tokenizer) > len(tokenizer):
                self.pipe.tokenizer = tokenizer
                self.text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
                self.text.requires_grad_(False)
            for token, row in rows.items():
                self.add_token(token, row)
            raise

    def _train(
        self, images: CaptionedLatents, prior: CaptionedLatents | None, token_parameters: Sequence[Tensor],
        adaptation: Adaptation, generator: torch.Generator, on_step: Callable | None, checkpoint: Checkpoint | None,
    ) -> list[dict]:  # fmt: skip
        """Every step: a batch of the images, half a batch of prior images, and this process's share of both."""
        s = adaptation.method.settings
        groups = [{"params": token_parameters, "lr": s.lr_token}]
        if parameters := adaptation.parameters():
            groups.append({"params": parameters, "lr": s.lr})
        captions = self.tokenize([*images.captions, *(prior.captions if prior else ())])
        sizes = [s.batch, *([max(1, s.batch // 2)] if prior else [])]
        share, n = distributed.share(*sizes), s.batch // distributed.count()

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(s.steps):
                x, caption_ids = images.pick(s.batch, generator)
                if prior:
                    prior_x, prior_ids = prior.pick(sizes[1], generator)
                    x, caption_ids = torch.cat([x, prior_x]), torch.cat([caption_ids, prior_ids + len(images.captions)])
                yield x, caption_ids

        def losses(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
            errors = self.errors(batch[0], captions, batch[1], generator, share)
            return errors[:n].mean(), [s.lambda_prior * errors[n:].mean()] if prior else []

        return train(
            adaptation, groups, batches(), losses, s.steps, generator, name="diffusion",
            fp16=self.unet.dtype == torch.float16, reduce=distributed.average, on_step=on_step,
            resume=checkpoint.resume if checkpoint else None,
        )  # fmt: skip

    def errors(
        self, x: Tensor, captions: Tensor, caption_ids: Tensor, generator: torch.Generator, share: slice = slice(None)
    ) -> Tensor:
        """L_diff of every image at a random timestep and noise: (n,).

        A caption is encoded once, however many images have it. Timesteps and noise are drawn for all images, also for
        those that other processes compute.

        Args:
            x: latents, (n, C, h, w).
            captions: token ids, (m, positions).
            caption_ids: (n,), the row of `captions` of every image.
            share: the images that this process computes.
        """
        scheduler = self.training_scheduler
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(x),), generator=generator).to(x.device)
        x, caption_ids, noise, t = x[share], caption_ids[share], noise[share], t[share]
        distinct, inverse = caption_ids.to(captions.device).unique(return_inverse=True)
        states = self.text(captions[distinct])[0].index_select(0, inverse)  # indexing adds gradients in any order
        noisy = scheduler.add_noise(x, noise, t).to(self.unet.dtype)
        predicted = self.unet(noisy, t, states.to(self.unet.dtype)).sample
        return F.mse_loss(predicted.float(), target(scheduler, x, noise, t), reduction="none").mean((1, 2, 3))

    def losses(self, images: CaptionedLatents, n: int, generator: torch.Generator) -> Iterator[Callable[[], Tensor]]:
        """L_diff of n images, one at a time, as functions: the samples of the Fisher information."""
        captions = self.tokenize(images.captions)
        for _ in range(n):
            x, caption_ids = images.pick(1, generator)

            def loss(x=x, caption_ids=caption_ids) -> Tensor:
                return self.errors(x, captions, caption_ids, generator).sum()

            yield loss

    def base_images(self, settings: Settings) -> CaptionedLatents:
        """`n_prior` images that the base generates of `prior_prompts`: the same for every task, run and method."""
        if self.prior is None:
            prompts = [prompt.strip() for prompt in settings.prior_prompts.split(";")]
            weights = [layer.current for layer in self.layers]
            for layer in self.layers:
                layer.restore(layer.start)
            ids = [k % len(prompts) for k in range(settings.n_prior)]
            try:
                latents = self.generate_latents([prompts[k] for k in ids], seeded(0), settings.guidance)
            finally:
                for layer, weight in zip(self.layers, weights, strict=True):
                    layer.restore(weight)
            self.prior = CaptionedLatents(latents, prompts, torch.tensor(ids)[:, None])
        return self.prior

    def past_images(self, n: int, generator: torch.Generator, guidance: float = GUIDANCE) -> CaptionedLatents | None:
        """n images that the present model generates of its past concepts in turn; None before the second concept."""
        past = list(self.token_ids)[:-1]  # the last one is about to be learned
        if not past:
            return None
        subjects = [past[k % len(past)] for k in range(n)]
        prompts = [PROMPT.format(token) for token in subjects]
        return caption_with_templates(self.generate_latents(prompts, generator, guidance), subjects)
