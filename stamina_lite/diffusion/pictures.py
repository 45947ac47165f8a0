"""Reading and writing of generated images."""

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
    """Write images to a folder as 00.png, 01.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, picture in enumerate(pictures):
        write_png(folder / f"{k:02d}.png", picture)


def from_folder(folder: Path) -> Tensor:
    """Read the PNG files of a folder in order: (n, 3, H, W) in [-1, 1]."""
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def save_described(pictures: list[Image.Image], folder: Path, about: dict, as_grid: bool = False) -> list[Path]:
    """Write PNG files whose text chunks record how the images were generated.

    Args:
        about: prompt, seed and other options; they are written to the text chunks and hashed into the file names.
        as_grid: also write one PNG with all images.

    Returns:
        The paths of the files.
    """
    words = "".join(c if c.isalnum() else "-" for c in about["prompt"].lower())[:60].strip("-")
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:6]
    stem = f"{words or 'picture'}-seed{about['seed']}-{digest}"  # images of different options have different names
    entries = [(f"{k:02d}", picture, {**about, "picture": k}) for k, picture in enumerate(pictures)]
    entries += [("grid", grid(pictures), {**about, "pictures": len(pictures)})] if as_grid else []
    paths = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, picture, metadata in entries:
            chunks = PngInfo()
            for key, value in metadata.items():
                chunks.add_itxt(key, str(value))
            paths.append(folder / f"{stem}-{suffix}.png")
            write_png(paths[-1], picture, chunks)
    return paths
