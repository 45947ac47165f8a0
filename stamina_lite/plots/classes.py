"""Figures of stored runs of classes: every function returns a matplotlib Figure."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import measures
from ..errors import UserError
from ..images import open_image
from ..measures.intervals import Number
from ..methods.registry import REGISTRY, WITH_HEAD
from .style import mean_series, name_points, shade_range

COLOURS = {  # Okabe and Ito's, which the colour-blind can tell apart, by family
    "bounds": "#000000",
    "whole weights": "#999999",
    "prompts": "#009E73",
    "adapters": "#0072B2",
    "STAMINA": "#D55E00",
    "ablations": "#D55E00",
}
FAMILY = {entry.method.name: entry.family for entry in REGISTRY if entry.classes is not None}
FAMILY |= {"coda-p-slow-head": "prompts"}  # a row of the grid that is a method with other settings
FAMILY |= {row: FAMILY[method] for row, (method, _) in WITH_HEAD.items()}
HEADS, MARKERS = ("#000000", "#0072B2", "#E69F00", "#CC79A7"), "os^D"  # of the heads of a run
MASK_LINES = (  # key, label and line of the shares of masks
    ("open", "weights open", ":"),
    ("overlap", "overlap with the task before", "o-"),
    ("chance", "overlap of independent masks", "x--"),
)
LINES = ("-", "--", ":", "-.", (0, (1, 4)), (0, (6, 2)))


def style(method: str) -> dict:
    """Colour and line style of a method: the family's colour, and a style within it; dots for ablations."""
    family = FAMILY.get(method, "ablations")
    place = members(family).index(method) if family != "ablations" else LINES.index(":")
    return {"color": COLOURS[family], "linestyle": LINES[place]}


def members(family: str) -> list[str]:
    """The methods of a family, in order."""
    return [name for name, other in FAMILY.items() if other == family]


def by_method(results: list[dict]) -> dict[str, list[dict]]:
    """Results grouped by method, families together."""
    order = [method for family in COLOURS for method in members(family)]
    groups: dict[str, list[dict]] = {}
    for r in sorted(results, key=lambda r: order.index(r["method"]) if r["method"] in order else len(order)):
        groups.setdefault(r["method"], []).append(r)
    return groups


def accuracy_matrix(*results: dict) -> Figure:
    """R[t,i]: accuracy in percent on the classes of task i after task t, among all classes seen by then.

    A column shows how a task is forgotten, the diagonal whether new tasks are learned. Several runs stand side by side.
    """
    n = max(len(r["accuracy"][-1]) for r in results)
    rows = max(len(r["accuracy"]) for r in results)
    side = min(0.6, 6 / (n * len(results))) if n <= 10 else 0.3  # inches of a cell
    size = (max(side * n, 1.3) * len(results) + 1.4, max(side * rows, 0.4) + 0.9)
    figure, axes = plt.subplots(1, len(results), figsize=size, squeeze=False, layout="constrained")
    for axis, result in zip(axes[0], results, strict=True):
        R = result["accuracy"]
        grid = torch.full((len(R), len(R[-1])), float("nan"))
        for t, row in enumerate(R):
            grid[t, : len(row)] = torch.tensor(row)
            for i, value in enumerate(row if n <= 10 else ()):
                shade = "white" if value < 60 else "black"
                axis.text(i, t, f"{value:.0f}", ha="center", va="center", color=shade, size=9 if side > 0.4 else 7)
        image = axis.imshow(grid, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        axis.set(xlabel="Classes of task i", title=result["method"])
        axis.set_xticks(range(len(R[-1])), [str(i + 1) for i in range(len(R[-1]))])
        axis.set_yticks(range(len(R)), [str(t + 1) for t in range(len(R))] if len(R) > 1 else ["all"])
    axes[0, 0].set_ylabel("After task t")
    figure.colorbar(image, ax=axes, label="Accuracy (%)")
    return figure


def accuracy_curves(results: list[dict]) -> Figure:
    """Mean accuracy over the tasks so far, after every task: a line for each method, its range over runs shaded.

    A joint method is a horizontal line.
    """
    figure, axis = plt.subplots(figsize=(6.8, 4.2), layout="constrained")
    tasks = max(len(r["tasks"]) for r in results)
    for method, runs in by_method(results).items():
        look = style(method)
        series = [[measures.final_mean([row]) for row in r["accuracy"]] for r in runs]
        if len(series[0]) == 1 and len(runs[0]["tasks"]) > 1:
            mean = sum(s[0] for s in series) / len(series)
            axis.plot([1, tasks], [mean, mean], label=f"{method}, all at once", **look)
            continue
        columns = [[s[t] for s in series if t < len(s)] for t in range(max(map(len, series)))]
        x = range(1, len(columns) + 1)
        axis.plot(x, [sum(c) / len(c) for c in columns], label=method, **look)
        if len(series) > 1:
            low, high = [min(c) for c in columns], [max(c) for c in columns]
            axis.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axis.set(xlabel="After task t", ylabel="Mean accuracy over tasks 1 to t (%)", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def ranking(numbers: Mapping[str, Mapping[int, Number]]) -> Figure:
    """A_N with its interval for each row, from the highest down, and each number of tasks: {row: {tasks: A_N}}."""
    lengths = sorted({n for of_row in numbers.values() for n in of_row})
    rows = sorted(numbers, key=lambda row: -max(number.mean for number in numbers[row].values()))
    figure, axis = plt.subplots(figsize=(6.8, 0.3 * len(rows) + 1.2), layout="constrained")
    for k, n in enumerate(lengths):
        there = [(y, numbers[row][n]) for y, row in enumerate(rows) if n in numbers[row]]
        for y, number in there:
            arms = [[number.mean - number.low], [number.high - number.mean]]
            place = y + 0.22 * (k - (len(lengths) - 1) / 2)
            look = {"color": style(rows[y])["color"], "marker": "os^D"[k % 4], "markersize": 4, "elinewidth": 1}
            axis.errorbar(number.mean, place, xerr=arms, linestyle="none", label=f"{n} tasks", **look)
    axis.set_yticks(range(len(rows)), rows)
    axis.invert_yaxis()
    axis.set(xlabel="A_N (%), 95 % interval", xlim=(0, None))
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), frameon=False, loc="lower right")
    return figure


def learned_and_kept(results: list[dict]) -> Figure:
    """Forgetting F_N against the accuracy of tasks just learned, a dot for each run.

    A method at the left forgets little because it learns little. F_N as in the CODA-Prompt code
    (`measures.forgetting_coda`). Raises UserError if no run has two tasks.
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    means: dict[str, tuple[float, float, str]] = {}
    for method, runs in by_method([r for r in results if r["f_n"] is not None]).items():
        x = [sum(row[-1] for row in r["accuracy"]) / len(r["accuracy"]) for r in runs]
        y = [r["f_n"] for r in runs]
        shade = style(method)["color"]
        axis.scatter(x, y, s=26, color=shade, linewidths=0, alpha=0.8)
        means[method] = sum(x) / len(x), sum(y) / len(y), shade
    if not means:
        plt.close(figure)
        raise UserError("no run has learned a second task, so nothing can be forgotten yet: let one go on")
    name_points(axis, means)
    axis.set(xlabel="Accuracy of a task just learned, mean (%)", ylabel="F_N (points lost from task to task)")
    return figure


def head_accuracy(results: list[dict]) -> Figure:
    """A_N of every head: a row for each run, whose heads all read the same weights."""
    rows: list[Mapping[str, Number]] = [
        {head: Number(m["a_n"], m["a_n"], m["a_n"]) for head, m in r["heads"].items()} for r in results
    ]
    return _heads_of_rows([r["method"] for r in results], rows, "A_N (%)")


def head_ranking(numbers: Mapping[str, Mapping[str, Number]]) -> Figure:
    """A_N with its interval for each row of a grid and each head, in the order given: {row: {head: A_N}}."""
    return _heads_of_rows(list(numbers), list(numbers.values()), "A_N (%), 95 % interval")


def _heads_of_rows(rows: list[str], numbers: list[Mapping[str, Number]], xlabel: str) -> Figure:
    heads = list(dict.fromkeys(head for of_row in numbers for head in of_row))
    figure, axis = plt.subplots(figsize=(6.8, 0.6 * len(rows) + 1.2), layout="constrained")
    for k, head in enumerate(heads):
        there = [(y, of_row[head]) for y, of_row in enumerate(numbers) if head in of_row]
        heights = [y + 0.16 * (k - (len(heads) - 1) / 2) for y, _ in there]
        means, shade = [n.mean for _, n in there], HEADS[k % 4]
        arms = [[n.mean - n.low for _, n in there], [n.high - n.mean for _, n in there]]
        axis.plot(means, heights, MARKERS[k % 4], color=shade, label=head, markersize=7)
        axis.errorbar(means, heights, xerr=arms, fmt="none", ecolor=shade, elinewidth=1.2)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=xlabel, ylabel="Weights trained by", xlim=(0, None), ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="x", color="#EEEEEE")
    axis.legend(frameon=False, title="head", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def mask_overlap(results: list[dict]) -> Figure:
    """By task: the share of weights that the masks open, their overlap with the task before, and that of chance.

    Mean over runs, the range is shaded. Raises UserError if no run has masks.
    """
    masked = [r for r in results if any(r["mask_overlap"])]
    if not masked:
        raise UserError("no run has masks of two tasks: choose a method with masks")
    series = {"open": [r["mask_density"] for r in masked]}
    for key in ("overlap", "chance"):
        series[key] = [[float("nan"), *(pair[key] for pair in r["mask_overlap"][1:])] for r in masked]
    figure, axis = plt.subplots(figsize=(6.8, 3.2), layout="constrained")
    for (key, label, mark), shade in zip(MASK_LINES, ("#999999", COLOURS["STAMINA"], "#000000"), strict=True):
        x, mean = mean_series(series[key])
        axis.plot(x, mean, mark, color=shade, label=label, markersize=5)
        shade_range(axis, series[key], shade)
    axis.set(xlabel="Task", ylabel="Share", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)
    return figure


def predictions(found: list[dict]) -> Figure:
    """Image files beside the probabilities of their classes, as `Predictor.predict_files` gives them."""
    size = (6.8, 1.6 * len(found) + 0.4)
    figure, axes = plt.subplots(len(found), 2, figsize=size, squeeze=False, width_ratios=(1, 2.6), layout="constrained")
    for (left, right), prediction in zip(axes, found, strict=True):
        with open_image(prediction["file"]) as image:
            left.imshow(image.convert("RGB"))
        left.set(xticks=[], yticks=[])
        left.set_title("/".join(Path(prediction["file"]).parts[-2:]), fontsize=9)
        left.spines[:].set_visible(False)
        names = [c["name"] for c in prediction["classes"]]
        bars = right.barh(names, [c["probability"] for c in prediction["classes"]], color=COLOURS["adapters"])
        right.bar_label(bars, fmt="%.2f", padding=3)
        right.set(xlim=(0, 1.12), xticks=[0, 0.5, 1])
        right.invert_yaxis()
        right.spines[["top", "right"]].set_visible(False)
    axes[-1, 1].set_xlabel("Probability")
    return figure
