"""Parts of a self-contained web page: tables, lists, figures."""

import base64
import csv
import io
from collections.abc import Iterable
from html import escape

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from ..errors import UserError

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
p, ul, figcaption { max-width: 64rem } img { max-width: 100% } h1, h2, h3, small { overflow-wrap: anywhere }
table { border-collapse: collapse; margin: 1rem 0; font-size: .875rem; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto } :focus-visible { outline: 2px solid #0072b2 }
th, td { border-bottom: 1px solid #d0d0d0; padding: .25rem .5rem; text-align: right } td { white-space: nowrap }
th:first-child, td:first-child, .long { text-align: left }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 14rem }
details th, details td { text-align: left; white-space: normal }
figure { margin: 1.5rem 0 } figcaption, small { color: #555 } summary { cursor: pointer; overflow-wrap: anywhere }
@media (min-width: 50rem) { th:first-child, td:first-child { position: sticky; left: 0; background: #fff } }
@media (max-width: 40rem) { .wide > img { max-width: none; min-width: 34rem } td:first-child { white-space: normal } }
@media print {
  body { max-width: none; margin: 0; padding: 0; font-size: 11px } table { font-size: 7px } .wide { overflow: visible }
  th, td { padding: .1rem .2rem; position: static !important } td.long { min-width: 0 }
  td:first-child { white-space: normal; min-width: 8rem } figure, tr { break-inside: avoid }
  figure img { max-height: 24cm } h2, h3 { break-after: avoid }
}
"""
LONG = 48  # characters of a cell that may be broken


def table(head: list, rows: list[list], caption: str) -> str:
    """A table that scrolls sideways where the page is narrow. caption: its name for screen readers.

    Columns with long text are aligned to the left, and only these are broken into lines.
    """
    texts = [[str(x) for x in row] for row in rows]
    long = [' class="long"' if any(len(x) > LONG for x in column) else "" for column in zip(*texts, strict=True)]
    long = long or [""] * len(head)
    lines = ["".join(f'<th scope="col"{kind}>{escape(str(x))}</th>' for x, kind in zip(head, long, strict=True))]
    lines += ["".join(f"<td{kind}>{escape(x)}</td>" for x, kind in zip(row, long, strict=True)) for row in texts]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table>{body}</table></div>'


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
    wide = f'<div class="wide" role="region" tabindex="0" aria-label="Figure">{image}</div>'
    return f"<figure>{wide}<figcaption>{escape(caption)}{link}</figcaption></figure>"


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
