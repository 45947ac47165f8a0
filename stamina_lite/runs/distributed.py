"""One run on several processes, as `accelerate launch` or `torchrun` start them: each computes a share of every batch.

All processes draw the same batch, noise and masks, each sends its share of the images through the model, and gradients
are averaged. So every process has the same weights after every step, those of a single process, and only the first one
writes.
"""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import Tensor

from ..errors import UserError

TIMEOUT = timedelta(hours=12)  # the other processes wait while the first one measures


def launched() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def start() -> str | None:
    """Join the other processes, if there are any; returns the device of this process if it is a GPU, else None."""
    if not launched():
        return None
    from accelerate import PartialState

    device = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT).device
    return str(device) if device.type == "cuda" else None


def refuse() -> None:
    """Raise UserError in one of several processes: for work that is not shared, and would write the same files."""
    if launched():
        raise UserError("several processes share learn and bench of concepts only: leave the launcher out")


def count() -> int:
    """The number of processes that share this run: 1 before `start`."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return count() == 1 or torch.distributed.get_rank() == 0


def wait() -> None:
    """Wait for all processes."""
    if count() > 1:
        torch.distributed.barrier()


def share(*batches: int) -> slice:
    """The images of a step that this process computes, the same part of each of the batches that make up the step.

    Raises:
        UserError: a batch is no multiple of the number of processes.
    """
    n = count()
    for size in batches:
        if size % n:
            raise UserError(f"a batch of {size} cannot be shared by {n} processes: make --batch a multiple")
    return slice(torch.distributed.get_rank() if n > 1 else 0, None, n)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its mean over all processes, with one message for all tensors."""
    tensors = list(tensors)
    if count() == 1 or not tensors:
        return
    from accelerate.utils import reduce

    mean = reduce(torch.cat([t.flatten() for t in tensors]), "mean")
    for tensor, part in zip(tensors, mean.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
