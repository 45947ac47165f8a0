"""Datasets of classes: labelled images for training and testing, and their division into tasks.

`renditions` is shipped; `imagenet-r` is read from a folder that data_scripts/imagenet_r.py fills.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .image_files import ImageFiles, check_readable

RENDITIONS = Path(__file__).parents[1] / "assets" / "renditions"
IMAGENET_R = {"train": 24_000, "test": 6_000}  # pictures in the public split


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
    """Images in memory: (n, 3, S, S) uint8."""

    images: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    def load(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = self.images[indices].float() / 255
        return x if generator is None else resized_crop(x, generator)

    def stream(self, parts: Sequence[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        return (self.load(indices, generator) for indices in parts)

    def content(self) -> bytes:
        return self.images.numpy().tobytes()

    def of(self, indices: Tensor) -> "TensorImages":
        return TensorImages(self.images[indices], self.labels[indices])


def class_order(classes: int, seed: int) -> list[int]:
    """The order of the classes: as they are for seed 0, else shuffled as in the code of CODA-Prompt."""
    order = list(range(classes))
    if seed > 0:
        random.Random(seed).shuffle(order)
    return order


def class_tasks(classes: int, tasks: int, seed: int) -> list[list[int]]:
    """Labels of the classes of every task. Raises UserError if the tasks cannot be of equal size."""
    if tasks < 1 or classes % tasks:
        ways = [n for n in range(1, classes + 1) if classes % n == 0]
        raise UserError(f"{classes} classes make no {tasks} equal tasks: choose {', '.join(map(str, ways))}")
    order, each = class_order(classes, seed), classes // tasks
    return [order[k : k + each] for k in range(0, classes, each)]


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


def class_set(name: str, folder: Path | None = None, classes: int | None = None, size: int = 224) -> ClassDataset:
    """A dataset of CLASS_SETS.

    Args:
        folder: the folder of imagenet-r.
        classes: only the first so many.
        size: px that imagenet-r is loaded at.

    Raises:
        UserError: the dataset is missing or damaged, or has fewer classes.
    """
    if name == "imagenet-r" and folder is None:
        raise UserError("imagenet-r is read from a folder: give --data DIR, filled by data_scripts/imagenet_r.py")
    if name != "imagenet-r" and folder is not None:
        raise UserError(f"{name} is in the package: leave --data out")
    found = CLASS_SETS[name](folder, size) if folder else CLASS_SETS[name]()
    return found.first(classes) if classes else found


def renditions(part: str = "classes", share_alike: bool = True) -> ClassDataset:
    """The shipped mini ImageNet-R: 200 emoji of twelve icon sets, in eight techniques.

    A class's test images are by artists whose drawings of it are never trained on.

    Args:
        part: "classes", or "tuning" for the 50 others that settings are chosen on.
        share_alike: with the drawings under CC-BY-SA, if they are installed.

    Raises:
        UserError: there is no such part.
    """
    if part not in ("classes", "tuning"):
        raise UserError(f"renditions has no part {part}: choose classes or tuning")
    return _renditions(part, share_alike and (RENDITIONS / "share-alike").is_dir())


@cache
def _renditions(part: str, share_alike: bool) -> ClassDataset:
    about = metadata()
    names = [n for n in about["classes"] if (n in about["tuning"]) == (part == "tuning")]
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
    return ClassDataset("renditions" if part == "classes" else part, names, **halves)


def metadata() -> dict:
    """The contents of metadata.json: size, icon sets and licences, and every image's set, style and split."""
    return json.loads((RENDITIONS / "metadata.json").read_text(encoding="utf-8"))


def read_sheet(file: Path, n: int, size: int, columns: int) -> Tensor:
    """The first n images of a sheet: (n, 3, size, size) uint8."""
    with Image.open(file) as image:
        whole = torch.from_numpy(np.array(image.convert("RGB")))
    tiles = whole.unfold(0, size, size).unfold(1, size, size)  # (rows, columns, 3, size, size)
    return tiles[:, :columns].flatten(0, 1)[:n]


def imagenet_r(folder: Path | str, size: int = 224) -> ClassDataset:
    """ImageNet-R with the split of the CODA-Prompt code: folder/imagenet-r_train.yaml, _test.yaml and class folders.

    Raises:
        UserError: a file or an image is missing or damaged, an image is in both halves, or labels and folders do not
            match.
    """
    folder = Path(folder)
    halves = {split: read_split(folder, split, size) for split in IMAGENET_R}
    both = {*halves["train"].files} & {*halves["test"].files}
    if both:
        raise UserError(f"{min(both)} is to be trained on and tested: fetch the split files again")
    named: dict[int, str] = {}
    for half in halves.values():
        for file, label in zip(half.files, half.labels.tolist(), strict=True):
            if named.setdefault(label, file.parent.name) != file.parent.name:
                raise UserError(f"class {label} is {named[label]} and {file.parent.name}: fetch the split files again")
    if sorted(named) != [*range(len(named))]:
        raise UserError(f"{folder}: classes 0 to {max(named)} are not all there: fetch the split files again")
    for split, half in halves.items():
        bare = {*named} - {*half.labels.tolist()}
        if bare:
            raise UserError(f"{named[min(bare)]} has no pictures in the {split} half: fetch the split files again")
    check_readable([*halves["train"].files, *halves["test"].files])
    return ClassDataset("imagenet-r", [named[k] for k in range(len(named))], **halves)


def read_split(folder: Path, split: str, size: int) -> ImageFiles:
    """One half of the public split; its paths data/imagenet-r/CLASS/NAME.jpg are looked up in `folder`."""
    import yaml

    file = folder / f"imagenet-r_{split}.yaml"
    if not file.is_file():
        raise UserError(f"{file} is missing: python data_scripts/imagenet_r.py --out {folder}")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        names = [Path(*Path(name).parts[-2:]) for name in content["data"]]
        targets = content["targets"]
        if not all(type(target) is int for target in targets):
            raise TypeError("targets are whole numbers")
        labels = torch.tensor(targets)
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise UserError(f"{file} is damaged: python data_scripts/imagenet_r.py --out {folder}") from None
    if len(names) != len(labels) or not names:
        raise UserError(f"{file} has {len(names)} pictures and {len(labels)} classes: fetch it again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} pictures of {file.name} are not in {folder}, {missing[0]} among them: "
            f"python data_scripts/imagenet_r.py --out {folder}"
        )
    return ImageFiles([folder / name for name in names], labels, size)


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


CLASS_SETS: dict[str, Callable[..., ClassDataset]] = {
    "renditions": renditions,
    "tuning": partial(renditions, "tuning"),
    "imagenet-r": imagenet_r,
}
