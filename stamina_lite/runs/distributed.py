"""One run on several processes, as `accelerate launch` or `torchrun` start them: each learns a share of every batch.

All draw the same batch, noise and masks, each sends its share of the pictures through the model, and gradients are
averaged. So every process has the same weights after every step, those that one process would have, and only the first
writes.
"""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UserError

WAIT = timedelta(hours=12)  # the others wait while the first measures


def start() -> str | None:
    """Join the other processes, if this one was started among several; the device it should take, if it is a GPU."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    place = int(os.environ.get("LOCAL_RANK", 0))
    gpu = place < torch.cuda.device_count()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo", timeout=WAIT)
    return f"cuda:{place}" if gpu else None


def refuse() -> None:
    """For work that is not shared: several processes would write the same files. Raises UserError."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("several processes share learn and bench of concepts only: leave the launcher out")


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return count() == 1 or dist.get_rank() == 0


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        dist.barrier()


def share(*batches: int) -> slice:
    """Which pictures of a step are this process's, the same part of each of the batches that it is made of.

    Raises UserError where a batch cannot be shared out evenly.
    """
    n = count()
    for size in batches:
        if size % n:
            raise UserError(f"a batch of {size} cannot be shared by {n} processes: make --batch a multiple")
    return slice(dist.get_rank() if n > 1 else 0, None, n)


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """The mean of every tensor over all processes, in place; as one message."""
    tensors = list(tensors)
    if count() == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for tensor, mean in zip(tensors, (flat / count()).split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
