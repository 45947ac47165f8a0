"""A checkpoint within a task: stopped or killed, it goes on from its last saved step with the same result."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from ..errors import UserError
from .files import write_tensors, writing
from .interrupts import Interrupts, Stopped

FILE = "checkpoint.safetensors"  # in a run's folder, while a task is trained


class Checkpoint:
    """Saves parameters, optimizer, generator and log every few steps and where training is stopped.

    The file is removed when the task is stored.

    Args:
        folder: the run's folder.
        task: what is trained, such as its number and the hash of its images: a checkpoint of another task is not used.
        every: number of steps, 0 to save only where training is stopped.
        interrupts: after the step in which one is due, the training is saved and ends with `Stopped`.
        write: whether this process writes; of several processes only the first.

    Attributes:
        seconds: how long the task was trained before this process.
    """

    def __init__(self, folder: Path, task: dict, every: int, interrupts: Interrupts, write: bool = True):
        self.file, self.task, self.every, self.write = folder / FILE, task, every, write
        self.interrupts = interrupts
        self.seconds, self.started = 0.0, time.perf_counter()

    def resume(
        self, steps: Iterator[tuple[int, Any]], optimizer: torch.optim.Optimizer, scaler, generator: torch.Generator,
        log: list[dict],
    ) -> Iterator[tuple[int, Any]]:  # fmt: skip
        """Yield the steps that are left, and save after every `every`-th of them and after an interrupted one.

        Args:
            steps: of the whole task, (number, batch); batches are drawn from `generator` when they are asked for.
            optimizer, scaler, generator, log: as they are before the first step; they get their saved states.

        Raises:
            Stopped: an interrupt was due after a step.
        """
        for _ in range(self.load(optimizer, scaler, generator, log)):
            next(steps)
        if log:
            generator.set_state(self.generator_state)  # skipping has drawn from it
        for step, batch in steps:
            yield step, batch
            stop = self.interrupts.due
            if self.write and (stop or self.every and (step + 1) % self.every == 0):
                self.save(optimizer, scaler, generator, log)
            if stop:
                raise Stopped(f"Stopped after step {step + 1}, which is saved. Run it again to go on from there.")

    def save(self, optimizer: torch.optim.Optimizer, scaler, generator: torch.Generator, log: list[dict]) -> None:
        tensors = {"generator": generator.get_state()}
        for k, parameter in enumerate(parameters(optimizer)):
            tensors[f"parameter.{k}"] = parameter
            tensors |= {f"optimizer.{k}.{key}": value for key, value in optimizer.state[parameter].items()}
        seconds = self.seconds + time.perf_counter() - self.started
        about = {"task": self.task, "seconds": seconds, "scaler": scaler.state_dict(), "log": log}
        temporary = self.file.with_name(f".{self.file.name}.part")
        with writing(self.file.parent):
            try:
                write_tensors(temporary, tensors, {"about": json.dumps(about)})
                os.replace(temporary, self.file)
            finally:
                temporary.unlink(missing_ok=True)

    def load(self, optimizer: torch.optim.Optimizer, scaler, generator: torch.Generator, log: list[dict]) -> int:
        """Restore the state of a checkpoint of this task, if there is one; returns the number of steps that are done.

        Raises:
            UserError: the file is damaged.
        """
        if not self.file.exists():
            return 0
        try:
            with safe_open(self.file, "pt") as reader:
                about = json.loads(reader.metadata()["about"])
            if about["task"] != self.task:
                return 0
            tensors = load(self.file.read_bytes())  # mapped, it could not be replaced on Windows
            with torch.no_grad():
                for k, parameter in enumerate(parameters(optimizer)):
                    parameter.copy_(tensors[f"parameter.{k}"])
                    prefix = f"optimizer.{k}."
                    optimizer.state[parameter] = {
                        key.removeprefix(prefix): value.to(parameter.device)
                        for key, value in tensors.items()
                        if key.startswith(prefix)
                    }
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError):
            raise UserError(f"{self.file} is damaged: delete it to learn this task from its first step") from None
        if about["scaler"]:
            scaler.load_state_dict(about["scaler"])
        self.generator_state = tensors["generator"]
        self.seconds = about["seconds"]
        log += about["log"]
        return len(log)


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    found: list[Tensor] = []
    for group in optimizer.param_groups:
        found += group["params"]
    return found


def remove(folder: Path) -> None:
    """Remove the checkpoint of a task that has been stored."""
    (folder / FILE).unlink(missing_ok=True)
