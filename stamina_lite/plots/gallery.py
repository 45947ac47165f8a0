"""A widget that shows a run's images in a notebook, by task and concept."""

import io
from collections.abc import Iterable
from pathlib import Path

import ipywidgets
import numpy as np
from PIL import Image

from ..diffusion.concepts import Concept
from ..errors import UserError
from ..images import read_image
from .concepts import kept_pictures, kept_tasks

COLUMNS, SIDE = 8, 128  # images a row, and their side in px, that of the embedded base


def gallery(run: Path | str, real: Iterable[Concept] = ()) -> ipywidgets.VBox:
    """A task slider and a concept menu; below them generated images of that concept after that task, and real ones.

    A run stores images of the newest concept after each task, and of all concepts after the last one. All of them are
    read when the gallery is made, so that it answers at once.

    Args:
        real: concepts whose training images are shown below.

    Returns:
        A box of two children: the box of slider and menu, and the image.

    Raises:
        UserError: the run has stored no images.
    """
    stored: dict[int, list[str]] = {}
    for number, name in kept_tasks(run):
        stored.setdefault(number, []).append(name)
    if not stored:
        raise UserError(f"{run} has no pictures in images/after-*: run `stamina-lite bench`, or an Evaluation, first")
    photos = {c.name: strip([to_picture(file, c.crop) for file in c.images[:COLUMNS]]) for c in real}
    strips = {(t, name): strip(kept_pictures(run, t, name)) for t, names in stored.items() for name in names}

    task = ipywidgets.SelectionSlider(options=[*stored], description="after task")
    concept = ipywidgets.Dropdown(options=stored[task.value], description="concept")
    picture = ipywidgets.Image(format="png", layout={"align_self": "flex-start"})  # else it is stretched and blurred

    def show(_=None) -> None:
        rows = [strips[task.value, concept.value]]
        if concept.value in photos:
            rows.append(photos[concept.value])
        picture.value = png(rows)

    def refill(_) -> None:
        before = concept.value
        concept.unobserve(show, "value")
        concept.options = stored[task.value]  # selects the first of them
        if before in stored[task.value]:
            concept.value = before
        concept.observe(show, "value")
        show()

    task.observe(refill, "value")
    concept.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([task, concept]), picture])


def to_picture(file: Path, crop: str) -> Image.Image:
    """The middle square of an image file, as the model gets it."""
    return Image.fromarray(((read_image(file, SIDE, crop) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def strip(pictures: list[Image.Image]) -> np.ndarray:
    """A row of images: (SIDE, COLUMNS * SIDE, 3) uint8, white at the end."""
    out = np.full((SIDE, COLUMNS * SIDE, 3), 255, np.uint8)
    for k, image in enumerate(pictures[:COLUMNS]):
        out[:, k * SIDE : (k + 1) * SIDE] = np.asarray(image.resize((SIDE, SIDE)))
    return out


def png(rows: list[np.ndarray]) -> bytes:
    file = io.BytesIO()
    gap = np.full((8, COLUMNS * SIDE, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([part for row in rows for part in (row, gap)])).save(file, "png", compress_level=1)
    return file.getvalue()
