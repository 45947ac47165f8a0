"""Captions of a user's images: text files next to them, or one table for the folder."""

import csv
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, UserNotice

SUFFIXES = {".txt", ".caption"}  # 0.txt is the caption of 0.jpg
TABLES = ("metadata.jsonl", "metadata.csv")  # as in the image folders of Hugging Face's datasets
COLUMNS = ("text", "caption", "captions", "prompt")


def is_caption_file(file: Path) -> bool:
    """Whether a file is a table of captions, or the text next to a file of the same stem."""
    if file.suffix.lower() not in SUFFIXES:
        return file.name in TABLES
    return any(f.stem == file.stem and f.suffix.lower() not in SUFFIXES for f in file.parent.iterdir())


def read_captions(name: str, images: Sequence[Path]) -> tuple[str | None, ...]:
    """The caption of each image of a concept, with {} where its token belongs; None where an image has none.

    In a caption {} or the concept's name stands for the token. Captions that have neither are not used, with a warning.

    Raises:
        UserError: a table or a file is damaged.
    """
    folder = images[0].parent
    written = {image.name: text for image in images if (text := caption_of(image))}
    for file in (folder / table for table in TABLES):
        if file.is_file():
            written = {**read_table(file), **written}
    captions = {image.name: placed(written.get(image.name, ""), name) for image in images}
    without = [image for image, caption in captions.items() if caption is None and image in written]
    if without:
        warnings.warn(
            f"not used in {folder}: the captions of {len(without)} images, such as {without[0]} (where the concept "
            f"belongs, write {{}} or {name})",
            UserNotice, stacklevel=2,
        )  # fmt: skip
    return tuple(captions.values())


def caption_of(image: Path) -> str | None:
    """The text of the file next to an image, in one line."""
    for suffix in sorted(SUFFIXES):
        file = image.with_suffix(suffix)
        if file.is_file():
            return " ".join(read_text(file).split())
    return None


def read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is no text in UTF-8: save it as UTF-8, or remove it") from None


def read_table(file: Path) -> dict[str, str]:
    """File name -> caption, of a metadata.jsonl or metadata.csv with file_name and one of COLUMNS."""
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    captions: dict[str, str] = {}
    try:
        for row in map(json.loads, lines) if file.suffix == ".jsonl" else csv.DictReader(lines):
            found = next((row[column] for column in COLUMNS if row.get(column)), None)
            text = found[0] if isinstance(found, list) else found
            if text:
                captions[Path(row["file_name"]).name] = " ".join(text.split())
    except (ValueError, KeyError, TypeError, AttributeError):
        columns = ", ".join(COLUMNS)
        raise UserError(f"{file} cannot be read: give every line a file_name, and one of {columns}") from None
    return captions


def placed(caption: str, name: str) -> str | None:
    """A caption with {} where the concept's token belongs; None if it does not name the concept."""
    if "{}" in caption:
        return caption
    words = "[- _]".join(map(re.escape, re.split("[-_]", name)))
    text, n = re.subn(rf"<{words}>|(?<![\w-]){words}(?![\w-])", "{}", caption, flags=re.IGNORECASE)
    return text if n else None
