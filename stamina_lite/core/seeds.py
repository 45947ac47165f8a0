"""Random generators that depend on given numbers alone."""

import torch


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator that depends on these numbers alone, so that nothing has to be carried from task to task."""
    value = 0
    for n in numbers:
        value = (value * 1_000_003 + n + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(value)


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on the model's device, that a CPU generator seeds; on a CPU that one itself.

    A step at the size of Stable Diffusion needs 19 million numbers: drawn on a CPU they would take longer than it.
    """
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
