"""Parts of a self-contained web page: tables, lists, figures."""

import base64
import io
from collections.abc import Iterable
from html import escape

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..errors import UserError

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums } img { max-width: 100% }
th, td { border-bottom: 1px solid #d0d0d0; padding: .25rem .75rem; text-align: right } figure { margin: 1.5rem 0 }
th:first-child, td:first-child { text-align: left } figcaption, small { color: #555 }
"""


def table(head: list, rows: list[list]) -> str:
    lines = [
        "".join(f"<{tag}>{escape(str(x))}</{tag}>" for x in row)
        for tag, row in [("th", head), *(("td", r) for r in rows)]
    ]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def bullets(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def inline(figure: Figure, caption: str) -> str:
    """A figure as an <img> element with embedded PNG data."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=max(110, figure.dpi))
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def section(title: str, figures, results: list[dict]) -> str:
    """A heading and figures, pairs of (function, caption); those that need a finished run are left out without one."""
    parts = []
    for plot, caption in figures:
        try:
            parts.append(inline(plot(results), caption))
        except UserError:
            continue
    return f"<h2>{escape(title)}</h2>" + "".join(parts)
