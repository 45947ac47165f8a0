"""Devices: whether one is available, the precision of a run and its peak memory."""

import sys

import torch

from ..errors import UserError, first_line


def precision_of(about: dict):
    """The dtype in a run.json, which the run keeps on every device: in another one its weights would be others."""
    return getattr(torch, about.get("precision", "float32"))


def check_device(device: str | None) -> None:
    """Raise UserError if a device is not available, before a model is loaded for it."""
    try:
        torch.zeros((), device=device).item()  # also of "meta", which holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # it depends on torch's build
        raise UserError(f"no device {device} ({first_line(error)}): give --device cpu, or leave it out") from None


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the GPU, or of the process on a CPU; 0 on Windows, where it is not counted."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes on macOS, KiB on Linux
