"""Tables and claims of a grid of stored text-to-image runs, for README and REPRODUCIBILITY.md."""

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
LOOK_ALIKES = ("01", "02"), ("03", "04"), ("10", "11"), ("18", "19")  # people with the same hair, not the same skin


def main_table(found: list[StoredRun], only: tuple[str, ...] = ()) -> str:
    """Final distance, forgetting, accuracy, gain and cost of every row.

    only: names of the columns to show; all by default.
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
    columns = [k for k, name in enumerate(head) if not only or name in only]
    return table([head[k] for k in columns], [[line[k] for k in columns] for line in lines])


def length_table(found: list[StoredRun]) -> str:
    """A_mmd and accuracy of every row after the numbers of concepts in the protocol's stages."""
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
    """Differences of pairs of rows over the same concepts: negative A_mmd, F_mmd and positive accuracy are better."""
    head = ["", "A_mmd", "F_mmd", "accuracy, points", "when learned, points"]
    head += ["MMD² when learned, first", "MMD² when learned, last"]
    gaps = [("a_mmd", "all", 2, 1), ("f_mmd", "all", 2, 1), ("accuracy", "all", 0, 100)]
    gaps += [("accuracy_when_learned", "all", 0, 100), ("plasticity", "first", 2, 1), ("plasticity", "last", 2, 1)]
    frame, lines = tidy(found), []
    for row, other in pairs:
        values = [shown(difference(frame, row, other, m, part), digits, scale) for m, part, digits, scale in gaps]
        lines.append([f"{row} minus {other}", *values])
    return table(head, lines)


def ceiling_table(found: list[StoredRun]) -> str:
    """Difference of every row to LoRA alone on the same concepts, just after they were learned.

    Accuracy in points (negative: recognised less often than LoRA alone) and MMD² (positive: farther from the data).
    """
    head = ["row", "accuracy, first", "accuracy, last", "accuracy, all", "MMD², first", "MMD², last", "MMD², all"]
    frame, lines = tidy(found), []
    for row in rows_of(found):
        if row == ALONE or not by_concept(frame, row, "plasticity"):
            continue  # joint methods learn all concepts at once
        gaps = [(difference(frame, row, ALONE, "accuracy_when_learned", part), 0, 100) for part in PARTS]
        gaps += [(difference(frame, row, ALONE, "plasticity", part), 2, 1) for part in PARTS]
        lines.append([row, *(shown(gap, digits, scale) for gap, digits, scale in gaps)])
    return table(head, lines)


def look_alike_table(found: list[StoredRun]) -> str:
    """Confusion of similar concepts: nearest concepts of the final model's pictures of four pairs of people.

    The people of a pair have the same hair, head and style and different skin. The last column is the mean share of any
    other single person: a share of the look-alike above it is confusion beyond that between people in general.
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


CLAIMS = (  # claim of the paper; its measure; how it is computed; side of the bound on which it should lie
    (
        "C-LoRA's weights stop moving",
        "‖ΔW_t‖ of the last fifth, in parts of that of as many tasks from the second",
        lambda frame: shrinking(frame, C_LORA),
        ("below", 0.5),
    ),
    (
        "C-LoRA stops being able to learn",
        "fall of its gain from first to last fifth, minus that of LoRA alone",
        lambda frame: fall_of_gain(frame, C_LORA, ALONE),
        ("above", 0.0),
    ),
    (
        "STAMINA keeps learning",
        "its gain in the last fifth, minus C-LoRA's",
        lambda frame: difference(frame, C_LORA, STAMINA, "plasticity", "last"),
        ("above", 0.0),
    ),
    (
        "STAMINA forgets as little",
        "its F_mmd minus C-LoRA's, at most 0.05",
        lambda frame: difference(frame, STAMINA, C_LORA, "f_mmd"),
        ("below", 0.05),
    ),
    (
        "STAMINA knows more at the end",
        "its A_mmd minus C-LoRA's",
        lambda frame: difference(frame, STAMINA, C_LORA, "a_mmd"),
        ("below", 0.0),
    ),
    (
        "the mask does it",
        "gain in the last fifth, with the mask minus without",
        lambda frame: difference(frame, "stamina-no-mask", STAMINA, "plasticity", "last"),
        ("above", 0.0),
    ),
    (
        "learning the mask does it",
        "gain in the last fifth, learned mask minus random mask",
        lambda frame: difference(frame, "stamina-random-mask", STAMINA, "plasticity", "last"),
        ("above", 0.0),
    ),
)


def claims_table(found: list[StoredRun], speed: dict | None = None) -> str:
    """The paper's claims as defined in PROTOCOL.md: number, interval and verdict.

    speed: the content of results/learning_speed.json, for the claim that is not measured by the grid.
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
            what = f"steps to 90 % of its likeness minus C-LoRA's, {when} tasks"
            lines.append(["it needs fewer steps", what, shown(fewer, 0), verdict(fewer, "below")])
    return table(["claim", "what is measured", "number", "verdict"], lines)


def shrinking(frame: pd.DataFrame, row: str) -> Number | None:
    """‖ΔW_t‖ in the last fifth of tasks, divided by its mean over as many tasks from the second on in the same run."""
    parts = []
    for _, run in frame[frame["row"] == row].groupby(["variant", "seed"]):
        steps, fifth = run["step_change"], max(1, len(run) // ENDS)
        parts.append(run.assign(ratio=steps / steps.iloc[1 : 1 + fifth].mean()).tail(fifth))
    return number(mean_by_concept(pd.concat(parts), "ratio")) if parts else None


def fall_of_gain(frame: pd.DataFrame, row: str, other: str) -> Number | None:
    """Decrease of a row's gain from the first to the last fifth, minus that of a row that starts every concept anew.

    The gain of the token alone cancels, which leaves the difference (other − row) of MMD² when just learned, first
    minus last. First and last tasks have different concepts and are treated as independent: half widths of intervals
    add as the root of their squares.
    """
    first, last = (difference(frame, other, row, "plasticity", part) for part in ("first", "last"))
    if not first or not last:
        return None
    mean = first.mean - last.mean
    spread = [((n.high - n.low) / 2) ** 2 for n in (first, last)]
    return Number(mean, mean - sum(spread) ** 0.5, mean + sum(spread) ** 0.5)


def verdict(value: Number | None, side: str, bound: float = 0.0) -> str:
    """Verdict on a claim that a value is "above" or "below" a bound, by its 95 % interval.

    Returns:
        supported: the whole interval is on the side of the claim. contradicted: on the other side. inconclusive: it
        contains the bound.
    """
    if value is None:
        return "–"
    low, high = sorted((v - bound) * (1 if side == "above" else -1) for v in (value.low, value.high))
    return "supported" if low > 0 else "contradicted" if high < 0 else "inconclusive"


def blocks(folder: Path, grid: Path, speed: dict | None = None) -> dict[str, str]:
    """Every table by its name in the documents. speed: see claims_table."""
    found = read_runs(folder, grid)
    rows = rows_of(found)
    pairs = [(row, other) for row, other in ((STAMINA, C_LORA), (STAMINA, TOKEN), (C_LORA, TOKEN), (C_LORA, "lora"))]
    pairs += [("stamina-no-mask", C_LORA), (STAMINA, "offline"), (C_LORA, ALONE), (STAMINA, ALONE)]
    pairs += [("lora-ewc", other) for other in (C_LORA, STAMINA, TOKEN)]
    pairs += [(STAMINA, row) for row in rows if row.startswith(("stamina-", "c-lora-"))]
    return {
        "main": main_table(found),
        "brief": main_table(found, BRIEF),
        "lengths": length_table(found),
        "pairs": pair_table(found, [p for p in pairs if set(p) <= set(rows)]),
        "ceiling": ceiling_table(found),
        "alike": look_alike_table(found),
        "claims": claims_table(found, speed),
        "missing": missing(found, load_grid(grid)),
    }


def documents(results: Path, grids: Path) -> dict[str, str]:
    """The tables of the documents: all tables of the grid claim50, and the main table of claim10."""
    small = read_runs(results / "claim10", grids / "claim10.yaml")
    speed = results / "learning_speed.json"
    large = blocks(results / "claim50", grids / "claim50.yaml", read_json(speed) if speed.exists() else None)
    return large | {"small": main_table(small)}


def missing(found: list[StoredRun], planned: list[GridRun]) -> str:
    """A sentence with the number of finished runs of each row, and the rows without any."""
    rows = {run.row: sum(other.row == run.row for other in planned) for run in planned}
    finished = {row: len(of_row(found, row)) for row in rows}
    summary = f"{sum(finished.values())} of {len(planned)} runs have finished"
    some = ", ".join(f"{row} {n} of {rows[row]}" for row, n in finished.items() if n)
    none = ", ".join(row for row, n in finished.items() if not n)
    return f"{summary}{': ' + some if some else ''}.{f' None of {none}.' if none else ''}"
