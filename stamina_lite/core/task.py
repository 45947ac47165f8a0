"""The training of one task: one loop for every method, and for the text-to-image model and the classifier alike."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..errors import UserError
from .adaptation import Adaptation, withdraw
from .layers import AdaptedWeight


def train(
    adaptation: Adaptation, groups: list[dict], batches: Iterable, losses: Callable, n_steps: int,
    generator: torch.Generator, *, name: str, cosine: bool = False, fp16: bool = False,
    reduce: Callable[[list[Tensor]], None] | None = None, on_step: Callable[[int, dict], None] | None = None,
    resume: Callable[..., Iterator] | None = None,
) -> list[dict]:  # fmt: skip
    """Minimise a loss and a method's penalties with AdamW, a step a batch.

    Args:
        adaptation: the method's adapters, attached; its masks' noise is sampled before every step.
        groups: parameter groups of the optimizer; there is nothing to train where there are none.
        batches: yields `n_steps` batches.
        losses: batch -> (loss, list of scalars that are added to it).
        n_steps: number of batches.
        generator: source of the masks' noise.
        name: what the log calls the loss without penalties.
        cosine: the learning rate falls to zero as a cosine.
        fp16: the loss is scaled. Unscaled, most gradients inside a U-Net in fp16 are below fp16's smallest number.
        reduce: averages a step's losses and gradients over processes, in place.
        on_step: called after every step with its number, from 0, and {"loss", name}.
        resume: (steps, optimizer, scaler, generator, log) -> the steps that are left, see `runs.checkpoint`.

    Returns:
        For every step {"step", "loss", name}.

    Raises:
        UserError: the loss or a parameter is not finite.
    """
    if not groups:
        return []
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps) if cosine else None
    scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=fp16)
    log: list[dict] = []
    steps: Iterator = enumerate(batches)
    for step, batch in resume(steps, optimizer, scaler, generator, log) if resume else steps:
        adaptation.sample_noise(step / n_steps, generator)
        optimizer.zero_grad()
        with adaptation.cached():
            main, extra = losses(batch)
            terms = adaptation.penalties() + extra
            loss = main + torch.stack(terms).sum() if terms else main
            scaler.scale(loss).backward()
        values = torch.stack([loss, main]).detach()
        if reduce:
            reduce([values, *(p.grad for p in parameters if p.grad is not None)])
        scaler.step(optimizer)
        scaler.update()
        if scheduler:
            scheduler.step()
        numbers = dict(zip(("loss", name), values.tolist(), strict=True))
        if not math.isfinite(numbers["loss"]):
            raise UserError(
                f"the loss is {numbers['loss']} at step {step + 1}: lower the learning rates (--lr) or the penalties"
            )
        log.append({"step": step, **numbers})
        if on_step:
            on_step(step, numbers)
    if not all(p.isfinite().all() for p in parameters):
        raise UserError("the last step has left no finite weights: lower the learning rates (--lr) or the penalties")
    return log


@contextmanager
def restored_on_error(layers: list[AdaptedWeight]) -> Iterator[None]:
    """Leave weights as they were before a task that fails or is interrupted inside this context."""
    weights = [layer.current for layer in layers]
    try:
        yield
    except BaseException:
        withdraw(layers, weights)
        raise
