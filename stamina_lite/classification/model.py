"""A stock timm VisionTransformer that learns classes: what is frozen, what is trained, and the loss."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from ..core.adaptation import Adaptation
from ..core.layers import AdaptedWeight, every_weight, parts_of
from ..core.method import Method
from ..core.seeds import Stream, seeded
from ..core.task import restored_on_error, train
from ..errors import UserError
from ..methods.prompts import Pool, PrefixAttention
from ..runs.changes import Change, change_of
from ..runs.state import load_state
from .datasets import TaskImages

KNOWN = ("mean", "std", "input_size")  # of its images, in a ViT's configuration


@dataclass
class LearnedClasses(Change):
    """The outcome of a task."""

    steps: list[dict] = field(default_factory=list)  # of every step {"step", "loss", "cross_entropy"}
    trained: int = 0  # number of trained parameters, with those of the head
    seconds: float = 0.0


class Classifier:
    """A timm VisionTransformer with a head for all classes, which it learns task by task.

    The head is trained, its rows start at zero, and what the method adapts: K and V of every block, every weight, or
    prompts before keys and values. Images are (n, 3, S, S) in [0, 1] and are normalised by the ViT's own mean and std.

    Args:
        vit: changed in place.
        classes: number of classes of all tasks together.
        tasks: number of tasks.
        seed: all that random draws depend on, with the number of the task.
        dtype: the ViT computes in it; weights, head and losses are fp32 whatever it is.

    Raises:
        UserError: the ViT has no blocks with attn.qkv, no linear head, or no configuration.
    """

    def __init__(
        self, vit, classes: int, method: Method, tasks: int, seed: int, dtype: torch.dtype = torch.float32
    ):  # fmt: skip
        check(vit)
        self.dtype = dtype
        self.vit: Any = vit
        self.method, self.seed = method, seed
        vit.reset_classifier(classes)
        vit.eval().requires_grad_(False)
        self.head = vit.head
        if not isinstance(self.head, nn.Linear):
            raise UserError(f"a {type(vit).__name__} has no linear head: give a timm VisionTransformer")
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.device = self.head.weight.device
        self.mean, self.std = (
            torch.tensor(vit.pretrained_cfg[k]).view(3, 1, 1).to(self.device) for k in ("mean", "std")
        )
        pool_generator = seeded(seed, 0, Stream.PROMPT_POOL)
        self.pool: Pool | None = method.prompts(vit.embed_dim, len(vit.blocks), tasks, pool_generator)
        self.layers: list[AdaptedWeight] = []
        if self.pool is not None:
            self.pool.to(self.device)
            for block in self.pool.layers:
                attention = vit.blocks[block].attn
                if not isinstance(attention, Attention):
                    raise UserError(f"prompts are for timm's own Attention, not {type(attention).__name__}: give a ViT")
                vit.blocks[block].attn = PrefixAttention(attention)
        elif method.full_finetuning:
            self.layers = every_weight(vit, without="head")
        else:
            self.layers = parts_of(vit, "attn.qkv", "qkv", method.qkv_parts)
        self.seen: list[int] = []  # labels in the order in which they were learned
        self.past: list[int] = []  # labels of the tasks before the present one

    def learn(self, images: TaskImages, task: int, on_step: Callable | None = None) -> LearnedClasses:
        """Train on a task's images, then fold: the ViT is stock again, but for prompts.

        Args:
            images: the training images of the task's classes.
            task: counts from 1; random draws depend on it and on the seed alone.
            on_step: called after every step with its number, from 0, and its losses.

        Raises:
            UserError: the loss or a weight is not finite. The model is then as it was before.
        """
        started, method = time.perf_counter(), self.method
        with restored_on_error(self.layers), self._head_and_prompts_restored_on_error():
            self.past = list(self.seen)
            self.seen += [c for c in images.classes if c not in self.past]
            method.begin(self, images)
            if self.pool is not None:
                self.pool.begin(task)
            adaptation = Adaptation(self.layers, method, seeded(self.seed, task, Stream.ADAPTERS))
            trained, steps = self._train(images, adaptation, seeded(self.seed, task, Stream.TRAINING), on_step)
        adaptation.fold(task)
        method.end(self, images, adaptation.adapters, seeded(self.seed, task, Stream.END_OF_TASK))
        seconds = time.perf_counter() - started
        return LearnedClasses(**vars(change_of(adaptation)), steps=steps, trained=trained, seconds=seconds)

    @contextmanager
    def _head_and_prompts_restored_on_error(self) -> Iterator[None]:
        seen, head = list(self.seen), [p.detach().clone() for p in self.head.parameters()]
        prompts = copy.deepcopy(self.pool.state_dict()) if self.pool is not None else {}
        try:
            yield
        except BaseException:
            self.seen = seen
            self.restore_head(*head)
            if self.pool is not None:
                self.pool.load_state_dict(prompts)
            raise

    def _train(
        self, images: TaskImages, adaptation: Adaptation, generator: torch.Generator, on_step: Callable | None
    ) -> tuple[int, list[dict]]:
        """The number of trained parameters, and the losses of every step."""
        s = self.method.settings
        parameters = adaptation.parameters()
        if self.pool is not None:
            parameters += [p for p in self.pool.parameters() if p.requires_grad]
        head = list(self.head.requires_grad_().parameters()) if self.method.head else []
        groups = [{"params": p, "lr": lr} for p, lr in ((parameters, s.lr), (head, s.lr_head)) if p]
        excluded = self._excluded(images.classes)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(s.epochs):
                yield from images.batches(s.batch, generator)

        def losses(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
            x, labels = (part.to(self.device) for part in batch)
            logits = self.logits(x, training=True)
            cross_entropy = F.cross_entropy(logits.masked_fill(excluded, -torch.inf), labels)
            extra = [self.method.auxiliary_loss(self, x, logits), self.pool.loss if self.pool is not None else None]
            return cross_entropy, [term for term in extra if term is not None]

        n_steps = s.epochs * -(-len(images.indices) // s.batch)
        log = train(
            adaptation, groups, batches(), losses, n_steps, generator,
            name="cross_entropy", cosine=True, on_step=on_step,
        )  # fmt: skip
        self.head.requires_grad_(False)
        return sum(p.numel() for p in parameters + head), log

    def _excluded(self, classes: list[int]) -> Tensor:
        """Classes that the loss leaves out, (classes,) bool: those to come, and past ones if the loss is local."""
        excluded = torch.ones(len(self.head.weight), dtype=torch.bool, device=self.device)
        excluded[classes if self.method.task_local_loss else self.seen] = False
        return excluded

    def features(self, x: Tensor, training: bool = False) -> Tensor:
        """The input of the head: (n, 3, S, S) -> (n, width)."""
        if self.pool is None:
            return self.embed(self.vit, x)
        with torch.no_grad():
            query = self.embed(self.vit, x)  # of the frozen ViT, without prompts
        attentions = {block: self.vit.blocks[block].attn for block in self.pool.layers}
        for block, prefix in self.pool.prefixes(query, training).items():
            attentions[block].prefix = prefix
        try:
            return self.embed(self.vit, x)
        finally:
            for attention in attentions.values():
                attention.prefix = None

    def embed(self, vit, x: Tensor) -> Tensor:
        """The same by another ViT of this architecture, without prompts."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return vit.forward_head(vit.forward_features((x - self.mean) / self.std), pre_logits=True).float()

    def logits(self, x: Tensor, training: bool = False) -> Tensor:
        """Logits of all classes, seen or not: (n, 3, S, S) -> (n, classes)."""
        return self.head(self.features(x, training))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Labels among the classes seen so far, whatever their task: (n, 3, S, S) -> (n,)."""
        return self.predict_by({"": self.head}, x)[""]

    @torch.no_grad()
    def predict_by(self, heads: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor) -> dict[str, Tensor]:
        """The same by several heads, which map features (n, width) to logits (n, classes)."""
        seen, features = torch.tensor(self.seen, device=self.device), self.features(x.to(self.device))
        return {name: seen[head(features)[:, seen].argmax(1)].cpu() for name, head in heads.items()}

    def losses(self, images: TaskImages, n: int, generator: torch.Generator) -> Iterator[Callable[[], Tensor]]:
        """Cross-entropy of n images, one at a time, as functions: the samples of the Fisher information."""
        excluded, count = self._excluded(images.classes), 0
        while count < n:
            for x, label in images.batches(1, generator):
                if count == n:
                    return

                def loss(x=x, label=label) -> Tensor:
                    logits = self.logits(x.to(self.device))
                    return F.cross_entropy(logits.masked_fill(excluded, -torch.inf), label.to(self.device))

                count += 1
                yield loss

    def restore(self, tensors: dict[str, Tensor], seen: list[int]) -> None:
        """Take the state of a stored task.

        Args:
            tensors: as `ContinualClassifier.tensors` has them; other keys are ignored.
            seen: labels in the order in which they were learned.
        """
        self.seen = seen
        self.restore_head(tensors["head.weight"], tensors["head.bias"])
        load_state(self.layers, tensors)
        if self.pool is not None:
            prompts = {k.removeprefix("prompt."): v for k, v in tensors.items() if k.startswith("prompt.")}
            self.pool.load_state_dict(prompts)

    @torch.no_grad()
    def restore_head(self, weight: Tensor, bias: Tensor) -> None:
        """Set the head's weight (classes, width) and bias (classes,), and freeze it."""
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)
        self.head.requires_grad_(False)


def check(vit: nn.Module) -> None:
    """Raise UserError unless it is a timm VisionTransformer with Q, K and V in one weight and a configuration."""
    blocks = getattr(vit, "blocks", ())
    if not blocks or not all(hasattr(getattr(block, "attn", None), "qkv") for block in blocks):
        raise UserError(f"a {type(vit).__name__} has no blocks with attn.qkv: give a timm VisionTransformer")
    about = getattr(vit, "pretrained_cfg", None) or {}
    if not hasattr(vit, "embed_dim") or {*KNOWN} - set(about):
        raise UserError("this ViT does not say what pictures it takes: load it with timm.create_model")
    means, deviations, size = ([*about[key]] if isinstance(about[key], tuple | list) else [] for key in KNOWN)
    numbers = all(isinstance(n, int | float) for n in (*means, *deviations, *size))
    if [len(means), len(deviations), len(size)] != [3, 3, 3] or not numbers or min(deviations) <= 0:
        raise UserError("this ViT's configuration is damaged (mean, std or input_size): restore its config.json")
    if size[-1] != size[-2]:
        raise UserError(f"this ViT takes pictures of {size[-1]} x {size[-2]} px: choose one that takes squares")
