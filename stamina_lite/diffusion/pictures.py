"""Drawn pictures to and from files."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..images import grid, write_png
from ..runs.files import writing


def save_pictures(folder: Path, pictures: list[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, picture in enumerate(pictures):
        write_png(folder / f"{k:02d}.png", picture)


def from_folder(folder: Path) -> Tensor:
    """Read the PNG files of a folder in order: (n, 3, H, W) in [-1, 1]."""
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def save_described(pictures: list[Image.Image], folder: Path, about: dict, as_grid: bool = False) -> list[Path]:
    """Write PNG files whose text chunks say how the images were generated.

    Args:
        about: prompt, seed and other options; they are written to the text chunks and hashed into the file names.
        as_grid: write one PNG of all images too.

    Returns:
        The paths.
    """
    words = "".join(c if c.isalnum() else "-" for c in about["prompt"].lower())[:60].strip("-")
    mark = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:6]
    name = f"{words or 'picture'}-seed{about['seed']}-{mark}"  # no two of other settings share a name
    named = [(f"{k:02d}", picture, {**about, "picture": k}) for k, picture in enumerate(pictures)]
    named += [("grid", grid(pictures), {**about, "pictures": len(pictures)})] if as_grid else []
    paths = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for which, picture, told in named:
            chunks = PngInfo()
            for key, value in told.items():
                chunks.add_itxt(key, str(value))
            paths.append(folder / f"{name}-{which}.png")
            write_png(paths[-1], picture, chunks)
    return paths
