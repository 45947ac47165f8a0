"""Concepts and their pictures: the embedded sets, a user's own folders, and what is wrong with them in one line.

A concept is a folder of pictures; its token in a prompt is the folder's name in angle brackets. Whatever a user's
pictures are (greyscale, CMYK, 16-bit, transparent, rotated by EXIF, huge), a model sees RGB squares.
"""

import hashlib
import json
import random
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import UserError

ASSETS = Path(__file__).parent / "assets" / "concepts"
SETS = ("mini50", "people25", "falls25", "mini10", "tune5", "tune20")
REAL = "celeba-landmarks50"
HALVES = {"celebs25": "celeba_hq.py", "waterfalls25": "google_landmarks.py"}  # of it: folder -> what builds it
ORDERS = ("alternate", "people first", "waterfalls first")
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".raw", ".psd", ".svg"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Concept:
    """A thing to be learned from pictures: images are for training, references for measuring."""

    name: str
    images: tuple[Path, ...]
    references: tuple[Path, ...]

    @property
    def token(self) -> str:
        """The concept's word in prompts, such as "<person-03>"."""
        return f"<{self.name}>"

    def load(self, size: int) -> Tensor:
        """The training pictures: (n, 3, size, size) float32 in [-1, 1]."""
        return torch.stack([read_image(path, size) for path in self.images])

    def load_references(self, size: int) -> Tensor:
        """The reference pictures: (n, 3, size, size) float32 in [-1, 1]."""
        return torch.stack([read_image(path, size) for path in self.references])


def concepts(
    source: str | Path, order: str = "alternate", count: int | None = None, shuffle: int = 0,
    data: str | Path | None = None,
) -> list[Concept]:  # fmt: skip
    """The concepts of an embedded set (a name of SETS) or of a user's folder, in the order in which they are learned.

    The real set of the papers, REAL, is read from the folder `data`, which scripts in data_scripts fill; that folder
    itself may be named instead.

    A user's folder has one sub-folder of pictures a concept, taken in the order of their names; or it has pictures
    itself and is one concept. A folder of the same shape beside it, FOLDER-references, holds pictures to measure with;
    without it the training pictures serve for both. `order` is for the named sets; `count` keeps the first so many.
    shuffle: a seed by which people change places with people and waterfalls with waterfalls (of a user's folder, any
    with any); 0 leaves them as they are.

    Raises UserError, also for a picture that cannot be read: better now than after hours of learning.
    """
    if order not in ORDERS:
        raise UserError(f"unknown order {order!r}: choose {', '.join(ORDERS)}")
    if data is None and all((Path(source) / half).is_dir() for half in HALVES):
        source, data = REAL, source
    if source == REAL:
        found = real(data, order, shuffle)
    elif data is not None:
        raise UserError(f"{source} is no set that is read from a folder: leave --data out")
    elif source in SETS:
        found = embedded(source, order, shuffle)
    elif order != "alternate":
        raise UserError(f"order {order!r} is for embedded sets only: leave it out, folders are taken by name")
    else:
        found = from_folder(Path(source))
        found = random.Random(shuffle).sample(found, len(found)) if shuffle else found
    if count is not None and not 1 <= count <= len(found):
        raise UserError(f"{count} concepts asked for, {source} has {len(found)}: choose 1 to {len(found)}")
    return found[:count]


def embedded(name: str, order: str, shuffle: int = 0) -> list[Concept]:
    """A set that comes with the package, as its manifest lists it."""
    manifest = json.loads((ASSETS / "manifest.json").read_text(encoding="utf-8"))
    names, entries = list(manifest["sets"][name]), manifest["concepts"]
    kinds = [entries[n]["kind"] for n in names]
    for kind in dict.fromkeys(kinds) if shuffle else ():
        places = [k for k, other in enumerate(kinds) if other == kind]
        mixed = [names[k] for k in random.Random(shuffle).sample(places, len(places))]
        for place, n in zip(places, mixed, strict=True):
            names[place] = n
    first = {"people first": "person", "waterfalls first": "waterfall"}.get(order)
    if first:
        names = sorted(names, key=lambda n: entries[n]["kind"] != first)  # stable: each kind keeps its order
    folders = [[ASSETS / entries[n][use]["folder"] for use in ("train", "references")] for n in names]
    return [Concept(n, pictures(train), pictures(more)) for n, (train, more) in zip(names, folders, strict=True)]


def real(data: str | Path | None, order: str, shuffle: int = 0) -> list[Concept]:
    """REAL from its folder: people and waterfalls in turn, what one half has more at the end; as `embedded` else."""
    if data is None:
        raise UserError(f"{REAL} is read from a folder: give --data DIR, filled by data_scripts/celeba_hq.py")
    for half, script in HALVES.items():
        if not (Path(data) / half).is_dir():
            raise UserError(f"{Path(data) / half} is missing: python data_scripts/{script} builds it")
    people, falls = (from_folder(Path(data) / half) for half in HALVES)
    if shuffle:
        people, falls = (random.Random(shuffle).sample(half, len(half)) for half in (people, falls))
    pairs = [c for pair in zip_longest(people, falls) for c in pair if c]
    found = {"people first": people + falls, "waterfalls first": falls + people}.get(order, pairs)
    refuse_same_names(found, Path(data))
    return found


def from_folder(folder: Path) -> list[Concept]:
    """The concepts of a user's folder: see `concepts`."""
    if folder.is_file():
        raise UserError(f"{folder} is a file: give the folder that holds it")
    if not folder.is_dir():
        raise UserError(f"no set or folder is called {folder}: choose {', '.join(SETS)} or a folder of pictures")
    inside = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    if inside and pictures(folder):
        raise UserError(f"{folder} holds both pictures and folders: move the pictures into a folder of their own")
    if not inside and not pictures(folder):
        raise UserError(f"no images in {folder}: expected .png, .jpg or .webp, or one sub-folder a concept")
    root = folder.resolve()  # "." has a name too
    beside = root.parent / f"{root.name}-references"
    sources = [(f.name, f, beside / f.name) for f in inside] or [(root.name, folder, beside)]
    found = [user_concept(*source) for source in sources]
    refuse_same_names(found, folder)
    for path in dict.fromkeys(path for concept in found for path in concept.images + concept.references):
        read_image(path, 8)
    return found


def user_concept(name: str, folder: Path, references: Path) -> Concept:
    """One folder of pictures as a concept, with "-" for the spaces in its name."""
    name = name.replace(" ", "-")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"{name!r} cannot be a concept's name: rename the folder with a-z, 0-9, - and _ only")
    images = pictures(folder)
    if not images:
        raise UserError(f"no images in {folder}: expected .png, .jpg or .webp")
    return Concept(name, images, (pictures(references) if references.is_dir() else ()) or images)


def refuse_same_names(concepts: list[Concept], folder: Path) -> None:
    """Raise UserError for names that are equal or differ in capitals only: tokenizers lower all letters."""
    seen: dict[str, str] = {}
    for concept in concepts:
        key = concept.name.lower()
        if key in seen:
            raise UserError(f"two concepts in {folder} are called {concept.name} ({seen[key]}): rename one folder")
        seen[key] = f"{concept.name}, spaces and capitals aside"


def pictures(folder: Path) -> tuple[Path, ...]:
    """The picture files of a folder, sorted; hidden and other files are passed over.

    Raises UserError for pictures of a kind that is not read: better than to learn from the others in silence.
    """
    files = sorted(f for f in folder.iterdir() if not f.name.startswith(".") and f.is_file())
    unread = [f for f in files if f.suffix.lower() in UNREAD]
    if unread:
        raise UserError(f"{unread[0]} and its like ({len(unread)}) cannot be read: save them as JPEG, or remove them")
    return tuple(f for f in files if f.suffix.lower() in SUFFIXES)


def set_hash(concepts: Iterable[Concept]) -> str:
    """sha256 of the concepts' names and training pictures, in their order."""
    digest = hashlib.sha256()
    for concept in concepts:
        digest.update(f"{concept.name} {len(concept.images)}\n".encode())
        for path in concept.images:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_image(path: str | Path, size: int) -> Tensor:
    """A picture file as (3, size, size) float32 in [-1, 1]: its middle square, on white where it is transparent.

    Of an animation the first frame. Raises UserError for a file that is no picture, is cut off or has so many pixels
    that Pillow refuses to decode it (twice Image.MAX_IMAGE_PIXELS, 179 million).
    """
    try:
        with Image.open(path) as image:
            square = to_square(image, size)
    except Image.DecompressionBombError as fault:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(f"{path} has more than {most:.0f} million pixels: make it smaller") from fault
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as fault:
        reason = "it is not a picture" if isinstance(fault, UnidentifiedImageError) else str(fault).lower()
        raise UserError(f"cannot read {path} ({reason}): save it again as PNG or JPEG, or remove it") from fault
    return torch.from_numpy(square).permute(2, 0, 1).float().div(127.5).sub(1)


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """An opened picture's middle square as (size, size, 3) uint8, with few full-size copies."""
    image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a half, a quarter or an eighth
    ImageOps.exif_transpose(image, in_place=True)
    image = to_8_bit(image)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    small = image.resize((size, size), Image.Resampling.LANCZOS, box, reducing_gap=3).convert("RGBA")
    white = Image.new("RGBA", small.size, "white")
    return np.array(Image.alpha_composite(white, small).convert("RGB"))


def to_8_bit(image: Image.Image) -> Image.Image:
    """The picture in mode L, RGB or RGBA, all of which can be resized."""
    if image.mode[0] in "IF":  # 16 or 32 bits of grey, which Pillow's own conversion clips at 255
        levels = np.nan_to_num(np.asarray(image, dtype=np.float32))
        sixteen = image.mode.startswith("I;16") or levels.max() > 255
        white = 65535 if sixteen else 1 if image.mode == "F" and levels.max() <= 1 else 255
        return Image.fromarray((levels.clip(0, white) * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def check_tokens(concepts: Iterable[Concept], tokenizer) -> None:
    """Raise UserError for a concept whose name is a word of the tokenizer, or whose token it has already."""
    known = {token.lower() for token in tokenizer.get_vocab()}
    for concept in concepts:
        if concept.token.lower() in known:
            raise UserError(f"the model knows {concept.token} already: rename the folder of {concept.name}")
        if len(tokenizer.tokenize(concept.name)) == 1:
            raise UserError(f"{concept.name} is a word the model knows: rename the folder, say my-{concept.name}")


def check_prompt(prompt: str, tokenizer) -> None:
    """Raise UserError for a <token> in the prompt that the tokenizer does not have, or that it would cut off."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt holds bytes that are no text: write it in UTF-8") from None
    added = [token for token in tokenizer.get_added_vocab() if re.fullmatch(r"<[^<>|]+>", token)]
    named = re.findall(r"<[^<>]*>", prompt)
    for token in named:
        if token not in added:
            alike = [known for known in added if known.lower() == token.lower()]
            choice = f"write {alike[0]}" if alike else f"choose {', '.join(added[:8])}" + ", ..." * (len(added) > 8)
            raise UserError(f"unknown token {token}: {choice if added else 'this model has learned no concept yet'}")
    if named:
        ids = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
        cut = [token for token in named if tokenizer.convert_tokens_to_ids(token) not in ids]
        if cut:
            raise UserError(f"the prompt is too long, {cut[0]} is cut off: name it among the first words")
