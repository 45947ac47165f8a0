"""A run's images in a web page, by concept and task: a menu and a slider that need no kernel."""

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from ..plots.concepts import kept_pictures, kept_tasks

COLUMNS, SIDE = 4, 96  # images of a concept and task, and their side in px
SCRIPT = """
for (const box of document.querySelectorAll('.gallery')) {
  const [menu, slider, task] = ['select', 'input', 'output'].map(name => box.querySelector(name))
  const figures = [...box.querySelectorAll('figure')]
  const show = () => {
    const own = figures.filter(f => f.dataset.concept === menu.value)
    slider.max = own.length - 1
    for (const f of figures) f.hidden = f !== own[slider.value]
    task.value = own[slider.value].dataset.task
    slider.setAttribute('aria-valuetext', `after task ${task.value}`)
  }
  menu.onchange = () => { slider.value = 0; show() }
  slider.oninput = show
  box.querySelector('form').hidden = false
  show()
}
"""


def gallery(run: Path) -> str:
    """The gallery of a run folder; empty if it has no images. The page needs SCRIPT, else all images are shown."""
    stored: dict[str, list[int]] = {}
    for task, name in kept_tasks(run):
        stored.setdefault(name, []).append(task)
    if not stored:
        return ""
    figures = "".join(
        f'<figure data-concept="{escape(name)}" data-task="{task}"><img alt="{escape(name)} after task {task}" '
        f'src="{strip(kept_pictures(run, task, name)[:COLUMNS])}"></figure>'
        for name, tasks in stored.items()
        for task in tasks
    )
    options = "".join(f"<option>{escape(name)}</option>" for name in stored)
    form = (
        f"<form hidden><label>Concept <select>{options}</select></label> "
        '<label>after task <input type="range" min="0" value="0"></label> <output></output></form>'
    )
    return f'<div class="gallery">{form}{figures}</div>'


def strip(pictures: list[Image.Image]) -> str:
    """Images in a row, as the address of a WebP image."""
    row = Image.new("RGB", (SIDE * len(pictures), SIDE))
    for k, picture in enumerate(pictures):
        row.paste(picture.convert("RGB").resize((SIDE, SIDE)), (k * SIDE, 0))
    file = io.BytesIO()
    row.save(file, "webp", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
