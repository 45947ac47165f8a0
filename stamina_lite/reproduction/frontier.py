"""Frontiers of methods: likeness of late concepts against forgetting, while one strength is varied.

A row named METHOD@VALUE is a point of METHOD's frontier, any other row is a single point. Both measures are MMD² and
lower is better: forgetting is F_mmd, likeness the MMD² to the real pictures when just learned, over the last third of
the tasks. Intervals are 95 % bootstraps over concepts, with the same resamples for all rows.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from ..measures.intervals import Number, number
from ..plots.style import colour
from .claims import ALONE, C_LORA, STAMINA, fall_of_gain, shrinking, verdict
from .results import StoredRun, by_concept, mean_by_concept, of_row, paired, rows_of, tidy
from .tables import shown, table

LATE = 3  # the last 1/LATE of the tasks are late
RESAMPLES = 2000
LINEAR = 1.5  # of a plane with methods that forget far more, its axis is logarithmic above
LEVELS = 20  # of forgetting, at which two frontiers are compared
BRIEF = "row", "minus that of LoRA alone", "F_mmd", "A_mmd", "accuracy %"  # columns of the README's table
FINAL = {"a_mmd": "A_mmd", "accuracy": "Accuracy at the end"}  # labels of axes
PANELS = 4  # side by side
CHI2 = 5.991  # 95 % of two degrees of freedom


@dataclass(frozen=True)
class Points:
    """Measures of rows in every resample: row -> (1 + RESAMPLES,), the first with every concept once.

    behind: likeness less that of `lora-alone` for the same concepts at the same places; empty without that row.
    """

    forgetting: dict[str, np.ndarray]
    likeness: dict[str, np.ndarray]
    behind: dict[str, np.ndarray]

    def curve(self, method: str) -> list[str]:
        """The rows of a method's frontier, by rising strength."""
        rows = [row for row in self.forgetting if row.partition("@")[0] == method and "@" in row]
        return sorted(rows, key=lambda row: float(row.partition("@")[2]))

    def methods(self) -> list[str]:
        """Methods with a frontier, in the protocol's order."""
        return list(dict.fromkeys(row.partition("@")[0] for row in self.forgetting if "@" in row))


def points(found: list[StoredRun]) -> Points:
    """Both measures of every row that has them, means over its runs."""
    frame = tidy(found)
    late = frame[frame["task"] > frame["task"].max() * (LATE - 1) / LATE]
    names = sorted(frame["concept"].unique())
    picks = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), RESAMPLES)
    weights = np.vstack([np.ones(len(names)), picks])
    forgetting, likeness, behind = {}, {}, {}
    for row in rows_of(found):
        lost, learned = by_concept(frame, row, "f_mmd"), by_concept(late, row, "plasticity")
        if lost and learned:
            forgetting[row], likeness[row] = (weighted_mean(values, names, weights) for values in (lost, learned))
        excess = mean_by_concept(paired(late, row, ALONE, "plasticity"), "gap")
        if row in likeness and excess:
            behind[row] = weighted_mean(excess, names, weights)
    return Points(forgetting, likeness, behind)


def weighted_mean(values: dict[str, float], names: list[str], weights: np.ndarray) -> np.ndarray:
    """Mean over the concepts that have a value, in every resample. weights: (resamples, concepts)."""
    has = np.array([name in values for name in names])
    numbers = np.array([values.get(name, 0.0) for name in names])
    with np.errstate(invalid="ignore"):  # a resample without any of the concepts
        return (weights * has) @ numbers / (weights @ has)


def likeness_at(p: Points, method: str, levels: np.ndarray) -> np.ndarray:
    """Likeness of a frontier at levels of forgetting, interpolated linearly: (1 + RESAMPLES, levels).

    Where it is known, likeness minus that of LoRA alone: rows with other seeds have other late concepts.
    """
    rows = p.curve(method)
    x, y = (np.stack([measure[row] for row in rows], 1) for measure in (p.forgetting, p.behind or p.likeness))
    order = x.argsort(1)
    x, y = (np.take_along_axis(values, order, 1) for values in (x, y))
    return np.stack([np.interp(levels, *line) for line in zip(x, y, strict=True)])


def gap(p: Points, method: str, other: str) -> Number | None:
    """Likeness of a frontier minus another's at equal forgetting, mean over the range that both cover.

    Negative: the first learns late concepts better. None if the frontiers have no common range.
    """
    ranges = [[p.forgetting[row][0] for row in p.curve(name)] for name in (method, other)]
    if min(map(len, ranges)) < 2:
        return None
    low, high = max(map(min, ranges)), min(map(max, ranges))
    if low >= high:
        return None
    levels = np.linspace(low, high, LEVELS)
    return interval((likeness_at(p, method, levels) - likeness_at(p, other, levels)).mean(1))


def interval(values: np.ndarray) -> Number:
    """The first value, with the 95 % interval of the others."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Number(float(values[0]), float(low), float(high))


def frontier_table(found: list[StoredRun], only: tuple[str, ...] = ()) -> str:
    """Every row: likeness of late concepts, forgetting, final measures, and whether it saturates.

    only: names of the columns to show; all by default.

    A row saturates if late concepts gain less than early ones, and more so than with a LoRA that starts every concept
    anew (`fall_of_gain`).
    """
    p, frame, lines = points(found), tidy(found), []
    for row in p.forgetting:
        saturation = fall_of_gain(frame, row, ALONE) if ALONE in p.forgetting and row != ALONE else None
        lines.append([
            row, shown(interval(p.likeness[row])), shown(interval(p.behind[row]) if row in p.behind else None),
            shown(interval(p.forgetting[row])),
            shown(number(by_concept(frame, row, "a_mmd"))), shown(number(by_concept(frame, row, "accuracy")), 0, 100),
            shown(shrinking(frame, row)), shown(saturation), verdict(saturation, "above"),
        ])  # fmt: skip
    head = ["row", "MMD² when learned, last third", "minus that of LoRA alone", "F_mmd", "A_mmd", "accuracy %"]
    head += ["‖ΔW_t‖, last / first", "fall of the gain", "saturates"]
    columns = [k for k, name in enumerate(head) if not only or name in only]
    return table([head[k] for k in columns], [[line[k] for k in columns] for line in lines])


def gaps_table(found: list[StoredRun], pairs: list[tuple[str, str]] | None = None) -> str:
    """Differences of two frontiers at equal forgetting; by default all against C-LoRA, and STAMINA against others.

    Frontiers that do not overlap in forgetting are left out.
    """
    p = points(found)
    if pairs is None:
        pairs = [(method, C_LORA) for method in p.methods() if method != C_LORA]
        pairs += [(STAMINA, method) for method in p.methods() if method not in (C_LORA, STAMINA)]
    lines = []
    for method, other in pairs:
        if value := gap(p, method, other):
            lines.append([f"{method} minus {other}", shown(value), verdict(value, "below")])
    return table(["frontiers", "MMD² when learned, last third, at equal forgetting", "the first is better"], lines)


def updates_table(found: list[StoredRun]) -> str:
    """‖ΔW_t‖ of the first two tasks and of the last third, and how open the masks are, in % of the weights."""
    lines = []
    for row in points(found).forgetting:
        results = [f.results for f in of_row(found, row)]
        if not results[0]["step_change"][0]:  # only tokens are trained
            continue
        late = len(results[0]["tasks"]) * (LATE - 1) // LATE
        first, second, last = (
            np.mean([r["step_change"][part] for r in results]) for part in (slice(1), slice(1, 2), slice(late, None))
        )
        masked = [r["mask_density"] for r in results if r["mask_density"][0] is not None]
        opened = [
            f"{100 * np.mean([m[part] for m in masked]):.0f}" if masked else "–" for part in (0, slice(late, None))
        ]
        lines.append([row, f"{first:.2f}", f"{second:.3f}", f"{first / second:.0f}", f"{last:.3f}", *opened])
    head = ["row", "‖ΔW_1‖", "‖ΔW_2‖", "first / second", "last third", "open in task 1, %", "open in the last third, %"]
    return table(head, lines)


def norms(found: list[StoredRun]) -> pd.DataFrame:
    """‖ΔW_t‖ by row (columns) and task (rows), means over runs."""
    return tidy(found).pivot_table(index="task", columns="row", values="step_change", aggfunc="mean", sort=False)


def plane(found: list[StoredRun]) -> Figure:
    """Forgetting (across) and MMD² of late concepts when just learned (up), with 95 % regions; lower is better.

    With `lora-alone` among the rows, its MMD² for the same concepts is subtracted: some concepts are harder than others
    for every method, and the regions would show little else.
    """
    p = points(found)
    up = p.behind or p.likeness
    figure, axis = plt.subplots(figsize=(7.2, 5.2), layout="constrained")
    for row in up:
        centre = p.forgetting[row][0], up[row][0]
        shade = colour(row.partition("@")[0])
        axis.add_patch(region(p.forgetting[row][1:], up[row][1:], centre, shade))
        axis.plot(*centre, "o" if "@" in row else "D", color=shade, markersize=4)
        text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "#333333"}
        if "@" in row:
            method, _, strength = row.partition("@")
            below = p.methods().index(method) % 2
            axis.annotate(f"{float(strength):g}", centre, (4, -10 if below else 4), **text)
        else:
            axis.annotate(row, centre, (-5, 0), ha="right", va="center", **text)
    for method in p.methods():
        rows = p.curve(method)
        x, y = ([measure[row][0] for row in rows] for measure in (p.forgetting, up))
        axis.plot(x, y, color=colour(method), label=method)
    axis.margins(x=0.12)  # room for names at the left
    most = max(values[0] for values in p.forgetting.values())
    if most > 2 * LINEAR:
        axis.set_xscale("symlog", linthresh=LINEAR, linscale=4)
        ticks = [tick for tick in (0, 0.5, 1, 1.5, 3, 6, 12, 24) if tick < 2 * most]
        axis.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axis.set(
        xlabel="Forgetting: F_mmd" + (f" (logarithmic above {LINEAR})" if axis.get_xscale() == "symlog" else ""),
        ylabel="Late concepts, just learned: MMD²" + (" minus that of LoRA alone" if p.behind else ""),
    )
    axis.legend(frameon=False)
    return figure


def norm_curves(found: list[StoredRun]) -> Figure:
    """‖ΔW_t‖ against the task, a panel for every frontier: the weaker the line's colour, the lower the strength.

    arXiv 2410.00700 argues that C-LoRA's penalty pushes new updates to zero.
    """
    p, frame = points(found), norms(found)
    methods = p.methods()
    columns = min(PANELS, len(methods))
    lines = ceil(len(methods) / columns)
    size = (max(6.4, 2.6 * columns), 2.8 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis in axes.flat[len(methods) :]:
        axis.remove()
    for axis, method in zip(axes.flat, methods, strict=False):
        rows = p.curve(method)
        for k, row in enumerate(rows, 1):
            strength = f"{float(row.partition('@')[2]):g}"
            axis.plot(frame.index, frame[row], color=colour(method), alpha=k / len(rows), label=strength)
        axis.set(title=method, xlabel="Task", yscale="log")
        axis.legend(title="strength", title_fontsize=7, frameon=False, fontsize=7, loc="upper right", ncols=2)
    axes[0][0].set_ylim(top=8 * frame.max().max())  # room for the legends
    for line in axes:
        line[0].set_ylabel("Norm of the update, ‖ΔW_t‖")
    return figure


def region(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], shade: str) -> Ellipse:
    """The 95 % ellipse of a bootstrap of two measures, by their covariance."""
    keep = np.isfinite(x) & np.isfinite(y)
    sizes, axes = np.linalg.eigh(np.cov(x[keep], y[keep]))
    width, height = 2 * np.sqrt(CHI2 * sizes.clip(0))
    angle = np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))
    return Ellipse(centre, width, height, angle=angle, facecolor=shade, alpha=0.12, linewidth=0)


def by_strength(found: list[StoredRun], measure: str) -> Figure:
    """A final measure ("a_mmd" or "accuracy") against the strength of every frontier, with 95 % intervals."""
    p, frame = points(found), tidy(found)
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for method in p.methods():
        rows = p.curve(method)
        values = [number(by_concept(frame, row, measure)) for row in rows]
        strengths = [float(row.partition("@")[2]) for row in rows]
        means = [v.mean if v else float("nan") for v in values]
        axis.plot(strengths, means, color=colour(method), label=method, marker=".")
        low, high = ([getattr(v, side) if v else float("nan") for v in values] for side in ("low", "high"))
        axis.fill_between(strengths, low, high, color=colour(method), alpha=0.12, linewidth=0)
    axis.set(xscale="log", xlabel="Strength: λ_forget, or the exponent of scaled merging", ylabel=FINAL[measure])
    axis.legend(frameon=False, fontsize=8)
    return figure
