"""Which software and device a run was made with."""

import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("stamina-lite", "torch", "diffusers", "transformers", "timm", "numpy", "pillow")


def versions(device: torch.device) -> dict:
    """{"versions": {package: version}, "device": name}."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        parts = "CPU", processor(), f"{torch.get_num_threads()} threads", platform.machine()
        name = ", ".join(filter(None, parts))
    return {"versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}, "device": name}


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the CPU, empty if the system does not say it. Python itself knows it on other systems than Linux."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor()])[0]


@cache
def minor_version() -> str:
    """MAJOR.MINOR of this package: its releases with the same give the same results."""
    return ".".join(version("stamina-lite").split(".")[:2])
