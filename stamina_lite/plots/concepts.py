"""Figures of stored runs of concepts: every function returns a matplotlib Figure."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ..errors import UserError
from ..runs.files import read_json
from .style import COLOURS, add_legend, colour, mean_series, running_mean, shade_range

SIDE = 128  # in px, at which an image of a sheet is shown
SERIES = ("tasks", "plasticity", "weight_change", "step_change", "mmd", "mask_density")


def load_results(run: Path | str) -> dict:
    """The contents of a run's results.json. Raises UserError if it is missing or damaged."""
    file = Path(run) / "results.json"
    results = read_json(file)
    missing = [k for k in ("method", *SERIES) if k not in results] if isinstance(results, dict) else ["everything"]
    if missing:
        raise UserError(f"{file} is damaged ({', '.join(missing)} missing): delete it and run the same command again")
    return results


def weight_change(results: list[dict]) -> Figure:
    """Distance of the K and V weights from the base, and the size of each task's step, a line for each method.

    Left: the paper's Figure 2 [paper]; right: the step, whose decrease flattens the left curve [ours]. Frobenius norms,
    means over layers. Runs of one method are averaged and their range is shaded.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    norms = (
        ("weight_change", "Mean ‖W_t − W_init‖ (units of weights)"),
        ("step_change", "Mean ‖ΔW_t‖ (units of weights)"),
    )
    for axis, (key, label) in zip(axes, norms, strict=True):
        for method, runs in by_method(results).items():
            series = [r[key] for r in runs]
            tasks, mean = mean_series(series)
            axis.plot(tasks, mean, color=colour(method), label=method, marker="." if len(tasks) < 12 else None)
            shade_range(axis, series, colour(method))
        axis.set(xlabel="Task t", ylabel=label, ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, axes[0])
    return figure


def plasticity(results: list[dict]) -> Figure:
    """MMD² of generated to real images just after a concept was learned, against the task; lower is better.

    Thin: each concept; thick: the mean of the last five. A rising line means that the model stops learning.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for method, runs in by_method(results).items():
        tasks, mean = mean_series([r["plasticity"] for r in runs])
        axis.plot(tasks, mean, color=colour(method), linewidth=0.7, alpha=0.6)
        axis.plot(tasks, running_mean(mean), color=colour(method), linewidth=2.2, label=method)
    axis.set(xlabel="Task t", ylabel="MMD² to real pictures, just learned")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, axis)
    return figure


def forgetting(results: list[dict]) -> Figure:
    """MMD² to real images after the last task, against that just after learning; a dot for each concept and run.

    Concepts above the diagonal were forgotten. Raises UserError if no run has finished.
    """
    figure, axis = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
    for method, runs in by_method(results).items():
        pairs = [pair for r in runs for pair in then_and_now(r)]
        if pairs:
            then, now = zip(*pairs, strict=True)
            axis.scatter(then, now, s=18, color=colour(method), label=method, alpha=0.8, linewidths=0)
    if not axis.collections:
        plt.close(figure)
        raise UserError("no run is finished, so forgetting is not known yet: let one end first")
    low, high = min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])
    axis.plot([low, high], [low, high], color="#777777", linewidth=0.8, zorder=0)
    axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axis.set(xlabel="MMD² to real pictures, just learned", ylabel="MMD² to real pictures, after the last task")
    add_legend(figure, axis)
    return figure


def accuracy(results: list[dict]) -> Figure:
    """Share of a concept's images recognised after the last task, against the task in which it was learned.

    Running mean of five tasks; the grey line is chance. Low on the left: early concepts were forgotten. Low on the
    right: late concepts were not learned. Raises UserError if no run has finished.
    """
    finished = [r for r in results if "concept_accuracy_each" in r]
    if not finished:
        raise UserError("no run is finished, so there are no accuracies yet: let one end first")
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for method, runs in by_method(finished).items():
        tasks, mean = mean_series([r["concept_accuracy_each"] for r in runs])
        axis.plot(tasks, running_mean(mean), color=colour(method), label=method)
    axis.axhline(1 / len(tasks), color="#777777", linewidth=0.8)
    axis.set(xlabel="Task in which the concept was learned", ylabel="Accuracy at the end, mean of 5 concepts")
    axis.set_ylim(0, 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, axis)
    return figure


def then_and_now(results: dict) -> list[tuple[float, float]]:
    """(MMD² just after learning, MMD² after the last task) of every concept but the last; empty for unfinished runs."""
    then, last = results["plasticity"], len(results["tasks"])
    rows = {int(i): {int(j): v for j, v in row.items()} for i, row in results["mmd"].items()}  # JSON's keys are text
    final = rows.get(last, {})
    return [(then[j - 1], final[j]) for j in range(1, last) if then[j - 1] is not None and j in final]


def sheet(rows: list[list[Image.Image]], titles: list[str], headings: Iterable[str] = ()) -> Figure:
    """Rows of images with titles, each image about SIDE wide. Rows may differ in length.

    headings: of the columns, above the first row.
    """
    columns = max(len(row) for row in rows)
    beside = max(1.2, 0.4 + 0.08 * max(map(len, titles)))  # inches that titles take
    size = columns + beside, len(rows)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, dpi=SIDE, squeeze=False, layout="constrained")
    for line, row, title in zip(axes, rows, titles, strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, picture in zip(line, row, strict=False):
            axis.imshow(picture)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    for axis, heading in zip(axes[0], headings, strict=False):
        axis.set_title(heading, fontsize=9)
    figure.set_layout_engine("compressed", w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    return figure


def run_sheet(
    run: Path | str,
    names: Iterable[str],
    stages: Iterable[str | int] = ("learned", "final"),
    columns: int = 8,
    real: Mapping[str, list[Image.Image]] | None = None,
) -> Figure:
    """A run's stored images of some concepts, a row for each concept and stage.

    Args:
        stages: "learned" (just after the concept's task), "final" (after the last task), or a number of tasks.
        columns: number of images.
        real: training images by concept, for a row above.

    Raises:
        UserError: the run has not learned a concept, or stored no images at a stage.
    """
    tasks = load_results(run)["tasks"]
    rows, titles = [], []
    for name in names:
        if name not in tasks:
            raise UserError(f"{run} has not learned {name}: choose from {', '.join(tasks)}")
        if real:
            rows.append(real[name][:columns])
            titles.append(f"{name}, real")
        for stage in stages:
            task = {"learned": tasks.index(name) + 1, "final": len(tasks)}.get(str(stage), stage)
            rows.append(kept_pictures(run, task, name)[:columns])
            titles.append(f"{name}, {stage if isinstance(stage, str) else f'after {stage}'}")
    return sheet(rows, titles)


def drift_sheet(runs: Mapping[str, Path], name: str, real: Image.Image | None = None) -> Figure:
    """One concept as runs drew it after more and more tasks, from the same noise: a row for each run.

    Args:
        runs: title -> folder with images of the concept after the same tasks, as `studies/drift.py` draws them.
        name: the concept.
        real: a training image, shown as the first column.
    """
    rows, tasks = [], [task for task, concept in kept_tasks(next(iter(runs.values()))) if concept == name]
    for run in runs.values():
        drawn = [kept_pictures(run, task, name)[0] for task in tasks]
        rows.append([real, *drawn] if real else drawn)
    return sheet(rows, [*runs], [*(["real"] if real else []), *(f"after {task}" for task in tasks)])


def kept_tasks(run: Path | str) -> list[tuple[int, str]]:
    """(task, concept) of all images that a run has stored, in order."""
    folders = sorted((Path(run) / "images").glob("after-*/*"))
    return [(int(f.parent.name.removeprefix("after-")), f.name) for f in folders if any(f.glob("*.png"))]


def kept_pictures(run: Path | str, task: int, name: str) -> list[Image.Image]:
    """A run's stored images of a concept after a task, in order. Raises UserError if there are none."""
    folder = Path(run) / "images" / f"after-{task:03d}" / name
    files = sorted(folder.glob("*.png"))
    if not files:
        raise UserError(f"no pictures in {folder}: a run keeps a concept's after its own task and after the last one")
    return [Image.open(file).convert("RGB") for file in files]


def by_method(results: list[dict]) -> dict[str, list[dict]]:
    """Results by method, in the registry's order."""
    order = {method: k for k, method in enumerate(COLOURS)}
    groups: dict[str, list[dict]] = {}
    for r in sorted(results, key=lambda r: order.get(r["method"], len(order))):
        groups.setdefault(r["method"], []).append(r)
    return groups


def short(layer: str) -> str:
    """down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k -> down_blocks.0.attentions.1.to_k"""
    return layer.replace(".transformer_blocks", "").replace(".attn2", "")
