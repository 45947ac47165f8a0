"""TensorBoard event files of a run, in its folder `events`: losses, rates, what is known of every task, images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import UserError


class Events:
    """Writes a run's events. Nothing is written before the first of them; without a folder nothing at all.

    Args:
        folder: the run's folder, or None.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.writer: Any = None

    def open(self, step: int):
        """The writer; events of this step and later ones, from a process that was killed, are replaced."""
        if self.writer is None and self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "events"), purge_step=step)
        return self.writer

    def scalars(self, numbers: dict, step: int, group: str) -> None:
        """Add the numbers among these values, as group/name."""
        for name, value in numbers.items() if self.folder else ():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.open(step).add_scalar(f"{group}/{name}", value, step)

    def images(self, pictures: Iterable[Image.Image], step: int, name: str) -> None:
        """Add images of equal size, side by side."""
        if self.folder:
            import numpy as np

            row = np.concatenate([np.asarray(picture) for picture in pictures], axis=1)
            self.open(step).add_image(name, row, step, dataformats="HWC")

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()


def import_wandb():
    """Raises UserError if Weights & Biases is not installed."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise UserError("Weights & Biases is not installed: pip install wandb, or leave --wandb out") from None
    return wandb


def start_wandb(folder: Path, identity: dict) -> None:
    """Send a run's events to Weights & Biases too. Call this before its first event."""
    import_wandb().init(project="stamina-lite", name=folder.name, dir=folder, config=identity, sync_tensorboard=True)
