"""Which files of a user's folders are images, and which of its sub-folders are concepts. What is left out is said."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import UserError, UserNotice
from ..images import SUFFIXES, open_image
from .caption_files import is_caption_file

STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "WMF"}  # formats that Pillow recognises, but needs other programs to decode
NEED_CONVERSION = {".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".raw", ".svg"}
OF_THE_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
LISTS = {"sources.csv"}  # written by data_scripts
NAMED = 3  # files that a message lists by name


def image_files(folder: Path) -> tuple[Path, ...]:
    """The image files of a folder, sorted: all that Pillow can read, whatever their names.

    Hidden files and captions are skipped, of other files a warning is given.

    Raises:
        UserError: the folder has an image in a format that Pillow cannot read, such as HEIC.
    """
    images: list[Path] = []
    others: list[Path] = []
    broken: list[Path] = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or file.name in LISTS or is_caption_file(file):
            continue
        if file.is_symlink() and not file.exists():
            broken.append(file)
        elif file.is_file():
            (images if file.suffix.lower() in SUFFIXES or is_image(file) else others).append(file)
    unreadable = [file for file in others if file.suffix.lower() in NEED_CONVERSION]
    if unreadable:
        raise UserError(
            f"{unreadable[0]} and its like ({len(unreadable)}) cannot be read: save them as JPEG, or remove them"
        )
    say_left_out(folder, others, "no images that Pillow reads")
    say_left_out(folder, broken, "links to files that do not exist")
    return tuple(images)


def is_image(file: Path) -> bool:
    """Whether Pillow recognises a file by its content, and can decode its format without other programs."""
    Image.init()
    try:
        with open_image(file, [name for name in Image.ID if name not in STUBS]):
            return True
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        return True  # read_image says what to do
    except (OSError, SyntaxError, ValueError):
        return False


def concept_folders(folder: Path) -> list[Path]:
    """The sub-folders of a folder that are concepts, sorted; not those of systems, empty ones, and runs of ours."""
    folders: list[Path] = []
    system: list[Path] = []
    empty: list[Path] = []
    runs: list[Path] = []
    for child in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        if child.name in OF_THE_SYSTEM:
            system.append(child)
        elif (child / "run.json").is_file():
            runs.append(child)
        elif not any(not file.name.startswith(".") for file in child.iterdir()):
            empty.append(child)
        else:
            folders.append(child)
    say_left_out(folder, system, "folders of an operating system")
    say_left_out(folder, runs, "runs of stamina-lite")
    say_left_out(folder, empty, "empty folders")
    return folders


def warn_of_nested(folder: Path) -> None:
    """Warn of images in sub-folders of a concept, which are not used."""
    children = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name not in OF_THE_SYSTEM]
    visible = [child for child in children if not child.name.startswith(".")]
    nested = [child for child in visible if any(is_image(file) for file in child.rglob("*") if file.is_file())]
    say_left_out(folder, nested, "sub-folders with images, which are used only directly in the folder of the concept")


def say_left_out(folder: Path, paths: Iterable[Path], reason: str) -> None:
    """Warn in one line of files or folders that are not used."""
    names = [path.name for path in paths]
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        warnings.warn(f"not used in {folder}: {', '.join(names[:NAMED])}{more} ({reason})", UserNotice, stacklevel=3)
