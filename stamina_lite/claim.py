"""What a grid of stored runs says of the paper's claims: every table of the README and of REPRODUCIBILITY.md.

The unit is a concept: its value is the mean over the runs (seeds and orders) of a row, and intervals are 95 %
percentile bootstraps over concepts. Rows are compared concept by concept, run by run of the same order and seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import metrics
from .checkpoint import read_json
from .data import UserError
from .grid import SEAL, Cell, check_seal, load_grid

ENDS = 5  # "first" and "last" are this share of the tasks: the first and the last fifth
TOKEN, C_LORA, STAMINA, ALONE = "ti++", "c-lora", "stamina", "lora-alone"


@dataclass(frozen=True)
class Found:
    """A cell of the grid as it was found: its results, or why there are none."""

    cell: Cell
    results: dict | None = None
    failed: str = ""


@dataclass(frozen=True)
class Number:
    """A mean over concepts with its interval."""

    mean: float
    low: float
    high: float

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        return f"{scale * self.mean:.{digits}f} [{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


def read_cells(folder: Path, grid: Path) -> list[Found]:
    """The cells of a grid that are stored in a folder, in the grid's order.

    Raises UserError for a cell that the grid does not know, was run under another protocol or was changed afterwards.
    """
    cells = {cell.name: cell for cell in load_grid(grid)}
    found = {}
    for file in sorted(Path(folder).glob(f"*/{SEAL}")):
        seal, home = check_seal(file.parent), file.parent
        cell = cells.get(home.name)
        if cell is None:
            raise UserError(f"{home} is no cell of {grid.name}: take it away, or add it there")
        if {key: seal.get(key) for key in cell.seal} != cell.seal:
            raise UserError(f"{home} was run under another protocol than {grid.name}: run it again")
        if "failed" in seal:
            found[home.name] = Found(cell, failed=seal["failed"])
        else:
            found[home.name] = Found(cell, read_json(home / "results.json"))
    return [found[name] for name in cells if name in found]


def of_row(found: list[Found], row: str) -> list[Found]:
    return [f for f in found if f.cell.row == row and f.results]


def by_concept(runs: list[Found], value: Callable[[dict], list]) -> dict[str, float]:
    """Mean over runs of what `value` says of each concept; value(results) has one entry a task, in their order."""
    return mean_of_pairs(pair for f in runs for pair in zip(f.results["tasks"], value(f.results), strict=False))


def mean_of_pairs(pairs) -> dict[str, float]:
    grouped: dict[str, list[float]] = {}
    for name, number in pairs:
        grouped.setdefault(name, []).append(number)
    return {name: sum(numbers) / len(numbers) for name, numbers in grouped.items()}


def number(values: dict[str, float]) -> Number | None:
    """Mean and interval over concepts; None where there is nothing."""
    if not values:
        return None
    each = [values[name] for name in sorted(values)]
    return Number(sum(each) / len(each), *metrics.mean_interval(each))


def difference(found: list[Found], row: str, other: str, value: Callable[[dict], list], part: str = "all"):
    """row less other, concept by concept over the runs of equal order and seed: a Number, or None without such runs.

    part: "all" tasks, or the "first" or "last" fifth.
    """
    others = {(f.cell.order, f.cell.seed): f.results for f in of_row(found, other)}
    pairs = []
    for f in of_row(found, row):
        there = others.get((f.cell.order, f.cell.seed))
        if there is None or value(f.results) is None or value(there) is None:
            continue
        gaps = [a - b for a, b in zip(value(f.results), value(there), strict=True)]
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


def gain(found: list[Found], row: str, part: str):
    """What weights add to the token alone just after learning: MMD² of TI++ less that of the row; higher is better."""
    loss = difference(found, row, TOKEN, plasticity, part)
    return loss and Number(-loss.mean, -loss.high, -loss.low)


def gains_by_task(found: list[Found], row: str) -> list[list[float]]:
    """For every task the gains of all runs of a row that have one of the token alone beside them."""
    others = {(f.cell.order, f.cell.seed): f.results for f in of_row(found, TOKEN)}
    pairs = [(f.results, others.get((f.cell.order, f.cell.seed))) for f in of_row(found, row)]
    gaps = [
        [u - v for u, v in zip(there["plasticity"], r["plasticity"], strict=True)]
        for r, there in pairs
        if there and plasticity(r)
    ]
    return [list(at) for at in zip(*gaps, strict=True)]


def rows_of(found: list[Found]) -> list[str]:
    """Rows that have at least one cell, failed or not, in the protocol's order."""
    protocol = found[0].cell.protocol if found else {"rows": {}}
    there = {f.cell.row for f in found}
    return [row for row in protocol["rows"] if row in there]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [" | ".join(head), " | ".join(["---"] * len(head)), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def shown(value: Number | None, digits: int = 2, scale: float = 1.0) -> str:
    return value.text(digits, scale) if value else "–"


def main_table(found: list[Found]) -> str:
    """Every row: what is known at the end, what was forgotten, what was learned, and what it costs."""
    head = ["row", "runs", "A_mmd", "F_mmd", "KID ×10³", "accuracy %", "when learned %", "gain, first", "gain, last"]
    head += ["trained %", "stored %", "s a concept"]
    lines = []
    for row in rows_of(found):
        runs, failed = of_row(found, row), [f for f in found if f.cell.row == row and f.failed]
        count = str(len(runs)) + (f" ({len(failed)} failed)" if failed else "")
        if not runs:
            lines.append([row, count, *["–"] * (len(head) - 2)])
            continue
        results = [f.results for f in runs]
        numbers = [
            shown(number(by_concept(runs, final))),
            shown(number(by_concept(runs, drift)) if drift(results[0]) else None),
            f"{1000 * sum(r['kid'] for r in results) / len(results):.2f}",
            shown(number(by_concept(runs, accuracy)), 0, 100),
            shown(number(by_concept(runs, learned)) if learned(results[0]) else None, 0, 100),
            shown(gain(found, row, "first")),
            shown(gain(found, row, "last")),
        ]
        cost = results[0]["n_param"]
        seconds = [s for r in results for s in r["seconds"]]
        numbers += [f"{cost['train']:.3g}", f"{cost['store']:.3g}", f"{sum(seconds) / len(seconds):.0f}"]
        lines.append([row, count, *numbers])
    return table(head, lines)


def length_table(found: list[Found]) -> str:
    """A_mmd and accuracy after as many concepts as the protocol's stages say."""
    lengths = sorted({int(n) for f in found if f.results for n in f.results["stages"]})
    head = ["row", *(f"A_mmd, {n}" for n in lengths), *(f"accuracy %, {n}" for n in lengths)]
    lines = []
    for row in rows_of(found):
        runs, cells = of_row(found, row), [row]
        for key, digits, scale in (("a_mmd_each", 2, 1), ("concept_accuracy_each", 0, 100)):
            for n in lengths:
                at = [f for f in runs if str(n) in f.results["stages"]]
                values = by_concept(at, lambda r, n=n, key=key: r["stages"][str(n)][key])
                cells.append(shown(number(values), digits, scale))
        lines.append(cells)
    return table(head, lines)


def pair_table(found: list[Found], pairs: list[tuple[str, str]]) -> str:
    """One row less another, concept by concept: negative A_mmd and F_mmd and positive accuracy are better."""
    head = ["", "A_mmd", "F_mmd", "accuracy, points", "when learned, points"]
    head += ["MMD² when learned, first", "MMD² when learned, last"]
    lines = []
    for row, other in pairs:
        gaps = [(final, "all", 2, 1), (drift, "all", 2, 1), (accuracy, "all", 0, 100), (learned, "all", 0, 100)]
        gaps += [(plasticity, "first", 2, 1), (plasticity, "last", 2, 1)]
        cells = [shown(difference(found, row, other, v, part), digits, scale) for v, part, digits, scale in gaps]
        lines.append([f"{row} less {other}", *cells])
    return table(head, lines)


CLAIMS = (  # the paper's sentence; what is measured for it; how; on which side of what bound it should lie
    (
        "C-LoRA's weights stop moving",
        "‖ΔW_t‖ of the last fifth, in parts of that of as many tasks from the second",
        lambda found: shrinking(found, C_LORA),
        ("below", 0.5),
    ),
    (
        "C-LoRA stops being able to learn",
        "fall of its gain from first to last fifth, less that of LoRA alone",
        lambda found: fall_of_gain(found, C_LORA, ALONE),
        ("above", 0.0),
    ),
    (
        "STAMINA keeps learning",
        "its gain in the last fifth, less C-LoRA's",
        lambda found: difference(found, C_LORA, STAMINA, plasticity, "last"),
        ("above", 0.0),
    ),
    (
        "STAMINA forgets as little",
        "its F_mmd less C-LoRA's, at most 0.05",
        lambda found: difference(found, STAMINA, C_LORA, drift),
        ("below", 0.05),
    ),
    (
        "STAMINA knows more at the end",
        "its A_mmd less C-LoRA's",
        lambda found: difference(found, STAMINA, C_LORA, final),
        ("below", 0.0),
    ),
    (
        "the mask does it",
        "gain in the last fifth, with the mask less without",
        lambda found: difference(found, "stamina-no-mask", STAMINA, plasticity, "last"),
        ("above", 0.0),
    ),
    (
        "learning the mask does it",
        "gain in the last fifth, learned mask less random mask",
        lambda found: difference(found, "stamina-random-mask", STAMINA, plasticity, "last"),
        ("above", 0.0),
    ),
)


def claims_table(found: list[Found]) -> str:
    """The paper's claims as PROTOCOL.md puts them: the number with its interval, and the verdict."""
    lines = []
    for claim, what, measure, (side, bound) in CLAIMS:
        value = measure(found)
        lines.append([claim, what, shown(value), verdict(value, side, bound)])
    stored = [f.results["n_param"]["store"] for f in of_row(found, STAMINA)]
    if stored:
        kept = f"{max(stored):.3g} % of the U-Net"
        lines.append(["nothing is added", "stored beside the model", kept, "does not hold" if any(stored) else "holds"])
    return table(["claim", "what is measured", "number", "verdict"], lines)


def shrinking(found: list[Found], row: str) -> Number | None:
    """‖ΔW_t‖ of the last fifth of tasks in parts of the mean of as many tasks from the second, run by run."""
    pairs = []
    for f in of_row(found, row):
        steps = [*zip(f.results["tasks"], f.results["step_change"], strict=True)]
        fifth = max(1, len(steps) // ENDS)
        early = sum(s for _, s in steps[1 : 1 + fifth]) / fifth
        pairs += [(name, s / early) for name, s in steps[-fifth:]]
    return number(mean_of_pairs(pairs))


def fall_of_gain(found: list[Found], row: str, other: str) -> Number | None:
    """(gain first - gain last) of a row less the same of another, which began every concept anew.

    The rows' own token baselines cancel: it is (other - row) of the MMD² just learned, first less last. First and last
    tasks are different concepts, taken as independent: half the interval is the root of both halves' squares.
    """
    first, last = (difference(found, other, row, plasticity, part) for part in ("first", "last"))
    if not first or not last:
        return None
    mean = first.mean - last.mean
    spread = [((n.high - n.low) / 2) ** 2 for n in (first, last)]
    return Number(mean, mean - sum(spread) ** 0.5, mean + sum(spread) ** 0.5)


def verdict(value: Number | None, want: str, bound: float = 0.0) -> str:
    """holds: the whole interval is on the wanted side of the bound; in part: only the mean is."""
    if value is None:
        return "–"
    mean, low, high = ((v - bound) * (1 if want == "above" else -1) for v in (value.mean, value.low, value.high))
    if min(low, high) > 0:
        return "holds"
    return "holds in part" if mean > 0 else "does not hold"


def blocks(folder: Path, grid: Path) -> dict[str, str]:
    """Every table, by the name under which documents show it."""
    found = read_cells(folder, grid)
    there = rows_of(found)
    pairs = [(row, other) for row, other in ((STAMINA, C_LORA), (STAMINA, TOKEN), (C_LORA, TOKEN), (C_LORA, "lora"))]
    pairs += [(STAMINA, row) for row in there if row.startswith("stamina-")]
    return {
        "main": main_table(found),
        "lengths": length_table(found),
        "pairs": pair_table(found, [p for p in pairs if set(p) <= set(there)]),
        "claims": claims_table(found),
        "missing": missing(found, load_grid(grid)),
    }


def missing(found: list[Found], cells: list[Cell]) -> str:
    """How many cells of each row have been run, and which rows have none."""
    rows = {cell.row: sum(c.row == cell.row for c in cells) for cell in cells}
    run = {row: len(of_row(found, row)) for row in rows}
    told = f"{sum(run.values())} of {len(cells)} cells have been run to their end"
    begun = ", ".join(f"{row} {n} of {rows[row]}" for row, n in run.items() if n)
    none = ", ".join(row for row, n in run.items() if not n)
    return f"{told}{': ' + begun if begun else ''}.{f' None of {none}.' if none else ''}"
