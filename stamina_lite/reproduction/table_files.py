"""A table as files for other programs: CSV, Markdown, LaTeX."""

import csv
import io
from pathlib import Path

from ..runs.files import write_text
from .tables import table

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {c: f"\\{c}" for c in "&%$#_{}"}


def write_tables(folder: Path, name: str, head: list[str], rows: list[list[str]]) -> None:
    """Write NAME.csv, NAME.md and NAME.tex (booktabs) to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_text(folder / f"{name}.csv", text.getvalue())
    write_text(folder / f"{name}.md", table(head, rows) + "\n")
    lines = [" & ".join(map(latex, row)) + r" \\" for row in rows]
    columns = "l" + "r" * (len(head) - 1)
    start = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(latex, head)) + r" \\", r"\midrule"]
    write_text(folder / f"{name}.tex", "\n".join([*start, *lines, r"\bottomrule", r"\end{tabular}", ""]))


def latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(SPECIAL.get(c, c) for c in text)
