"""A user's own pictures in a notebook: uploads become files, and files of any size become the squares of a concept."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..images import open_image, read_image, to_pil, write_png
from .image_folders import is_image

FEW, MANY = 3, 64  # fewer pictures show too little of a concept; of more than MANY a part is used
LARGE = 50  # megapixels


def store_uploads(uploads: Iterable[Mapping], folder: Path) -> list[Path]:
    """Write what `ipywidgets.FileUpload` holds in its `value` to a folder.

    Args:
        uploads: {"name": file name, "content": bytes or memoryview} of every file.

    Returns:
        The paths of the files, in order; empty if nothing was uploaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k, upload in enumerate(uploads):
        name = re.sub(r"[^\w.-]", "-", Path(upload["name"]).name)
        files.append(folder / f"{k:03d}-{name}")
        files[-1].write_bytes(upload["content"])
    return files


def prepare_pictures(files: Iterable[Path], folder: Path, size: int, crop: str = "centre") -> list[str]:
    """Write the pictures among some files as squares to a new folder, which `concepts` then reads as one concept.

    A file that cannot be used is left out. Of more than MANY pictures every n-th is used.

    Args:
        folder: of the squares, 000.png and so on; squares of an earlier call are removed.
        size: side of the squares in px, usually `ContinualLearner.model.size`.
        crop: see `images.read_image`.

    Returns:
        Notes for the user, a line each: what is not used and why, what is large, how many pictures there are.

    Raises:
        UserError: none of the files is a picture that can be read.
    """
    files, notes, squares = sorted(file for file in files if not file.name.startswith(".")), [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a note says it
        pictures = [file for file in files if file.is_file() and is_image(file)]
        notes += [f"{f.name}: not used, it is not a picture that can be read" for f in files if f not in pictures]
        found = len(pictures)
        pictures = [pictures[k * found // MANY] for k in range(MANY)] if found > MANY else pictures
        for file in pictures:
            try:
                squares.append(read_image(file, size, crop))
            except UserError as error:
                notes.append(f"{file.name}: not used, {error}".replace(str(file), "it"))
            else:
                width, height = shape_of(file)
                if width * height > LARGE * 1e6:
                    megapixels = f"{width * height / 1e6:.0f} megapixels"
                    notes.append(f"{file.name}: used; of its {megapixels} {size} x {size} px are kept")
                elif min(width, height) < size:
                    notes.append(
                        f"{file.name}: used, but blurred: its {width} x {height} px are enlarged to {size} x {size}"
                    )
    if not squares:
        if len(files) == 1 and notes:
            raise UserError(f"{notes[0]}: choose another file")
        raise UserError("none of these files is a picture that can be read: choose .png, .jpg or .webp files")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for k, square in enumerate(squares):
        write_png(folder / f"{k:03d}.png", to_pil(square[None])[0])
    return [*notes, summary(len(squares), found)]


def summary(used: int, found: int) -> str:
    """The last note: how many pictures are used, and what to expect of so many."""
    if found > MANY:
        return f"{used} of {found} pictures are used, evenly chosen: more than {MANY} teach a concept little"
    if used == 1:
        return "1 picture is used: the model cannot tell the concept from its background; three to ten are better"
    if used < FEW:
        return f"{used} pictures are used: that is few, three to ten are better"
    return f"{used} pictures are used"


def shape_of(file: Path) -> tuple[int, int]:
    """Width and height in px."""
    with open_image(file) as image:
        return image.size
