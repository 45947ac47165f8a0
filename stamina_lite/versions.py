"""Which software and device a run was made with."""

import platform
from importlib.metadata import version

import torch

PACKAGES = ("stamina-lite", "torch", "diffusers", "transformers", "timm", "numpy", "pillow")


def versions(device: torch.device) -> dict:
    """{"versions": {package: version}, "device": name}."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
    return {"versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}, "device": name}
