"""Stored runs of a grid, compared concept by concept.

The unit is a concept: its value is the mean over the runs (seeds and orders) of a row, and intervals are 95 %
percentile bootstraps over concepts. Rows are compared concept by concept, between runs of the same order and seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from ..measures.intervals import Number, mean_of_pairs, number
from ..runs.files import read_json
from .grids import CHECKSUM_FILE, GridRun, load_grid, verify_checksum

ENDS = 5  # "first" and "last" are this share of the tasks: the first and the last fifth
TOKEN = "ti++"  # the token alone: what weights add is told against it
Value = Callable[[dict], list | None]  # of a run's results, an entry a task; None where the run has none


@dataclass(frozen=True)
class StoredRun:
    """A run of a grid with its results, or with the reason why it failed."""

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
            raise UserError(f"{home} is no run of {grid.name}: take it away, or add it there")
        if {key: record.get(key) for key in run.checksum} != run.checksum:
            raise UserError(f"{home} was run under another protocol than {grid.name}: run it again")
        if "failed" in record:
            found[home.name] = StoredRun(run, failed=record["failed"])
        else:
            found[home.name] = StoredRun(run, read_json(home / "results.json"))
    return [found[name] for name in runs if name in found]


def of_row(found: list[StoredRun], row: str) -> list[StoredRun]:
    return [f for f in found if f.run.row == row and f.results]


def by_concept(runs: list[StoredRun], value: Value) -> dict[str, float]:
    """Mean over runs of what `value` says of each concept."""
    return mean_of_pairs(pair for f in runs for pair in zip(f.results["tasks"], value(f.results) or (), strict=False))


def difference(found: list[StoredRun], row: str, other: str, value: Value, part: str = "all") -> Number | None:
    """row less other, concept by concept over the runs of equal order and seed: a Number, or None without such runs.

    part: "all" tasks, or the "first" or "last" fifth.
    """
    others = {(f.run.variant, f.run.seed): f.results for f in of_row(found, other)}
    pairs = []
    for f in of_row(found, row):
        there = others.get((f.run.variant, f.run.seed))
        mine, theirs = value(f.results), value(there) if there else None
        if mine is None or theirs is None:
            continue
        gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
        pairs += ends([*zip(f.results["tasks"], gaps, strict=False)], part)
    return number(mean_of_pairs(pairs))


def ends(values: list, part: str) -> list:
    fifth = max(1, len(values) // ENDS)
    return {"all": values, "first": values[:fifth], "last": values[-fifth:]}[part]


def plasticity(r: dict) -> list | None:
    return r["plasticity"] if r["plasticity"][0] is not None else None


def final(r: dict) -> list:
    return r["a_mmd_each"]


def drift(r: dict) -> list | None:
    return r["f_mmd_each"] or None


def accuracy(r: dict) -> list:
    return r["concept_accuracy_each"]


def learned(r: dict) -> list | None:
    return r["concept_accuracy_when_learned_each"]


def gain(found: list[StoredRun], row: str, part: str):
    """What weights add to the token alone just after learning: MMD² of TI++ less that of the row; higher is better."""
    loss = difference(found, row, TOKEN, plasticity, part)
    return loss and Number(-loss.mean, -loss.high, -loss.low)


def gains_by_task(found: list[StoredRun], row: str) -> list[list[float]]:
    """For every task the gains of all runs of a row that have one of the token alone beside them."""
    others = {(f.run.variant, f.run.seed): f.results for f in of_row(found, TOKEN)}
    pairs = [(f.results, others.get((f.run.variant, f.run.seed))) for f in of_row(found, row)]
    gaps = [
        [u - v for u, v in zip(there["plasticity"], r["plasticity"], strict=True)]
        for r, there in pairs
        if there and plasticity(r)
    ]
    return [list(at) for at in zip(*gaps, strict=True)]


def rows_of(found: list[StoredRun]) -> list[str]:
    """Rows that have at least one run, failed or not, in the protocol's order."""
    protocol = found[0].run.protocol if found else {"rows": {}}
    there = {f.run.row for f in found}
    return [row for row in protocol["rows"] if row in there]
