"""Parts of a self-contained web page: tables, lists, figures."""

import base64
import csv
import io
import re
from collections.abc import Iterable
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from ..errors import UserError

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums } img { max-width: 100% }
.wide { overflow-x: auto } .wide:focus-visible, a:focus-visible { outline: 2px solid #0072b2 }
th, td { border-bottom: 1px solid #d0d0d0; padding: .25rem .75rem; text-align: right } figure { margin: 1.5rem 0 }
th:first-child, td:first-child { text-align: left } td:first-child, small { overflow-wrap: anywhere }
td:first-child { min-width: 7rem }
figcaption, small { color: #555 } h1, h2, h3 { overflow-wrap: anywhere }
@media print {
  body { max-width: none; margin: 0; font-size: 11px } .wide { overflow: visible } figure { break-inside: avoid }
}
"""


def table(head: list, rows: list[list], caption: str) -> str:
    """A table that scrolls sideways where the page is narrow. caption: its name for screen readers."""
    lines = ["".join(f'<th scope="col">{escape(str(x))}</th>' for x in head)]
    lines += ["".join(f"<td>{escape(unbroken(str(x)))}</td>" for x in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>{body}</table></div>'


def unbroken(text: str) -> str:
    """A number with its interval, kept on one line; other text as it is."""
    return text.replace(" ", "\u00a0") if re.fullmatch(r"[-\d.]+ \[[-\d., ]+\]", text) else text


def from_markdown(text: str, caption: str) -> str:
    """A table of `tables.table` for the page."""
    head, _, *rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    return table(head, rows, caption)


def bullets(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def inline(figure: Figure, caption: str) -> str:
    """A figure as an <img> element: SVG with its data as a CSV file, or WebP if it shows images."""
    file, link = io.BytesIO(), ""
    if any(axis.images for axis in figure.axes):
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=max(110, figure.dpi))
        Image.open(png).convert("RGB").save(file, "webp", quality=85)
        kind = "webp"
    else:
        with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stamina-lite"}):
            figure.savefig(file, format="svg", metadata={"Date": None})
        kind = "svg+xml"
        rows = base64.b64encode(data_of(figure).encode()).decode()
        link = f' <a download="data.csv" href="data:text/csv;base64,{rows}">Data (CSV)</a>'
    plt.close(figure)
    image = f'<img alt="{escape(caption)}" src="data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}">'
    return f"<figure>{image}<figcaption>{escape(caption)}{link}</figcaption></figure>"


def data_of(figure: Figure) -> str:
    """The lines and dots of a figure as CSV with the columns panel (from 1), series, x, y."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["panel", "series", "x", "y"])
    for panel, axis in enumerate(figure.axes, 1):
        dots = [c for c in axis.collections if isinstance(c, PathCollection)]
        series = [(line, line.get_xydata()) for line in axis.get_lines()] + [(c, c.get_offsets()) for c in dots]
        for artist, points in series:
            label = str(artist.get_label())
            for x, y in np.asarray(points, float).reshape(-1, 2):
                write([panel, "" if label.startswith("_") else label, f"{x:.6g}", f"{y:.6g}"])
    return text.getvalue()


def section(title: str, figures, results: list[dict]) -> str:
    """A heading and figures, pairs of (function, caption); those that need a finished run are left out without one."""
    parts = []
    for plot, caption in figures:
        try:
            parts.append(inline(plot(results), caption))
        except UserError:
            continue
    return f"<h2>{escape(title)}</h2>" + "".join(parts)
