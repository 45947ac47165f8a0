"""Devices: whether they are there, what a run on one computes in and how much memory it took."""

import torch

from ..errors import UserError, first_line


def precision_of(about: dict):
    """The dtype that a run.json tells of, whatever the device: rounded otherwise, the weights would be other ones."""
    return getattr(torch, about.get("precision", "float32"))


def check_device(device: str | None) -> None:
    """Refuse a device that is not there before a model is loaded for it."""
    try:
        torch.zeros((), device=device).item()  # also of "meta", which holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # which of them depends on how torch was built
        raise UserError(f"no device {device} ({first_line(error)}): give --device cpu, or leave it out") from None


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where there is one, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
