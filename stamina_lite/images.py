"""Drawn pictures to and from files."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .checkpoint import writing
from .data import Concept


def save_pictures(folder: Path, pictures: list[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, picture in enumerate(pictures):
        write_png(folder / f"{k:02d}.png", picture)


def from_folder(folder: Path) -> Tensor:
    """The pictures of a folder in order, as they were kept in 8 bits: (n, 3, H, W) in [-1, 1]."""
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def learned_from(concepts: Iterable[Concept], n: int) -> dict[str, list[Image.Image]]:
    """The first n pictures that each concept is learned from, by its name, to be shown beside what is drawn."""
    return {c.name: [Image.open(file).convert("RGB") for file in c.images[:n]] for c in concepts}


def to_pil(images: Tensor) -> list[Image.Image]:
    """(n, 3, H, W) in [-1, 1] -> pictures."""
    data = images.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(x) for x in data]


def grid(pictures: list[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size as one, row by row; as many columns as make it about square."""
    columns = columns or math.ceil(len(pictures) ** 0.5)
    width, height = pictures[0].size
    whole = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k % columns * width, k // columns * height))
    return whole


def save_described(pictures: list[Image.Image], folder: Path, about: dict, as_grid: bool = False) -> list[Path]:
    """PNGs that say in their text chunks what they were drawn from; their paths. as_grid: one of all of them too."""
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


def write_png(file: Path, picture: Image.Image, chunks: PngInfo | None = None) -> None:
    """Written beside and moved into place, so that no full disk leaves half a picture."""
    beside = file.with_name(f".{file.name}.part")
    try:
        picture.save(beside, "png", pnginfo=chunks)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
