"""Datasets of classes: labelled images for training and testing, their division into tasks, and the shipped one.

Those that are read from a disk are in `image_folder` (any folder) and `public_sets` (sets of the literature).
"""

import hashlib
import json
import random
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError

RENDITIONS = Path(__file__).parents[1] / "assets" / "renditions"
# part -> name of the dataset
PARTS = {"classes": "renditions", "hundred": "renditions-100", "others": "tuning-100", "tuning": "tuning"}


class LabelledImages(Protocol):
    """Images and their classes.

    labels: (n,) integers. size: S in px. load: indices -> images (m, 3, S, S) in [0, 1]; with a generator they are
    augmented as for training (random crop, scale and flip). stream: `load` for one part of the indices after another.
    content: bytes that identify these images, for a hash. of: only the images at these indices.
    """

    @property
    def labels(self) -> Tensor: ...

    @property
    def size(self) -> int: ...

    def load(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor: ...

    def stream(self, parts: Sequence[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]: ...

    def content(self) -> bytes: ...

    def of(self, indices: Tensor) -> "LabelledImages": ...


@dataclass(frozen=True)
class ClassDataset:
    """A dataset: its name, its classes, and images for training and testing. A label is an index of `classes`."""

    name: str
    classes: list[str]
    train: LabelledImages
    test: LabelledImages

    def first(self, n: int) -> "ClassDataset":
        """Only its first n classes. Raises UserError if it has fewer."""
        if n > len(self.classes):
            raise UserError(f"{self.name} has {len(self.classes)} classes, not {n}: choose fewer")
        halves = [half.of(of_classes(half, range(n))) for half in (self.train, self.test)]
        return ClassDataset(self.name, self.classes[:n], *halves)

    def hash(self) -> str:
        """A short sha256 of the classes' names and all images."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for half in (self.train, self.test):
            digest.update(half.labels.numpy().tobytes())
            digest.update(half.content())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class TensorImages:
    """Images in memory: (n, 3, s, s) uint8. They are loaded at S = `side` px, by default at their own size s."""

    images: Tensor
    labels: Tensor
    side: int | None = None

    @property
    def size(self) -> int:
        return self.side or self.images.shape[-1]

    def load(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = self.images[indices].float() / 255
        x = x if generator is None else resized_crop(x, generator)
        if self.size == x.shape[-1]:
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)

    def stream(self, parts: Sequence[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        return (self.load(indices, generator) for indices in parts)

    def content(self) -> bytes:
        return self.images.numpy().tobytes()

    def of(self, indices: Tensor) -> "TensorImages":
        return TensorImages(self.images[indices], self.labels[indices], self.side)


def class_order(classes: int, seed: int) -> list[int]:
    """The order of the classes: as they are for seed 0, else shuffled as in the code of CODA-Prompt."""
    order = list(range(classes))
    if seed > 0:
        random.Random(seed).shuffle(order)
    return order


def listed_order(file: Path, classes: Sequence[str]) -> list[int]:
    """The order of the classes in a text file, a name on each line: their labels.

    Raises:
        UserError: the file cannot be read, names a class twice or one that is not there, or lacks one.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cannot read {file}: give --order a text file with a class name on each line") from None
    names = [unicodedata.normalize("NFC", line.strip()) for line in lines if line.strip()]
    labels = {name: label for label, name in enumerate(classes)}
    for name in names:
        if name not in labels:
            raise UserError(f"{file} names {name}, which is no class that is left: name every class once")
        labels.pop(name)
    if labels:
        raise UserError(f"{file} does not name {next(iter(labels))} ({len(labels)} missing): name every class once")
    order = {name: label for label, name in enumerate(classes)}
    return [order[name] for name in names]


def equal_sizes(classes: int, tasks: int) -> list[int]:
    """The numbers of classes of tasks that differ by one at most, the larger tasks first. [ours]

    Public protocols have tasks of equal size, as these are wherever their number divides that of the classes.

    Raises:
        UserError: there are more tasks than classes.
    """
    if not 1 <= tasks <= classes:
        raise UserError(f"{classes} classes make no {tasks} tasks: choose 1 to {classes}")
    return [classes // tasks + (task < classes % tasks) for task in range(tasks)]


def increments(classes: int, first: int, increment: int) -> list[int]:
    """The numbers of classes of tasks: `first`, then `increment` each; the last task has what is left.

    The convention of PyCIL and of the CODA-Prompt code [recalled].

    Raises:
        UserError: the first task has more classes than there are.
    """
    if first > classes:
        raise UserError(f"a first task of {first} classes is more than the {classes} there are: lower --first")
    rest = classes - first
    return [first] + [increment] * (rest // increment) + ([rest % increment] if rest % increment else [])


def class_tasks(
    classes: int, tasks: int | Sequence[int], seed: int, order: Sequence[int] | None = None
) -> list[list[int]]:
    """Labels of the classes of every task.

    Args:
        classes: number of classes.
        tasks: number of tasks (`equal_sizes`), or the number of classes of each.
        seed: decides the order of the classes (`class_order`).
        order: the labels in the order in which they are learned, instead of that of the seed.

    Raises:
        UserError: there are more tasks than classes, or the sizes do not add up to the number of classes.
    """
    sizes = equal_sizes(classes, tasks) if isinstance(tasks, int) else list(tasks)
    if sum(sizes) != classes or min(sizes) < 1:
        raise UserError(f"tasks of {', '.join(map(str, sizes[:9]))} classes are not the {classes} there are")
    labels = torch.tensor(class_order(classes, seed) if order is None else list(order))
    return [part.tolist() for part in labels.split(sizes)]


@dataclass(frozen=True)
class TaskImages:
    """The training images of some classes, by their indices (n,) in a dataset."""

    dataset: LabelledImages
    indices: Tensor
    classes: list[int]

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, augmented: batches of (m, 3, S, S) and labels (m,), the last one smaller."""
        order = self.indices[torch.randperm(len(self.indices), generator=generator)]
        parts = order.split(size)
        for indices, x in zip(parts, self.dataset.stream(parts, generator), strict=True):
            yield x, self.dataset.labels[indices]


def task_images(dataset: LabelledImages, classes: list[int]) -> TaskImages:
    return TaskImages(dataset, of_classes(dataset, classes), classes)


def of_classes(dataset: LabelledImages, classes: Sequence[int]) -> Tensor:
    """Indices of the images of some classes: (m,)."""
    return torch.isin(dataset.labels, torch.as_tensor(classes)).nonzero()[:, 0]


def renditions(part: str = "classes", share_alike: bool = True) -> ClassDataset:
    """The shipped mini ImageNet-R: 200 emoji of twelve icon sets, in eight techniques.

    A class's test images are by artists whose drawings of it are never trained on.

    Args:
        part: "classes"; "hundred" for the 100 of them that joint training recognises best in cross-validation over the
            training images (studies/hundred_classes.py), "others" for the other 100, to choose settings for these on;
            or "tuning" for 50 that are not among the 200, to choose settings on.
        share_alike: with the drawings under CC-BY-SA, if they are installed.

    Raises:
        UserError: there is no such part.
    """
    if part not in PARTS:
        raise UserError(f"renditions has no part {part}: choose {', '.join(PARTS)}")
    return _renditions(part, share_alike and (RENDITIONS / "share-alike").is_dir())


@cache
def _renditions(part: str, share_alike: bool) -> ClassDataset:
    about = metadata()
    names = [n for n in about["classes"] if (n in about["tuning"]) == (part == "tuning")]
    if part in ("hundred", "others"):
        hundred = set((RENDITIONS / "hundred.txt").read_text(encoding="utf-8").split())
        names = [n for n in names if (n in hundred) == (part == "hundred")]
    found: dict[str, tuple[list, list]] = {"train": ([], []), "test": ([], [])}
    for label, name in enumerate(names):
        for kind in ("pictures", "share-alike") if share_alike else ("pictures",):
            rows = about["classes"][name].get(kind, {"rows": []})["rows"]
            home = RENDITIONS if kind == "pictures" else RENDITIONS / kind
            tiles = read_sheet(home / f"{name}.webp", len(rows), about["size"], about["columns"]) if rows else ()
            for tile, (_, _, split) in zip(tiles, rows, strict=True):
                found[split][0].append(tile)
                found[split][1].append(label)
    halves = {split: TensorImages(torch.stack(tiles), torch.tensor(labels)) for split, (tiles, labels) in found.items()}
    return ClassDataset(PARTS[part], names, **halves)


def metadata() -> dict:
    """The contents of metadata.json: size, icon sets and licences, and every image's set, style and split."""
    return json.loads((RENDITIONS / "metadata.json").read_text(encoding="utf-8"))


def read_sheet(file: Path, n: int, size: int, columns: int) -> Tensor:
    """The first n images of a sheet: (n, 3, size, size) uint8."""
    with Image.open(file) as image:
        whole = torch.from_numpy(np.array(image.convert("RGB")))
    tiles = whole.unfold(0, size, size).unfold(1, size, size)  # (rows, columns, 3, size, size)
    return tiles[:, :columns].flatten(0, 1)[:n]


def resized_crop(x: Tensor, generator: torch.Generator, smallest: float = 0.6) -> Tensor:
    """Random crop, scale and horizontal flip of a batch: (n, 3, S, S) -> the same shape.

    smallest: the smallest crop, as a share of the side. It is larger than for photographs: a drawing fills its image.
    """
    side, *shift = torch.rand(3, len(x), generator=generator)
    side = smallest + (1 - smallest) * side
    flip = torch.where(torch.rand(len(x), generator=generator) < 0.5, -1.0, 1.0)
    move = [(2 * s - 1) * (1 - side) for s in shift]
    zero = torch.zeros_like(side)
    where = torch.stack([torch.stack([side * flip, zero, move[0]], 1), torch.stack([zero, side, move[1]], 1)], 1)
    grid = F.affine_grid(where.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
