"""What tests of base models do to files, and compare of pipelines."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FEW = {"steps": 2, "batch": 2, "rank": 2, "mask_rank": 2}
QUICK = ["--steps", "1", "--batch", "2", "--rank", "2", "--device", "cpu"]
FIRST, SECOND = "a" * 40, "b" * 40  # commits


def change(file: Path, by) -> None:
    """Write a safetensors file anew, as by(tensors) has changed it in place."""
    tensors = load_file(file)
    by(tensors)
    save_file(tensors, file, {"format": "pt"})


def told(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def weights(pipe) -> dict[str, torch.Tensor]:
    models = {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}
    return {f"{m}.{k}": v for m, model in models.items() for k, v in model.state_dict().items()}


def same(a, b) -> bool:
    a, b = weights(a), weights(b)
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def learn_to(out: Path, base, *more) -> list[str]:
    argv = ["learn", more[0], "--method", "lora", "--base", base, "--out", out, *more[1:], *QUICK]
    return [str(a) for a in argv]
