"""The heads of a run that are not trained with the weights: what they learn after a task, and their file."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import UserError
from ..methods.heads import Head
from ..runs.files import sha256, write_tensors, writing
from .datasets import TaskImages
from .model import Classifier


class KeptHeads:
    """Heads by their names. Their buffers after the last task are in RUN/heads-TTT.safetensors.

    The file is not in the task's folder, since it holds statistics of all tasks so far: ten copies of them, or twenty,
    would be stored otherwise. It is written before the task is stored, and that of the task before is removed after.
    """

    def __init__(self, heads: dict[str, Head]):
        self.heads = heads

    @torch.no_grad()
    def learn(self, model: Classifier, images: TaskImages, tasks: list[list[int]]) -> None:
        """Learn a task from its training images, which are read once, without augmentation.

        Args:
            tasks: the classes of every task so far, this one included.
        """
        if not self.heads:
            return
        batches = images.dataset.stream(images.indices.split(128))
        features = torch.cat([model.features(x.to(model.device)) for x in batches])
        labels = images.dataset.labels[images.indices].to(model.device)
        for head in self.heads.values():
            head.learn(features, labels, tasks, model.head)

    def save(self, run: Path, task: int, finished: bool) -> dict:
        """Write the file of a task and return what its record says of it.

        Args:
            finished: no task follows, so statistics that only later tasks need are left out.
        """
        if not self.heads:
            return {}
        tensors = {
            f"{name}.{key}": value
            for name, head in self.heads.items()
            for key, value in head.state_dict().items()
            if not (finished and key in head.statistics)
        }
        file = place(run, task)
        temporary = file.with_name(f".{file.name}.part")
        with writing(run, "make room and give the same command, the run goes on with this task"):
            try:
                write_tensors(temporary, tensors)
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
        return {"heads_sha256": sha256(file)}

    def remove(self, run: Path, task: int) -> None:
        """Remove the file of an earlier task."""
        place(run, task).unlink(missing_ok=True)

    def load(self, run: Path | None, record: dict) -> None:
        """Take the state after a stored task.

        Raises:
            UserError: the file is missing or was changed.
        """
        if self.heads and run is not None:
            tensors = read(run, record)
            for name, head in self.heads.items():
                of_head = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
                head.load_state_dict(of_head, strict=False)  # a finished run has no statistics


def read(run: Path, record: dict) -> dict[str, Tensor]:
    """The tensors of all heads after a stored task. Raises UserError if the file is missing or was changed."""
    file = place(run, record["task"])
    try:
        if sha256(file) != record.get("heads_sha256"):
            raise UserError(f"{file} was altered: restore it, or delete the run")
        return load(file.read_bytes())
    except (OSError, SafetensorError):
        raise UserError(f"{file} is missing or damaged: restore it, or delete the run") from None


def place(run: Path, task: int) -> Path:
    return run / f"heads-{task:03d}.safetensors"
