"""Browsing a run's pictures in a notebook: a task, a concept, what the model drew of it then."""

import io
from collections.abc import Iterable
from pathlib import Path

import ipywidgets
import numpy as np
from PIL import Image

from ..diffusion.concepts import Concept
from ..errors import UserError
from ..images import read_image
from .concepts import kept_pictures

COLUMNS, SIDE = 8, 96  # pictures a row, and their size on the screen


def gallery(run: Path | str, real: Iterable[Concept] = ()) -> ipywidgets.VBox:
    """A task slider and a concept menu; below, what was drawn of the concept after the task, and real pictures.

    After each task a run keeps pictures of the concept just learned, after the last one of all. Children, in order: the
    box of the slider and the menu, then the picture. Raises UserError when the run has kept no pictures.
    """
    kept: dict[int, list[str]] = {}
    for folder in sorted((Path(run) / "images").glob("after-*/*")):
        if any(folder.glob("*.png")):
            kept.setdefault(int(folder.parent.name.removeprefix("after-")), []).append(folder.name)
    if not kept:
        raise UserError(f"{run} has no pictures in images/after-*: run `stamina-lite bench`, or an Evaluation, first")
    photos = {concept.name: concept.images for concept in real}

    task = ipywidgets.SelectionSlider(options=[*kept], description="after task")
    concept = ipywidgets.Dropdown(options=kept[task.value], description="concept")
    picture = ipywidgets.Image(format="png")

    def show(_=None) -> None:
        drawn = strip(kept_pictures(run, task.value, concept.value))
        files = photos.get(concept.value, ())[:COLUMNS]
        picture.value = png([drawn, strip([to_picture(f) for f in files])] if files else [drawn])

    def refill(_) -> None:
        was = concept.value
        with concept.hold_trait_notifications():
            concept.options = kept[task.value]
            concept.value = was if was in kept[task.value] else kept[task.value][0]
        show()

    task.observe(refill, "value")
    concept.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([task, concept]), picture])


def to_picture(file: Path) -> Image.Image:
    """A photo as the model sees it: its middle square."""
    return Image.fromarray(((read_image(file, SIDE) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def strip(pictures: list[Image.Image]) -> np.ndarray:
    """Pictures side by side: (SIDE, COLUMNS * SIDE, 3) uint8, white where there are fewer."""
    out = np.full((SIDE, COLUMNS * SIDE, 3), 255, np.uint8)
    for k, image in enumerate(pictures[:COLUMNS]):
        out[:, k * SIDE : (k + 1) * SIDE] = np.asarray(image.resize((SIDE, SIDE)))
    return out


def png(rows: list[np.ndarray]) -> bytes:
    file = io.BytesIO()
    gap = np.full((8, COLUMNS * SIDE, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([part for row in rows for part in (row, gap)])).save(file, "png")
    return file.getvalue()
