"""Figures of a grid's stored runs: every function returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL.Image import Image

from ..errors import UserError
from ..measures.intervals import Number, mean_interval, number
from ..plots.concepts import kept_pictures, sheet
from ..plots.style import colour, name_points
from .results import TOKEN, StoredRun, by_concept, difference, gain, gains_by_task, of_row, rows_of, tidy

WINDOW = 10  # tasks in a point of a curve, at most half of all
COMPARED = (  # measure, label of its axis, scale
    ("a_mmd", "Difference of A_mmd", 1),
    ("f_mmd", "Difference of F_mmd", 1),
    ("accuracy", "Difference of accuracy, points", 100),
)


def gain_by_task(found: list[StoredRun], rows: Sequence[str], reference: str = TOKEN) -> Figure:
    """Gain over a reference row just after learning, by task: a decrease is saturation.

    A point is the mean over WINDOW tasks and all runs, the band its 95 % interval over concepts. At zero (grey line) a
    method learns as much as the reference: the token alone, or "lora-alone", a LoRA that starts from the base.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    frame = tidy(found)
    window = max(1, min(WINDOW, int(frame["task"].max()) // 2))
    for row in rows:
        tasks = gains_by_task(frame, row, reference)
        middles, means, lows, highs = [], [], [], []
        for start in range(0, len(tasks) - window + 1, max(1, window // 2)):
            pooled = [value for at in tasks[start : start + window] for value in at]
            low, high = mean_interval(pooled)
            middles.append(start + (window + 1) / 2)
            means.append(sum(pooled) / len(pooled))
            lows.append(low)
            highs.append(high)
        axis.plot(middles, means, color=colour(row), label=row, marker=".")
        axis.fill_between(middles, lows, highs, color=colour(row), alpha=0.15, linewidth=0)
    axis.axhline(0, color="#777777", linewidth=0.8)
    axis.set(xlabel=f"Task t (means of {window})", ylabel=f"Gain over {reference} (MMD²)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    return figure


def plane(found: list[StoredRun]) -> Figure:
    """Gain over the token alone (across) and forgetting (up) of every method, with 95 % intervals.

    The best place is the lower right. A method at the left edge forgets little because it learned little. Names on the
    right are in the order of forgetting.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    frame, points = tidy(found), []
    for row in rows_of(found):
        lost, learned = number(by_concept(frame, row, "f_mmd")), gain(frame, row)
        if lost and learned:
            points.append((lost, learned, row))
    for lost, learned, row in points:
        axis.errorbar(
            learned.mean, lost.mean, xerr=error_bar(learned), yerr=error_bar(lost),
            color=colour(row), marker="o", markersize=4, linewidth=0.8,
        )  # fmt: skip
    axis.axvline(0, color="#777777", linewidth=0.8)
    axis.axhline(0, color="#777777", linewidth=0.8)
    axis.margins(y=0.1)
    axis.set(xlabel=f"Gain over {TOKEN} when just learned (MMD²)", ylabel="Forgetting: F_mmd (MMD²)")
    name_points(axis, {row: (learned.mean, lost.mean, colour(row)) for lost, learned, row in points})
    return figure


def error_bar(value: Number) -> list[list[float]]:
    """Lengths below and above the mean, not negative: rounding may put a bound of equal values beyond the mean."""
    return [[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]]


def differences(found: list[StoredRun], pairs: Sequence[tuple[str, str]]) -> Figure:
    """Differences of pairs of rows, concept by concept, with 95 % intervals: A_mmd, F_mmd and accuracy.

    Left of the grey line, of accuracy right of it, the first row of a pair is better.
    """
    size = (9, 1 + 0.26 * len(pairs))
    figure, axes = plt.subplots(1, len(COMPARED), figsize=size, sharey=True, layout="constrained")
    frame = tidy(found)
    for axis, (measure, label, scale) in zip(axes, COMPARED, strict=True):
        for place, (row, other) in enumerate(pairs):
            gap = difference(frame, row, other, measure)
            if gap:
                gap = Number(scale * gap.mean, scale * gap.low, scale * gap.high)
                shade = colour(other.partition("@")[0])
                axis.errorbar(gap.mean, place, xerr=error_bar(gap), color=shade, marker="o", markersize=4)
        axis.axvline(0, color="#777777", linewidth=0.8)
        axis.set_xlabel(label, fontsize=9)
    axes[0].set_yticks(range(len(pairs)), [f"{row} minus {other}" for row, other in pairs], fontsize=8)
    axes[0].set_ylim(len(pairs) - 0.5, -0.5)
    return figure


def side_by_side(
    found: list[StoredRun], home: Path, columns: int = 2, real: Mapping[str, list[Image]] | None = None,
    names: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """Images of the same concepts by the final model of every row with stored images, from the same noise.

    Args:
        home: the folder of the runs. Runs with another order of concepts than the first are left out.
        columns: images of each concept.
        real: training images of the concepts, shown in the first line.
        names: the concepts; by default those of `early_middle_late`.
    """
    stored = [f for f in found if f.results and (home / f.run.name / "images").is_dir()]
    if not stored:
        raise UserError(f"no pictures are stored in {home}: run its grid first")
    tasks = stored[0].results["tasks"]
    stored, names = [f for f in stored if f.results["tasks"] == tasks], names or early_middle_late(tasks)
    stored.sort(key=lambda f: rows_of(found).index(f.run.row))
    lines = [[p for n in names for p in kept_pictures(home / f.run.name, len(tasks), n)[:columns]] for f in stored]
    titles = [f.run.row for f in stored]
    if real:
        lines, titles = [[p for n in names for p in real[n][:columns]], *lines], ["real", *titles]
    figure = sheet(lines, titles)
    for axis, name in zip(figure.axes[::columns], names, strict=False):
        axis.set_title(name, fontsize=9, loc="left")
    return figure


def early_middle_late(tasks: list[str]) -> list[str]:
    """The first two concepts, two in the middle and the last two: one of each kind in alternating order."""
    middle = len(tasks) // 4 * 2
    return list(dict.fromkeys([*tasks[:2], *tasks[middle : middle + 2], *tasks[-2:]]))


def masks(found: list[StoredRun], row: str = "stamina") -> Figure:
    """Density of a task's masks and share of past updates that they change (left), and overlap of masks (right).

    Both by task, mean over layers and runs. A share below the density means that masks avoid past updates. Raises
    UserError if no run of the row is stored.
    """
    results = [f.results for f in of_row(found, row)]
    if not results:
        raise UserError(f"no run of {row} is stored: run its grid first")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    shade = colour(row.partition("@")[0])
    tasks = range(1, len(results[0]["tasks"]) + 1)

    def mean(of) -> list[float]:
        columns = [[v for v in (of(r, t - 1) for r in results) if v is not None] for t in tasks]
        return [sum(c) / len(c) if c else float("nan") for c in columns]

    def overlap(r, t, key):
        return r["mask_overlap"][t] and r["mask_overlap"][t][key]

    left.plot(tasks, mean(lambda r, t: r["mask_density"][t]), color=shade, label="density")
    left.plot(tasks, mean(lambda r, t: r["touched"][t]), color="#000000", label="share of Σ|past| touched")
    right.plot(tasks, mean(lambda r, t: overlap(r, t, "overlap")), color=shade, label="with the task before")
    right.plot(tasks, mean(lambda r, t: overlap(r, t, "chance")), color="#777777", label="independent masks")
    left.set(xlabel="Task t", ylabel="Share of weights", ylim=(0, None))
    right.set(xlabel="Task t", ylabel="Overlap |m ∧ m'| / |m ∨ m'|", ylim=(0, None))
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
