"""Which software and device a run was made with."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("stamina-lite", "torch", "diffusers", "transformers", "timm", "numpy", "pillow")


def versions(device: torch.device) -> dict:
    """{"versions": {package: version}, "device": name}."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        about = "CPU", processor(), f"{torch.get_num_threads()} threads", platform.machine()
        name = ", ".join(filter(None, about))
    return {"versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}, "device": name}


def processor(told: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the CPU, empty where the system tells none; Python itself knows it on other systems than Linux."""
    lines = told.read_text().splitlines() if told.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor()])[0]
