"""One palette, and what several figures share."""

from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..methods.registry import REGISTRY

# Rows of a grid that are a method with other settings
ROWS = {"c-lora-weak": "#9ECAE1", "c-lora-strong": "#08306B", "stamina-cool": "#FF9E6D"}
ROWS |= {"stamina-sparse": "#882255"}
COLOURS = {entry.method.name: entry.colour for entry in REGISTRY if entry.colour}
RUNNING = 5  # tasks in a running mean
INSIDE = 8  # entries of a legend that have room within the axes
LINE, COLUMN = 0.17, 1.75  # height and width of an entry of other legends, in inches


def colour(method: str) -> str:
    """The colour of a method or of a grid's row; dark grey for methods that are not in the registry."""
    return (COLOURS | ROWS).get(method, "#444444")


def add_legend(figure: Figure, axis: Axes) -> None:
    """Add the legend of an axis: within it, or right of the figure, which becomes wider, if it has many entries."""
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) <= INSIDE:
        axis.legend(frameon=False)
        return
    width, height = figure.get_size_inches()
    columns = ceil(len(labels) * LINE / height)
    figure.set_size_inches(width + columns * COLUMN, height)
    figure.legend(handles, labels, loc="outside right center", ncols=columns, frameon=False, fontsize=7)


def name_points(axis: Axes, points: dict[str, tuple[float, float, str]]) -> None:
    """Write names at the right of a finished plot, near the heights of their points, with a line to each point.

    points: {name: (x, y, colour)}.
    """
    ordered = sorted(points.items(), key=lambda point: point[1][1])
    low, high = axis.get_ylim()
    places = apart([(y - low) / (high - low) for _, (_, y, _) in ordered])
    for place, (name, (x, y, shade)) in zip(places, ordered, strict=True):
        axis.annotate(
            name, (x, y), (1.03, place), textcoords="axes fraction", va="center",
            fontsize=7, arrowprops={"arrowstyle": "-", "color": shade, "linewidth": 0.5, "relpos": (0, 0.5)},
        )  # fmt: skip


def apart(heights: list[float], gap: float = 0.05) -> list[float]:
    """Move increasing heights in [0, 1] so that there is a gap between them, a smaller one if they are too many."""
    n = len(heights)
    gap = min(gap, 1 / max(n - 1, 1))
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    return [min(height, 1 - gap * (n - 1 - k)) for k, height in enumerate(moved)]


def mean_series(series: list[list[float]]) -> tuple[list[int], list[float]]:
    """Tasks 1, 2, … and the mean over the runs that have learned each of them."""
    length = max(len(s) for s in series)
    columns = [[s[t] for s in series if t < len(s) and s[t] is not None] for t in range(length)]
    return list(range(1, length + 1)), [sum(c) / len(c) if c else float("nan") for c in columns]


def shade_range(axis: Axes, series: list[list[float]], shade: str) -> None:
    """Shade the range over runs, up to the length of the shortest."""
    columns = list(zip(*series, strict=False))
    if len(series) > 1 and columns:
        axis.fill_between(
            range(1, len(columns) + 1), [min(c) for c in columns], [max(c) for c in columns],
            color=shade, alpha=0.15, linewidth=0,
        )  # fmt: skip


def running_mean(values: list[float]) -> list[float]:
    """Mean of the last five values at each position, of fewer at the beginning."""
    windows = [values[max(0, k + 1 - RUNNING) : k + 1] for k in range(len(values))]
    return [sum(w) / len(w) for w in windows]
