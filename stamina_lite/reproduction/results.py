"""Stored runs of a grid as one tidy table, with a line for every concept of every run.

The unit is a concept: its value is the mean over the runs (seeds and orders) of a row, and intervals are 95 %
percentile bootstraps over concepts. Rows are compared concept by concept, between runs of the same order and seed.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..errors import UserError
from ..measures.intervals import Number, number
from ..runs.files import read_json
from .grids import CHECKSUM_FILE, NAN, GridRun, has_nan, load_grid, verify_checksum

ENDS = 5  # "first" and "last" mean the first and the last 1/ENDS of the tasks
TOKEN = "ti++"  # the token alone, the reference of a method's gain
MEASURES = {  # column -> key in results.json, a list with an entry for every concept
    "plasticity": "plasticity",
    "a_mmd": "a_mmd_each",
    "f_mmd": "f_mmd_each",
    "accuracy": "concept_accuracy_each",
    "accuracy_when_learned": "concept_accuracy_when_learned_each",
    "step_change": "step_change",
}


@dataclass(frozen=True)
class StoredRun:
    """A run of a grid with its results, or with its error message if it failed."""

    run: GridRun
    results: dict = field(default_factory=dict)
    failed: str = ""


def read_runs(folder: Path, grid: Path) -> list[StoredRun]:
    """The runs of a grid that are stored in a folder, in the grid's order.

    Raises:
        UserError: a run is not in the grid, has another protocol, or was changed since.
    """
    runs = {run.name: run for run in load_grid(grid)}
    found = {}
    for file in sorted(Path(folder).glob(f"*/{CHECKSUM_FILE}")):
        home = file.parent
        record = verify_checksum(home) or {}
        run = runs.get(home.name)
        if run is None:
            raise UserError(f"{home} is no run of {grid.name}: remove it, or add it to the grid")
        if {key: record.get(key) for key in run.checksum} != run.checksum:
            raise UserError(f"{home} has another protocol than {grid.name}: run it again")
        if "failed" in record:
            found[home.name] = StoredRun(run, failed=record["failed"])
        elif has_nan(home / "results.json"):
            found[home.name] = StoredRun(run, failed=NAN)
        else:
            found[home.name] = StoredRun(run, read_json(home / "results.json"))
    return [found[name] for name in runs if name in found]


def of_row(found: list[StoredRun], row: str) -> list[StoredRun]:
    """The finished runs of a row."""
    return [f for f in found if f.run.row == row and f.results]


def of_methods(found: list[StoredRun], *methods: str) -> list[StoredRun]:
    """The runs of some methods, at any strength: rows METHOD and METHOD@STRENGTH."""
    return [f for f in found if f.run.row.partition("@")[0] in methods]


def tidy(found: list[StoredRun], stage: int | None = None) -> pd.DataFrame:
    """A line for every concept of every finished run.

    Args:
        stage: measures after that many concepts, of the runs that have them; by default at the end.

    Returns:
        Columns row, variant, seed; task, from 1, and concept; the measures of MEASURES, NaN where a run has none.
    """
    lines = []
    for f in found:
        results = f.results if stage is None else f.results.get("stages", {}).get(str(stage))
        for k, concept in enumerate(f.results["tasks"][:stage] if results else ()):
            line = {"row": f.run.row, "variant": f.run.variant, "seed": f.run.seed, "task": k + 1, "concept": concept}
            for column, key in MEASURES.items():
                values = results.get(key) or []
                line[column] = values[k] if k < len(values) else None
            lines.append(line)
    keys = ["row", "variant", "seed", "task", "concept"]
    return pd.DataFrame(lines, columns=[*keys, *MEASURES]).astype(dict.fromkeys(MEASURES, float))


def by_concept(frame: pd.DataFrame, row: str, measure: str) -> dict[str, float]:
    """Mean over a row's runs of a measure of each concept."""
    return mean_by_concept(frame[frame["row"] == row], measure)


def mean_by_concept(frame: pd.DataFrame, column: str) -> dict[str, float]:
    """Mean of a column over the lines of each concept, NaN left out."""
    return frame.dropna(subset=column).groupby("concept")[column].mean().to_dict()


def paired(frame: pd.DataFrame, row: str, other: str, measure: str) -> pd.DataFrame:
    """The lines of a row with a partner in another row (equal order, seed and task); column gap: row minus other."""
    keys = ["variant", "seed", "task"]
    others = frame[frame["row"] == other]
    pairs = frame[frame["row"] == row].merge(others[[*keys, measure]], on=keys, suffixes=("", "_other"))
    return pairs.assign(gap=pairs[measure] - pairs[f"{measure}_other"])


def difference(frame: pd.DataFrame, row: str, other: str, measure: str, part: str = "all") -> Number | None:
    """row minus other per concept, between runs of equal order and seed; None without such runs.

    part: "all" tasks, or the "first" or "last" fifth.
    """
    pairs = paired(frame, row, other, measure)
    n_tasks = pairs["task"].max()
    fifth = max(1, n_tasks // ENDS) if len(pairs) else 1
    chosen = {"all": pairs["task"] > 0, "first": pairs["task"] <= fifth, "last": pairs["task"] > n_tasks - fifth}[part]
    return number(mean_by_concept(pairs[chosen], "gap"))


def gain(frame: pd.DataFrame, row: str, part: str = "all") -> Number | None:
    """Gain of training weights over the token alone, just after learning: MMD² of TI++ minus MMD² of the row."""
    loss = difference(frame, row, TOKEN, "plasticity", part)
    return loss and Number(-loss.mean, -loss.high, -loss.low)


def gains_by_task(frame: pd.DataFrame, row: str, reference: str = TOKEN) -> list[list[float]]:
    """MMD² of a reference row less that of a row at every task, just after learning, for runs with a partner run."""
    pairs = paired(frame, row, reference, "plasticity").dropna(subset="gap")
    return [(-gaps).tolist() for _, gaps in pairs.groupby("task")["gap"]]


def rows_of(found: list[StoredRun]) -> list[str]:
    """Rows with at least one run, failed or not, in the protocol's order."""
    protocol = found[0].run.protocol if found else {"rows": {}}
    present = {f.run.row for f in found}
    return [row for row in protocol["rows"] if row in present]
