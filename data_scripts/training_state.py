"""A training run that goes on where it was killed: modules, their moving averages and the optimizer, in safetensors."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from tqdm.auto import tqdm


def workers() -> int:
    """Processes that train together, as torchrun starts them: a batch is shared out among them."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first alone shows and saves."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def average_gradients(parameters: list[torch.Tensor]) -> None:
    """Every worker's gradients become their mean: the gradient of the mean loss over the whole batch."""
    if workers() > 1:
        whole = torch.cat([p.grad.flatten() for p in parameters])
        distributed.all_reduce(whole)
        for p, part in zip(parameters, whole.split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(part.view_as(p) / workers())


class MovingAverage:
    """Exponential moving average of parameters: the weights that are shipped."""

    def __init__(self, modules: dict[str, torch.nn.Module], decay: float):
        self.decay = decay
        self.parameters = [p for m in modules.values() for p in m.parameters()]
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # short memory while everything still moves
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages: once to look at the average, once more to go on training."""
        for p, a in zip(self.parameters, self.average, strict=True):
            keep = p.clone()
            p.copy_(a)
            a.copy_(keep)


def save_state(file: Path, modules, average: MovingAverage, optimizer, progress: dict) -> None:
    """Save atomically: a process that is killed leaves the old state or the new one."""
    tensors = {f"{name}.{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}
    tensors |= {f"average.{k}": a for k, a in enumerate(average.average)}
    for k, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{k}.{key}": value for key, value in state.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    part = file.with_suffix(".part")
    save_file(tensors, part, metadata={"progress": json.dumps(progress)})
    os.replace(part, file)


def load_state(file: Path, modules, average: MovingAverage, optimizer, device="cpu") -> dict:
    """What save_state was given as progress; modules, average and optimizer are filled in place."""
    from safetensors import safe_open

    tensors = load_file(file, device=str(device))
    for name, module in modules.items():
        own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        module.load_state_dict(own)
    for k, a in enumerate(average.average):
        a.copy_(tensors[f"average.{k}"])
    state: dict = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, k, field = key.split(".", 2)
            state.setdefault(int(k), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    with safe_open(file, "pt") as f:
        return json.loads(f.metadata()["progress"])


@dataclass(frozen=True)
class Budget:
    """How long to train: so many steps or so many seconds, whichever is over first."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("a budget needs steps or seconds")

    def spent(self, steps: int, seconds: float) -> float:
        """The part of it that is over, 0 to 1."""
        budgets = ((steps, self.steps), (seconds, self.seconds))
        return max(min(1.0, used / whole) if whole else 1.0 for used, whole in budgets if whole is not None)


def rate(step: int, spent: float, peak: float) -> float:
    """Learning rate: 200 steps up, flat, and down in a straight line over the last 40 % of the budget."""
    return peak * min(1.0, (step + 1) / 200, (1 - spent) / 0.4 + 0.01)


class Run:
    """A resumable optimisation of some modules."""

    def __init__(
        self, work: Path, name: str, modules: dict, budget: Budget, peak: float, batch: int, device: str, decay: float,
        log: list, bf16: bool = False, share=lambda module, parameter: 1.0,
    ):  # fmt: skip
        """log: rows of the training these modules have already had; its steps and samples are counted on.

        bf16: on a CPU too. share(key of modules, name of a parameter): the share of the learning rate it is trained at.
        """
        self.file, self.name, self.modules, self.budget = work / f"{name}.safetensors", name, modules, budget
        self.peak, self.batch, self.device = peak, batch, device
        self.bf16 = device != "cpu" or bf16
        for module in modules.values():
            module.to(device).train()
        self.parameters = [p for m in modules.values() for p in m.parameters()]
        named = [(share(k, n), p) for k, m in modules.items() for n, p in m.named_parameters()]
        groups = [{"params": [p for part, p in named if part == s], "share": s} for s in sorted({s for s, _ in named})]
        self.optimizer = torch.optim.AdamW(groups, peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.average = MovingAverage(modules, decay)
        self.step, self.seconds, self.log = 0, 0.0, list(log)
        self.before = max((row["step"] for row in log), default=0)
        self.samples_before = max((row.get("samples", 0) for row in log), default=0)
        if self.file.exists():
            progress = load_state(self.file, modules, self.average, self.optimizer, device)
            self.step, self.seconds, self.log = progress["step"], progress["seconds"], progress["log"]

    def spent(self) -> float:
        return self.budget.spent(self.step, self.seconds)

    def note(self, **numbers) -> None:
        """A row of the log, at this step."""
        row = {"step": self.before + self.step, "samples": self.samples_before + self.step * self.batch}
        self.log.append(row | numbers)

    def train(self, loss, look, save_seconds: float = 600) -> None:
        """loss(indices' generator) -> (scalar, numbers to log); look(step) draws a sheet from the averaged weights."""
        saved, first, clock = time.time(), rank() == 0, time.time()
        bar = tqdm(total=self.budget.steps, initial=self.step, desc=self.name, unit="step", disable=not first)
        while self.spent() < 1:
            draw = torch.Generator().manual_seed((self.before + self.step) * workers() + rank())
            for group in self.optimizer.param_groups:
                group["lr"] = group["share"] * rate(self.step, self.spent(), self.peak)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                value, numbers = loss(draw)
            self.optimizer.zero_grad()
            value.backward()
            average_gradients(self.parameters)
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.average.update(self.step)
            self.step += 1
            self.seconds, clock = self.seconds + time.time() - clock, time.time()
            bar.update()
            if self.step % 100 == 0:
                if not torch.isfinite(value):
                    raise SystemExit(f"{self.name}: the loss is {value.item()} at step {self.step}: lower the rate")
                self.note(seconds=round(self.seconds), **{k: round(float(v), 5) for k, v in numbers.items()})
                bar.set_postfix({k: f"{float(v):.4f}" for k, v in numbers.items()})
            if first and (time.time() - saved > save_seconds or self.spent() == 1):
                progress = {"step": self.step, "seconds": self.seconds, "log": self.log}
                save_state(self.file, self.modules, self.average, self.optimizer, progress)
                self.average.swap()
                look(self.step)
                self.average.swap()
                saved = clock = time.time()
        self.average.swap()
