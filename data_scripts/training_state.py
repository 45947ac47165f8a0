"""Save and restore a training run in safetensors: modules, their moving averages and the optimizer."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


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


def save_state(file: Path, step: int, modules, average: MovingAverage, optimizer, log: list) -> None:
    """Written beside and moved into place, so that a kill leaves the old state or the new one."""
    tensors = {f"{name}.{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}
    tensors |= {f"average.{k}": a for k, a in enumerate(average.average)}
    for k, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{k}.{key}": value for key, value in state.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    beside = file.with_suffix(".part")
    save_file(tensors, beside, metadata={"step": str(step), "log": json.dumps(log)})
    os.replace(beside, file)


def load_state(file: Path, modules, average: MovingAverage, optimizer, device="cpu") -> tuple[int, list]:
    """Step and log of the saved run; modules, average and optimizer are filled in place."""
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
        metadata = f.metadata()
    return int(metadata["step"]), json.loads(metadata["log"])
