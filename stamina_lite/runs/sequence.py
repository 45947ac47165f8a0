"""A sequence of tasks: how both learners start, resume and store a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import checkpoint, distributed
from .changes import Change, mean_overlap
from .devices import peak_memory
from .events import Events
from .files import load_task
from .folder import Run, records_of, shown, tasks_of


class Sequence:
    """The tasks that a model has learned, and their folder on disk. Base class of both learners.

    Attributes:
        model, method: what learns, and how.
        records: what is known of every finished task, in order.
        masks: those of the last task: name of a weight -> (D1, D2) bool.
        run: the run's folder, if it has one and this process is the one that writes.
        events: its TensorBoard events.
    """

    model: Any
    method: Any
    needed: tuple[str, ...] = ()  # keys of a record without which a run cannot go on

    def start(self, out: Path | str | None, identity: dict) -> None:
        """Begin a run, or go on from its last finished task.

        Args:
            out: the run's folder; None keeps everything in memory.
            identity: what makes it this run and no other.

        Raises:
            UserError: the folder has another run, or is damaged.
        """
        self.out = self.home = Path(out) if out else None  # stored tasks are read from home and written to out
        self.identity = identity
        self.records: list[dict] = []
        self.masks: dict[str, Tensor] = {}
        self.run = Run(self.out, identity, self.model.device) if self.out and distributed.first() else None
        self.events = Events(self.out if self.run else None)
        distributed.wait()
        if self.out:
            self.resume(self.out, tasks_of(self.out))

    def resume(self, run: Path, folders: list[Path]) -> None:
        """Take the state after the last of these tasks of a stored run. Nothing is written."""
        self.home, self.records = run, records_of(folders, *self.needed)
        if folders:
            tensors, _ = load_task(folders[-1])
            self.load_tensors(tensors)
            self.masks = {k.removeprefix("mask."): v for k, v in tensors.items() if k.startswith("mask.")}

    def finish(self, record: dict, learned: Any) -> dict:
        """Add a task's record, store the task if the run has a folder, and return the record."""
        record |= {
            **learned.numbers(),
            "mask_overlap": mean_overlap(self.masks, learned.masks),
            "seconds": learned.seconds,
            "peak_memory": peak_memory(self.model.device),
        }
        self.records.append(record)
        self.masks = learned.masks
        if self.run:
            masks = {f"mask.{name}": mask for name, mask in learned.masks.items()}
            self.run.save(record, self.tensors() | masks, learned.steps)
            checkpoint.remove(self.run.folder)
            self.events.scalars(record, record["task"], "task")
            self.events.flush()
        return record

    @contextmanager
    def steps(self, name: str, n_steps: int, progress: bool) -> Iterator[Callable[[int, dict], None]]:
        """A progress bar over the steps of the next task; yields the callback for `on_step`."""
        first, settings = len(self.records) * n_steps, self.method.settings
        rates = {key: value for key, value in vars(settings).items() if key.startswith("lr")}
        with tqdm(total=n_steps, desc=name, unit="step", leave=False, **shown(progress)) as bar:

            def on_step(step: int, numbers: dict) -> None:
                bar.update(step + 1 - bar.n)  # a task that goes on begins at a later step
                bar.set_postfix(loss=f"{numbers['loss']:.4f}", refresh=False)
                self.events.scalars(numbers | rates, first + step, "train")

            yield on_step

    def tensors(self) -> dict[str, Tensor]:
        """The model's state after a task, without masks."""
        raise NotImplementedError

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the model from `tensors`; other keys are ignored. `records` are those of the stored run."""
        raise NotImplementedError


RECORDED = (*Change().numbers(), "mask_overlap", "seconds", "peak_memory")  # what `finish` adds to a record


def precision_record(dtype: torch.dtype) -> dict:
    """A run's precision as its identity has it; runs in fp32 do not say it."""
    return {} if dtype == torch.float32 else {"precision": str(dtype).removeprefix("torch.")}
