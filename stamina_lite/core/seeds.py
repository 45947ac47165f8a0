"""Random generators that depend on given numbers alone, so that a run can be resumed at any task."""

from enum import IntEnum

import torch


class Stream(IntEnum):
    """The independent random streams of a task; numbers are part of stored runs and never change."""

    TOKEN_START = 0
    TOKEN_INIT = 1
    ADAPTERS = 2
    TRAINING = 3
    PRIOR_IMAGES = 4
    END_OF_TASK = 5
    PROMPT_POOL = 6
    EXPORT = 7
    HEADS = 8


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator for these numbers: of a task (seed, task, stream)."""
    value = 0
    for n in numbers:
        value = (value * 1_000_003 + n + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(value)


def image_seed(seed: int, k: int) -> int:
    """The seed of the k-th image that is generated of a prompt."""
    return (seed * 100_003 + k) % 2**63


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on `device`, seeded by a CPU generator; on a CPU that generator itself.

    A step at the size of Stable Diffusion needs 19 million numbers, which take longer on a CPU than the step itself.
    """
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
