"""Classes, learned by a Vision Transformer: what is frozen, what is trained, and the loss."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from ..core.adaptation import Adaptation, Change, check_finite, check_trained, withdraw
from ..core.layers import AdaptedWeight, every_weight, parts_of
from ..core.method import Method
from ..core.seeds import seeded
from ..errors import UserError
from ..methods.prompts import Pool, PrefixAttention
from .datasets import TaskPictures

KNOWN = ("mean", "std", "input_size")  # of its pictures, in a ViT's configuration


@dataclass
class LearnedClasses(Change):
    """What a task left: all a figure needs."""

    steps: list[dict] = field(default_factory=list)
    trained: int = 0  # parameters the optimizer held, those of the head among them
    seconds: float = 0.0


class Classifier:
    """A stock timm VisionTransformer with a head for all classes; it learns them task by task.

    Frozen but for what the method changes: K and V of every block, every weight, or prompts before keys and values; and
    the head, whose rows start at zero. Pictures are (n, 3, S, S) in [0, 1], normalised as the weights' own
    configuration says. dtype: what the ViT computes in; weights, head and losses are fp32 whatever it is.
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
        self.pool: Pool | None = method.prompts(vit.embed_dim, len(vit.blocks), tasks, seeded(seed, 0, 6))
        self.layers: list[AdaptedWeight] = []
        if self.pool is not None:
            self.pool.to(self.device)
            for place in self.pool.layers:
                attention = vit.blocks[place].attn
                if not isinstance(attention, Attention):
                    raise UserError(f"prompts are for timm's own Attention, not {type(attention).__name__}: give a ViT")
                vit.blocks[place].attn = PrefixAttention(attention)
        elif method.full_finetuning:
            self.layers = every_weight(vit, without="head")
        else:
            self.layers = parts_of(vit, "attn.qkv", "qkv", method.qkv_parts)
        self.seen: list[int] = []  # labels in the order in which they were learned
        self.past: list[int] = []  # those of the tasks before the present one

    def learn(self, pictures: TaskPictures, task: int, on_step: Callable | None = None) -> LearnedClasses:
        """Train on a task's pictures, then fold: the ViT is stock again, but for prompts.

        on_step(step, numbers) is called after every step. Draws depend on (seed, task) alone.
        """
        started, method = time.perf_counter(), self.method
        held, head = [layer.current for layer in self.layers], [p.detach().clone() for p in self.head.parameters()]
        prompts = copy.deepcopy(self.pool.state_dict()) if self.pool is not None else {}
        self.past = list(self.seen)
        self.seen += [c for c in pictures.classes if c not in self.past]
        try:
            method.begin(self, pictures)
            if self.pool is not None:
                self.pool.begin(task)
            adaptation = Adaptation(self.layers, method, seeded(self.seed, task, 2))
            trained, steps = self._train(pictures, adaptation, seeded(self.seed, task, 3), on_step)
        except BaseException:
            withdraw(self.layers, held)
            self.seen = self.past
            self.restore_head(*head)
            if self.pool is not None:
                self.pool.load_state_dict(prompts)
            raise
        adaptation.fold(task)
        method.end(self, pictures, seeded(self.seed, task, 5))
        seconds = time.perf_counter() - started
        return LearnedClasses(**vars(adaptation.change()), steps=steps, trained=trained, seconds=seconds)

    def _train(self, pictures: TaskPictures, adaptation: Adaptation, draw, on_step) -> tuple[int, list[dict]]:
        """How many parameters were trained, and the losses of every step."""
        s = self.method.settings
        inside = adaptation.parameters()
        if self.pool is not None:
            inside += [p for p in self.pool.parameters() if p.requires_grad]
        own = list(self.head.requires_grad_().parameters()) if self.method.head else []
        groups = [{"params": p, "lr": lr} for p, lr in ((inside, s.lr), (own, s.lr_head)) if p]
        if not groups:
            return 0, []
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        batches = -(-len(pictures.places) // s.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, s.epochs * batches)
        shut = self._shut(pictures.classes)
        log: list[dict] = []
        for _ in range(s.epochs):
            for x, labels in pictures.batches(s.batch, draw):
                x, labels = x.to(self.device), labels.to(self.device)
                adaptation.sample_noise(len(log) / (s.epochs * batches), draw)
                optimizer.zero_grad()
                with adaptation.cached():
                    logits = self.logits(x, training=True)
                    wrong = F.cross_entropy(logits.masked_fill(shut, -torch.inf), labels)
                    more = adaptation.penalties()
                    more += [m for m in (self.method.auxiliary_loss(self, x, logits),) if m is not None]
                    more += [self.pool.loss] if self.pool is not None and self.pool.loss is not None else []
                    loss = wrong + torch.stack(more).sum() if more else wrong
                    loss.backward()
                optimizer.step()
                schedule.step()
                numbers = {"loss": loss.item(), "cross_entropy": wrong.item()}
                check_finite(numbers["loss"], len(log))
                log.append({"step": len(log), **numbers})
                if on_step:
                    on_step(len(log), numbers)
        check_trained(groups)
        self.head.requires_grad_(False)
        return sum(p.numel() for p in inside + own), log

    def _shut(self, classes: list[int]) -> Tensor:
        """Classes that the loss does not see: those of the future, and those of the past if it is local; (classes,)."""
        shut = torch.ones(len(self.head.weight), dtype=torch.bool, device=self.device)
        shut[classes if self.method.task_local_loss else self.seen] = False
        return shut

    def features(self, x: Tensor, training: bool = False) -> Tensor:
        """What the head sees of pictures: (n, 3, S, S) -> (n, width)."""
        if self.pool is None:
            return self.embed(self.vit, x)
        with torch.no_grad():
            query = self.embed(self.vit, x)  # of the frozen ViT, without prompts
        attentions = {place: self.vit.blocks[place].attn for place in self.pool.layers}
        for place, prefix in self.pool.prefixes(query, training).items():
            attentions[place].prefix = prefix
        try:
            return self.embed(self.vit, x)
        finally:
            for attention in attentions.values():
                attention.prefix = None

    def embed(self, vit, x: Tensor) -> Tensor:
        """The same of a ViT like ours, without prompts of its own."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return vit.forward_head(vit.forward_features((x - self.mean) / self.std), pre_logits=True).float()

    def logits(self, x: Tensor, training: bool = False) -> Tensor:
        """(n, 3, S, S) -> (n, classes), of all classes, seen or not."""
        return self.head(self.features(x, training))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Labels among the classes seen so far; no task is told: (n, 3, S, S) -> (n,)."""
        seen = torch.tensor(self.seen, device=self.device)
        return seen[self.logits(x.to(self.device))[:, seen].argmax(1)].cpu()

    def losses(self, pictures: TaskPictures, n: int, generator: torch.Generator) -> Iterator[Callable[[], Tensor]]:
        """Cross-entropy of n pictures, one at a time, as functions: what the Fisher information is taken of."""
        shut, given = self._shut(pictures.classes), 0
        while given < n:
            for x, label in pictures.batches(1, generator):
                if given == n:
                    return

                def loss(x=x, label=label) -> Tensor:
                    logits = self.logits(x.to(self.device))
                    return F.cross_entropy(logits.masked_fill(shut, -torch.inf), label.to(self.device))

                given += 1
                yield loss

    @torch.no_grad()
    def restore_head(self, weight: Tensor, bias: Tensor) -> None:
        """weight: (classes, width), bias: (classes,)."""
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)
        self.head.requires_grad_(False)


def check(vit: nn.Module) -> None:
    """Refuse what is no timm VisionTransformer with Q, K and V in one weight, or has no configuration of its own."""
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
