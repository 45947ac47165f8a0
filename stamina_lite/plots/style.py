"""One palette, and what several figures share."""

from matplotlib.axes import Axes

# Methods that meet in one figure have Okabe and Ito's colours, told apart by the colour-blind too; others are shades
# of their family's hue and always stand beside their name. A method has its colour in every figure.
COLOURS = {
    "lora": "#E69F00",
    "c-lora": "#0072B2",
    "stamina": "#D55E00",
    "ti": "#000000",
    "ti++": "#999999",
    "dreambooth": "#3F1F69",
    "replay": "#5B3A8C",
    "custom-diffusion": "#7B5BAE",
    "custom-diffusion-merge": "#9C80C8",
    "custom-diffusion-ewc": "#BCA8DE",
    "offline": "#332288",
    "stamina-no-mask": "#56B4E9",
    "stamina-no-token-mlp": "#009E73",
    "stamina-neither": "#CC79A7",
    "stamina-no-forget": "#F0E442",
    "stamina-no-sparsity": "#8C2D04",
    "stamina-soft-mask": "#A63F0B",
    "stamina-factor-mask": "#C65A1E",
    "stamina-free-mask": "#E58B57",
    "stamina-random-mask": "#F2B58F",
    "lora-scaled": "#6B8E23",
    "lora-orthogonal": "#8FAF4A",
    "lora-pruned": "#B5CF7F",
    "lora-alone": "#117733",
}
ROWS = {"c-lora-weak": "#9ECAE1", "c-lora-strong": "#08306B", "stamina-cool": "#FF9E6D"}  # a method, other settings
RUNNING = 5  # tasks in a running mean


def colour(method: str) -> str:
    """Of a method, or of a row of the claim; a reader's own method, which the palette does not know, is dark grey."""
    return (COLOURS | ROWS).get(method, "#444444")


def name_points(axis: Axes, points: dict[str, tuple[float, float, str]]) -> None:
    """Names at the right of a finished plot, each as near to its point's height as the others leave room, with a line
    to it: name -> (x, y, colour).
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
    """Rising heights in [0, 1], moved so that there is a gap between them; a smaller one if they are too many."""
    n = len(heights)
    gap = min(gap, 1 / max(n - 1, 1))
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    return [min(height, 1 - gap * (n - 1 - k)) for k, height in enumerate(moved)]


def mean_series(series: list[list[float]]) -> tuple[list[int], list[float]]:
    """Tasks 1, 2, … and the mean over runs at each; where runs differ in length, over those that have got so far."""
    length = max(len(s) for s in series)
    columns = [[s[t] for s in series if t < len(s) and s[t] is not None] for t in range(length)]
    return list(range(1, length + 1)), [sum(c) / len(c) if c else float("nan") for c in columns]


def shade_range(axis: Axes, series: list[list[float]], shade: str) -> None:
    """The range over runs, as far as all of them go."""
    columns = list(zip(*series, strict=False))
    if len(series) > 1 and columns:
        axis.fill_between(
            range(1, len(columns) + 1), [min(c) for c in columns], [max(c) for c in columns],
            color=shade, alpha=0.15, linewidth=0,
        )  # fmt: skip


def running_mean(values: list[float]) -> list[float]:
    """Mean of the last five values up to each (of fewer at the beginning)."""
    windows = [values[max(0, k + 1 - RUNNING) : k + 1] for k in range(len(values))]
    return [sum(w) / len(w) for w in windows]
