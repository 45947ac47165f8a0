"""Base models: the embedded one, a folder, or a hub id; always a stock StableDiffusionPipeline."""

import json
from pathlib import Path

from .data import UserError

EMBEDDED = {"mini": Path(__file__).parent / "assets" / "mini"}
MODELS = ("unet", "vae", "text_encoder")


def load_base(base: str | Path = "mini", device: str | None = None, dtype=None):
    """A StableDiffusionPipeline from the embedded base ("mini"), a diffusers folder, or a hub id.

    Only safetensors are read, never a pickle. device: cuda where there is one, else cpu. dtype: fp32 by default.
    Raises UserError where the device is not there, a folder lacks a file, or a hub id can be neither found nor fetched.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    check_device(device)
    folder = EMBEDDED.get(str(base), Path(base))
    if folder.exists():
        check_folder(folder)
    elif str(base).startswith((".", "/", "~")) or str(base).count("/") != 1:
        raise UserError(f"no base model at {base}: give {', '.join(EMBEDDED)}, a folder, or a hub id (owner/name)")
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder if folder.exists() else str(base),
            dtype=dtype or torch.float32,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the base {base}: {first}") from None
    return pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def check_device(device: str | None) -> None:
    """Refuse a device that is not there before a model is loaded for it."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # which of them depends on how torch was built
        raise UserError(
            f"no device {device} ({str(error).splitlines()[0]}): give --device cpu, or leave it out"
        ) from None


def check_folder(folder: Path) -> None:
    """Every file a pipeline needs, by name, before anything is loaded."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} is no diffusers folder: model_index.json is missing")
    try:
        parts = json.loads(index.read_text())
    except json.JSONDecodeError:
        raise UserError(f"{index} is damaged (no JSON): restore the folder") from None
    for model in MODELS:
        if model not in parts:
            raise UserError(f"{folder} is no Stable Diffusion: model_index.json names no {model}")
        if not (folder / model / "config.json").is_file():
            raise UserError(f"{folder}/{model}/config.json is missing: restore the folder")
        if not list((folder / model).glob("*.safetensors")):
            raise UserError(f"{folder}/{model} holds no .safetensors weights: pickled weights are not read")
    words = ("tokenizer.json",) if (folder / "tokenizer" / "tokenizer.json").is_file() else ("vocab.json", "merges.txt")
    for file in (*(f"tokenizer/{name}" for name in words), "scheduler/scheduler_config.json"):
        if not (folder / file).is_file():
            raise UserError(f"{folder}/{file} is missing: restore the folder")
