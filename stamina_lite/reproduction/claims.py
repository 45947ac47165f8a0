"""What a grid of stored runs says of the paper's claims: every table of the README and of REPRODUCIBILITY.md."""

from pathlib import Path

import pandas as pd

from ..measures.intervals import Number, mean_of_pairs, number
from ..runs.files import read_json
from . import speed as steps
from .grids import GridRun, load_grid
from .results import (
    ENDS,
    TOKEN,
    StoredRun,
    by_concept,
    difference,
    gain,
    mean_by_concept,
    of_row,
    read_runs,
    rows_of,
    tidy,
)
from .tables import shown, table

C_LORA, STAMINA, ALONE = "c-lora", "stamina", "lora-alone"
PARTS = "first", "last", "all"
BRIEF = "row", "runs", "A_mmd", "F_mmd", "accuracy %", "when learned %"  # columns of the README's table
LOOK_ALIKES = ("01", "02"), ("03", "04"), ("10", "11"), ("18", "19")  # people with the same hair and another skin


def main_table(found: list[StoredRun], only: tuple[str, ...] = ()) -> str:
    """Every row: what is known at the end, what was forgotten, what was learned, and what it costs.

    only: the columns that are wanted, all where none is named.
    """
    head = ["row", "runs", "A_mmd", "F_mmd", "KID ×10³", "accuracy %", "when learned %", "gain, first", "gain, last"]
    head += ["trained %", "stored %", "s a concept"]
    frame, lines = tidy(found), []
    for row in rows_of(found):
        runs, failed = of_row(found, row), [f for f in found if f.run.row == row and f.failed]
        count = str(len(runs)) + (f" ({len(failed)} failed)" if failed else "")
        if not runs:
            lines.append([row, count, *["–"] * (len(head) - 2)])
            continue
        results = [f.results for f in runs]
        numbers = [
            shown(number(by_concept(frame, row, "a_mmd"))),
            shown(number(by_concept(frame, row, "f_mmd"))),
            f"{1000 * sum(r['kid'] for r in results) / len(results):.2f}",
            shown(number(by_concept(frame, row, "accuracy")), 0, 100),
            shown(number(by_concept(frame, row, "accuracy_when_learned")), 0, 100),
            shown(gain(frame, row, "first")),
            shown(gain(frame, row, "last")),
        ]
        cost = results[0]["n_param"]
        seconds = [s for r in results for s in r["seconds"]]
        numbers += [f"{cost['train']:.3g}", f"{cost['store']:.3g}", f"{sum(seconds) / len(seconds):.0f}"]
        lines.append([row, count, *numbers])
    wanted = [k for k, name in enumerate(head) if not only or name in only]
    return table([head[k] for k in wanted], [[line[k] for k in wanted] for line in lines])


def length_table(found: list[StoredRun]) -> str:
    """A_mmd and accuracy after as many concepts as the protocol's stages say."""
    lengths = sorted({int(n) for f in found if f.results for n in f.results["stages"]})
    frames = {n: tidy(found, n) for n in lengths}
    head = ["row", *(f"A_mmd, {n}" for n in lengths), *(f"accuracy %, {n}" for n in lengths)]
    lines = []
    for row in rows_of(found):
        a_mmd = [shown(number(by_concept(frame, row, "a_mmd"))) for frame in frames.values()]
        accuracy = [shown(number(by_concept(frame, row, "accuracy")), 0, 100) for frame in frames.values()]
        lines.append([row, *a_mmd, *accuracy])
    return table(head, lines)


def pair_table(found: list[StoredRun], pairs: list[tuple[str, str]]) -> str:
    """One row less another, concept by concept: negative A_mmd and F_mmd and positive accuracy are better."""
    head = ["", "A_mmd", "F_mmd", "accuracy, points", "when learned, points"]
    head += ["MMD² when learned, first", "MMD² when learned, last"]
    gaps = [("a_mmd", "all", 2, 1), ("f_mmd", "all", 2, 1), ("accuracy", "all", 0, 100)]
    gaps += [("accuracy_when_learned", "all", 0, 100), ("plasticity", "first", 2, 1), ("plasticity", "last", 2, 1)]
    frame, lines = tidy(found), []
    for row, other in pairs:
        values = [shown(difference(frame, row, other, m, part), digits, scale) for m, part, digits, scale in gaps]
        lines.append([f"{row} less {other}", *values])
    return table(head, lines)


def ceiling_table(found: list[StoredRun]) -> str:
    """How far a row stays behind LoRA alone on the same concepts, just learned: what a long past costs it.

    Accuracy in points (negative: recognised less often than the ceiling) and MMD² (positive: less like the real ones).
    """
    head = ["row", "accuracy, first", "accuracy, last", "accuracy, all", "MMD², first", "MMD², last", "MMD², all"]
    frame, lines = tidy(found), []
    for row in rows_of(found):
        if row == ALONE or not by_concept(frame, row, "plasticity"):
            continue  # a joint method learns all concepts at once
        gaps = [(difference(frame, row, ALONE, "accuracy_when_learned", part), 0, 100) for part in PARTS]
        gaps += [(difference(frame, row, ALONE, "plasticity", part), 2, 1) for part in PARTS]
        lines.append([row, *(shown(gap, digits, scale) for gap, digits, scale in gaps)])
    return table(head, lines)


def look_alike_table(found: list[StoredRun]) -> str:
    """Interference of concepts that are alike: whom the final model's pictures of four pairs of people are taken for.

    A pair has the same hair, head and style, and another skin. The last column is the mean share of any one other
    person: as far as the look-alike is above it, the pair is mixed up beyond what people are in general.
    """
    head = ["row", "taken for itself %", "for its look-alike %", "for any one other person %"]
    twins = {f"person-{a}": f"person-{b}" for pair in LOOK_ALIKES for a, b in (pair, pair[::-1])}
    lines = []
    for row in rows_of(found):
        shares: dict[str, list] = {key: [] for key in head[1:]}
        for f in of_row(found, row):
            tasks = f.results["tasks"]
            people = [j for j, name in enumerate(tasks) if name.startswith("person")]
            for j, name in enumerate(tasks):
                if twins.get(name) not in tasks:
                    continue
                seen, twin = f.results["recognised_as"][j], tasks.index(twins[name])
                others = [seen.count(k) / len(seen) for k in people if k not in (j, twin)]
                values = seen.count(j) / len(seen), seen.count(twin) / len(seen), sum(others) / max(1, len(others))
                for key, value in zip(shares, values, strict=True):
                    shares[key].append((name, value))
        lines.append([row, *(shown(number(mean_of_pairs(pairs)), 0, 100) for pairs in shares.values())])
    return table(head, lines)


CLAIMS = (  # the paper's sentence; what is measured for it; how; on which side of what bound it should lie
    (
        "C-LoRA's weights stop moving",
        "‖ΔW_t‖ of the last fifth, in parts of that of as many tasks from the second",
        lambda frame: shrinking(frame, C_LORA),
        ("below", 0.5),
    ),
    (
        "C-LoRA stops being able to learn",
        "fall of its gain from first to last fifth, less that of LoRA alone",
        lambda frame: fall_of_gain(frame, C_LORA, ALONE),
        ("above", 0.0),
    ),
    (
        "STAMINA keeps learning",
        "its gain in the last fifth, less C-LoRA's",
        lambda frame: difference(frame, C_LORA, STAMINA, "plasticity", "last"),
        ("above", 0.0),
    ),
    (
        "STAMINA forgets as little",
        "its F_mmd less C-LoRA's, at most 0.05",
        lambda frame: difference(frame, STAMINA, C_LORA, "f_mmd"),
        ("below", 0.05),
    ),
    (
        "STAMINA knows more at the end",
        "its A_mmd less C-LoRA's",
        lambda frame: difference(frame, STAMINA, C_LORA, "a_mmd"),
        ("below", 0.0),
    ),
    (
        "the mask does it",
        "gain in the last fifth, with the mask less without",
        lambda frame: difference(frame, "stamina-no-mask", STAMINA, "plasticity", "last"),
        ("above", 0.0),
    ),
    (
        "learning the mask does it",
        "gain in the last fifth, learned mask less random mask",
        lambda frame: difference(frame, "stamina-random-mask", STAMINA, "plasticity", "last"),
        ("above", 0.0),
    ),
)


def claims_table(found: list[StoredRun], speed: dict | None = None) -> str:
    """The paper's claims as PROTOCOL.md puts them: the number with its interval, and the verdict.

    speed: what studies/learning_speed.py has stored, for the claim that is measured apart from the grid.
    """
    frame, lines = tidy(found), []
    for claim, what, measure, (side, bound) in CLAIMS:
        value = measure(frame)
        lines.append([claim, what, shown(value), verdict(value, side, bound)])
    stored = [f.results["n_param"]["store"] for f in of_row(found, STAMINA)]
    if stored:
        kept = f"{max(stored):.3g} % of the U-Net"
        lines.append(
            ["nothing is added", "stored beside the model", kept, "contradicted" if any(stored) else "supported"]
        )
    if speed:
        for when in ("early", "late"):
            fewer = steps.fewer_steps(speed, STAMINA, C_LORA, when == "late")
            what = f"steps to 90 % of its likeness less C-LoRA's, {when} tasks"
            lines.append(["it needs fewer steps", what, shown(fewer, 0), verdict(fewer, "below")])
    return table(["claim", "what is measured", "number", "verdict"], lines)


def shrinking(frame: pd.DataFrame, row: str) -> Number | None:
    """‖ΔW_t‖ of the last fifth of tasks, divided by the mean of as many tasks from the second on, run by run."""
    parts = []
    for _, run in frame[frame["row"] == row].groupby(["variant", "seed"]):
        steps, fifth = run["step_change"], max(1, len(run) // ENDS)
        parts.append(run.assign(ratio=steps / steps.iloc[1 : 1 + fifth].mean()).tail(fifth))
    return number(mean_by_concept(pd.concat(parts), "ratio")) if parts else None


def fall_of_gain(frame: pd.DataFrame, row: str, other: str) -> Number | None:
    """(gain first - gain last) of a row less the same of another, which began every concept anew.

    The gains of the token alone cancel: it is (other - row) of the MMD² just learned, first less last. First and last
    tasks are different concepts, taken as independent: half the interval is the root of both halves' squares.
    """
    first, last = (difference(frame, other, row, "plasticity", part) for part in ("first", "last"))
    if not first or not last:
        return None
    mean = first.mean - last.mean
    spread = [((n.high - n.low) / 2) ** 2 for n in (first, last)]
    return Number(mean, mean - sum(spread) ** 0.5, mean + sum(spread) ** 0.5)


def verdict(value: Number | None, want: str, bound: float = 0.0) -> str:
    """supported: the whole interval is on the wanted side of the bound; contradicted: on the other side; inconclusive:
    the interval contains the bound.
    """
    if value is None:
        return "–"
    low, high = sorted((v - bound) * (1 if want == "above" else -1) for v in (value.low, value.high))
    return "supported" if low > 0 else "contradicted" if high < 0 else "inconclusive"


def blocks(folder: Path, grid: Path, speed: dict | None = None) -> dict[str, str]:
    """Every table, by the name under which documents show it. speed: see claims_table."""
    found = read_runs(folder, grid)
    there = rows_of(found)
    pairs = [(row, other) for row, other in ((STAMINA, C_LORA), (STAMINA, TOKEN), (C_LORA, TOKEN), (C_LORA, "lora"))]
    pairs += [(STAMINA, "offline")]
    pairs += [(STAMINA, row) for row in there if row.startswith(("stamina-", "c-lora-"))]
    return {
        "main": main_table(found),
        "brief": main_table(found, BRIEF),
        "lengths": length_table(found),
        "pairs": pair_table(found, [p for p in pairs if set(p) <= set(there)]),
        "ceiling": ceiling_table(found),
        "alike": look_alike_table(found),
        "claims": claims_table(found, speed),
        "missing": missing(found, load_grid(grid)),
    }


def documents(results: Path, grids: Path) -> dict[str, str]:
    """The tables that documents show of the claim: those of the large grid, and of the small one every row's."""
    small = read_runs(results / "claim10", grids / "claim10.yaml")
    speed = results / "learning_speed.json"
    large = blocks(results / "claim50", grids / "claim50.yaml", read_json(speed) if speed.exists() else None)
    return large | {"small": main_table(small)}


def missing(found: list[StoredRun], wanted: list[GridRun]) -> str:
    """How many runs of each row have finished, and which rows have none."""
    rows = {run.row: sum(other.row == run.row for other in wanted) for run in wanted}
    finished = {row: len(of_row(found, row)) for row in rows}
    summary = f"{sum(finished.values())} of {len(wanted)} runs have finished"
    begun = ", ".join(f"{row} {n} of {rows[row]}" for row, n in finished.items() if n)
    none = ", ".join(row for row, n in finished.items() if not n)
    return f"{summary}{': ' + begun if begun else ''}.{f' None of {none}.' if none else ''}"
