"""Concepts and their images: the embedded sets and a user's own folders.

A concept is a folder of images; its token in a prompt is the folder's name in angle brackets. Images may be greyscale,
CMYK, 16-bit, transparent, rotated by EXIF or large: they are converted to RGB squares.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..images import CROPS, read_image, to_pil
from .caption_files import TABLES, read_captions
from .image_folders import concept_folders, image_files, say_left_out, warn_of_nested

ASSETS = Path(__file__).parents[1] / "assets" / "concepts"
SETS = ("mini50", "people25", "falls25", "mini25", "mini10", "tune5", "tune20")
REAL = "celeba-landmarks50"
REAL_FOLDERS = {"celebs25": "celeba_hq.py", "waterfalls25": "google_landmarks.py"}  # folder of REAL -> script
ORDERS = ("alternate", "people-first", "waterfalls-first")
RANDOM_CROPS = 4  # squares of an image, where they are random


@dataclass(frozen=True)
class Concept:
    """A person, a place or a thing that is learned from images.

    Attributes:
        images: the training images.
        references: the images that generated images are compared with.
        captions: of the training images, with {} in place of the token; None for an image that has none.
        crop: a name of `images.CROPS`; "random" takes RANDOM_CROPS squares of every image.
    """

    name: str
    images: tuple[Path, ...]
    references: tuple[Path, ...]
    captions: tuple[str | None, ...] = ()
    crop: str = "centre"

    @property
    def token(self) -> str:
        """The concept's word in prompts, such as "<person-03>"."""
        return f"<{self.name}>"

    def load(self, size: int) -> Tensor:
        """Load the training images: (n, 3, size, size) float32 in [-1, 1]. Squares of one image are neighbours."""
        return self._squares(self.images, size)

    def load_references(self, size: int) -> Tensor:
        """Load the reference images: (n, 3, size, size) float32 in [-1, 1]."""
        return self._squares(self.references, size)

    def _squares(self, files: Iterable[Path], size: int) -> Tensor:
        seeds = range(RANDOM_CROPS if self.crop == "random" else 1)
        squares: list[Tensor] = []
        for file in files:
            squares += [read_image(file, size, self.crop, seed) for seed in seeds]
        return torch.stack(squares)


def concepts(
    source: str | Path, order: str = "alternate", count: int | None = None, shuffle: int = 0,
    data: str | Path | None = None, crop: str = "centre",
) -> list[Concept]:  # fmt: skip
    """The concepts of a set or of a folder, in the order in which they are learned.

    A user's folder has one sub-folder of images for each concept, which are sorted by name; or it has images itself and
    is one concept. Reference images are in a folder FOLDER-references of the same layout; without it the training
    images are the references too.

    Args:
        source: a name of SETS; REAL, the papers' set, or its folder; or a user's folder.
        order: a name of ORDERS, for SETS and REAL.
        count: use only the first `count` concepts; by default all.
        shuffle: seed of a random order. In SETS and REAL people are permuted among people and waterfalls among
            waterfalls; a user's concepts are all permuted. 0 does not shuffle.
        data: the folder of REAL, which data_scripts fill.
        crop: how images that are no squares become squares, see `Concept`.

    Raises:
        UserError: a set, folder, order or crop is wrong, or an image or a caption cannot be read.
    """
    if crop not in CROPS:
        raise UserError(f"unknown crop {crop}: choose {', '.join(CROPS)}")
    order = order.replace(" ", "-")  # as earlier versions spelled them
    if order not in ORDERS:
        raise UserError(f"unknown order {order!r}: choose {', '.join(ORDERS)}")
    if data is None and all((Path(source) / folder).is_dir() for folder in REAL_FOLDERS):
        source, data = REAL, source
    if source == REAL:
        found = real_concepts(data, order, shuffle)
    elif data is not None:
        raise UserError(f"{source} is no set that is read from a folder: leave --data out")
    elif source in SETS:
        found = embedded_concepts(source, order, shuffle)
    elif order != "alternate":
        raise UserError(f"order {order!r} is for embedded sets only: leave it out, folders are taken by name")
    else:
        found = from_folder(Path(source))
        found = random.Random(shuffle).sample(found, len(found)) if shuffle else found
    if count is not None and not 1 <= count <= len(found):
        raise UserError(f"{count} concepts asked for, {source} has {len(found)}: choose 1 to {len(found)}")
    return [replace(concept, crop=crop) for concept in found[:count]]


def embedded_concepts(set_name: str, order: str, shuffle: int = 0) -> list[Concept]:
    """The concepts of an embedded set, as its manifest lists them."""
    manifest = json.loads((ASSETS / "manifest.json").read_text(encoding="utf-8"))
    names, entries = list(manifest["sets"][set_name]), manifest["concepts"]
    kinds = [entries[name]["kind"] for name in names]
    for kind in dict.fromkeys(kinds) if shuffle else ():
        positions = [k for k, other in enumerate(kinds) if other == kind]
        shuffled = [names[k] for k in random.Random(shuffle).sample(positions, len(positions))]
        for position, name in zip(positions, shuffled, strict=True):
            names[position] = name
    first = {"people-first": "person", "waterfalls-first": "waterfall"}.get(order)
    if first:
        names = sorted(names, key=lambda name: entries[name]["kind"] != first)  # stable: each kind keeps its order
    found = []
    for name in names:
        train, references = (ASSETS / entries[name][use]["folder"] for use in ("train", "references"))
        found.append(Concept(name, image_files(train), image_files(references)))
    return found


def real_concepts(data: str | Path | None, order: str, shuffle: int = 0) -> list[Concept]:
    """The concepts of REAL: people and waterfalls alternate, and the rest of the longer list comes last."""
    if data is None:
        raise UserError(f"{REAL} is read from a folder: give --data DIR, filled by data_scripts/celeba_hq.py")
    for folder, script in REAL_FOLDERS.items():
        if not (Path(data) / folder).is_dir():
            raise UserError(f"{Path(data) / folder} is missing: python data_scripts/{script} builds it")
    people, waterfalls = (from_folder(Path(data) / folder) for folder in REAL_FOLDERS)
    if shuffle:
        people, waterfalls = (random.Random(shuffle).sample(kind, len(kind)) for kind in (people, waterfalls))
    alternating: list[Concept] = []
    for pair in zip_longest(people, waterfalls):
        alternating += [concept for concept in pair if concept]
    blocks = {"people-first": people + waterfalls, "waterfalls-first": waterfalls + people}
    found = blocks.get(order, alternating)
    refuse_same_names(found, Path(data))
    return found


def from_folder(folder: Path) -> list[Concept]:
    """The concepts of a user's folder, see `concepts`."""
    if folder.is_file():
        raise UserError(f"{folder} is a file: give the folder that holds it")
    if not folder.is_dir():
        raise UserError(f"no set or folder is called {folder}: choose {', '.join(SETS)} or a folder of pictures")
    folders, pictures = concept_folders(folder), image_files(folder)
    if folders and pictures:
        raise UserError(f"{folder} holds both pictures and folders: move the pictures into a folder of their own")
    if not folders and not pictures:
        raise UserError(f"no images in {folder}: expected .png, .jpg or .webp, or one sub-folder a concept")
    if folders:
        tables = [folder / name for name in TABLES if (folder / name).is_file()]
        say_left_out(folder, tables, "captions belong into the folder of each concept")
    root = folder.resolve()  # "." has a name too
    references = root.parent / f"{root.name}-references"
    sources = [(f.name, f, references / f.name) for f in folders] or [(root.name, folder, references)]
    found = [user_concept(*source) for source in sources]
    refuse_same_names(found, folder)
    files: list[Path] = []
    for concept in found:
        files += concept.images + concept.references
    for file in dict.fromkeys(files):
        read_image(file, 8)  # raises UserError for a damaged file
    return found


def user_concept(name: str, folder: Path, references: Path) -> Concept:
    """A folder of images as a concept; spaces in its name become "-"."""
    name = name.replace(" ", "-")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"{name!r} cannot be a concept's name: rename the folder with a-z, 0-9, - and _ only")
    images = image_files(folder)
    if not images:
        raise UserError(f"no images in {folder}: expected .png, .jpg or .webp")
    warn_of_nested(folder)
    separate = image_files(references) if references.is_dir() else ()
    return Concept(name, images, separate or images, read_captions(name, images))


def refuse_same_names(concepts: list[Concept], folder: Path) -> None:
    """Raise UserError for names that differ at most in upper and lower case, which tokenizers do not distinguish."""
    seen: dict[str, str] = {}
    for concept in concepts:
        key = concept.name.lower()
        if key in seen:
            raise UserError(f"two concepts in {folder} are called {concept.name} ({seen[key]}): rename one folder")
        seen[key] = f"{concept.name}, spaces and capitals aside"


def set_hash(concepts: Iterable[Concept]) -> str:
    """sha256 of the concepts' names, training images, captions and crops, in order."""
    digest = hashlib.sha256()
    for concept in concepts:
        digest.update(f"{concept.name} {len(concept.images)}\n".encode())
        for path in concept.images:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        if any(concept.captions):
            digest.update(json.dumps(concept.captions).encode())
        if concept.crop != "centre":
            digest.update(concept.crop.encode())
    return digest.hexdigest()


def training_images(concepts: Iterable[Concept], n: int, size: int = 128) -> dict[str, list[Image.Image]]:
    """Load the first n training images of each concept, of `size` px, as a row of a figure: name -> images."""
    rows = {}
    for concept in concepts:
        rows[concept.name] = to_pil(torch.stack([read_image(file, size, concept.crop) for file in concept.images[:n]]))
    return rows
