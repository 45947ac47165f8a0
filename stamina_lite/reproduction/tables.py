"""Markdown tables of measured numbers."""

from ..measures.intervals import Number


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(head), " | ".join(["---"] * len(head)), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def shown(value: Number | None, digits: int = 2, scale: float = 1.0) -> str:
    """A number as text for a table; a dash for None."""
    return value.text(digits, scale) if value else "–"
