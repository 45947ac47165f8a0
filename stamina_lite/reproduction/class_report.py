"""The classification part of a report: measures and figures."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from .. import plots
from ..classification.learner import MEASURES
from ..errors import UserError
from .page import bullets, section, table

FIGURES = (
    (
        plots.accuracy_curves,
        "Mean accuracy over all tasks learned so far, after every task; the range over runs is shaded.",
    ),
    (
        plots.learned_and_kept,
        "Accuracy of tasks when just learned (across) and forgetting from task to task (up): best is the lower right.",
    ),
)
REQUIRED = ("method", "accuracy", "tasks", "a_n", "n_param", "seconds", "peak_memory")


def check(results: dict, file) -> dict:
    """The results of a classification run. Raises UserError if a key is missing."""
    absent = [key for key in (*REQUIRED, *MEASURES) if key not in results]
    if absent:
        raise UserError(f"{file} is damaged ({', '.join(absent)} missing): delete it and run the same command again")
    return results


HEAD = ["Run", "Method", "Base", "Head", "Seed", "Classes", "Tasks", *(name for name, _ in MEASURES.values())]
HEAD += ["Trained", "Added", "Time", "Memory"]
MEANINGS = {name: meaning for name, meaning in MEASURES.values()} | {
    "Trained": "parameters trained in the last task, in % of the backbone",
    "Added": "parameters stored in addition to it at the end, including the head",
}


Runs = Sequence[tuple[str, dict, dict | None]]  # folder, run.json and results.json of each


def rows_of_measures(runs: Runs) -> list[list[str]]:
    """Rows of the table of measures, one for each head of a run."""
    rows = []
    for place, about, results in runs:
        heads = results.get("heads", {results.get("head", "trained"): {}}) if results else {}
        rows += [row(place, about, {**(results or {}), "head": head, **own}) for head, own in heads.items()]
    return rows


def overview(runs: Runs) -> str:
    """The table of measures and their meanings."""
    rows = rows_of_measures(runs)
    if not rows:
        return ""
    meanings = (f"<b>{escape(name)}</b>: {escape(text)}." for name, text in MEANINGS.items())
    return f"<h2>Measures of classes</h2>{table(HEAD, rows, 'Measures of classes')}{bullets(meanings)}"


def row(place: str, about: dict, results: dict) -> list[str]:
    """A row of the table of measures."""
    learned = results["tasks"][: len(results["accuracy"][-1])]
    measures = ["–" if results[key] is None else f"{results[key]:.1f}" for key in MEASURES]
    cost = [f"{results['n_param'][k]:.3g} %" for k in ("train", "store")]
    spent = [f"{sum(results['seconds']) / 60:.1f} min", f"{max(results['peak_memory']) / 2**30:.1f} GiB"]
    counts = [str(sum(map(len, learned))), f"{len(learned)} of {len(results['tasks'])}"]
    who = [results["method"], backbone(about), results["head"], str(about.get("seed"))]
    return [place, *who, *counts, *measures, *cost, *spent]


def backbone(about: dict) -> str:
    """The name of a run's backbone; its hash where it was given in memory."""
    return Path(about.get("base_model") or about["base"]).name


def figures(about: dict, results: list[dict]) -> str:
    """Figures of runs with the same classes and number of tasks."""
    return section(f"{about['set']}, {about['tasks']} tasks, {backbone(about)}", FIGURES, results)
