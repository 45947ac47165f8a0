"""Tables of the studies: what a long past costs a model, what of a task its mask keeps, how fast it learns.

They read what benchmarks/after_fifty.py, mask_search.py, learning_speed.py, own_steps.py and pairs.py have stored.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..core.settings import renamed
from ..measures.intervals import Number, mean_of_pairs, number
from ..plots.style import colour
from ..runs.files import read_json
from .tables import shown, table

PLAIN = "no mask"  # the variant that the others are compared with
FEW = "\n\nThese intervals are over five concepts: a bootstrap of so few values is not reliable."


def long_past_table(report: dict) -> str:
    """tune5's concepts, each just learned: by a fresh model, and by one that has learned fifty others.

    MMD² (lower is better), how often they are recognised among fifty-five where that was measured, and the mean ‖ΔW_t‖.
    """
    head = ["row, and what was changed", "MMD², fresh", "after fifty", "worse by"]
    head += ["recognised %, fresh", "after fifty", "less by, points", "step, fresh", "after fifty"]
    done = {name: runs for name, runs in report["rows"].items() if {*runs} == {"early", "late"}}
    lines = []
    for name, runs in (done | of_several_seeds(done)).items():
        numbers = []
        for key, sign, form in (("learned", 1, (2, 1)), ("recognised", -1, (0, 100))):
            early, late = (runs[when].get(key, []) for when in ("early", "late"))
            gap = [sign * (b - a) for a, b in zip(early, late, strict=True)]
            numbers += [shown(mean(values), *form) for values in (early, late, gap)]
        steps = [sum(runs[when]["step_change"]) / len(runs[when]["step_change"]) for when in ("early", "late")]
        lines.append([name, *numbers, *(f"{s:.2f}" for s in steps)])
    return table(head, lines)


def of_several_seeds(rows: dict) -> dict:
    """Rows ROW.SEED and what was changed, of which there are several seeds: the mean of each concept over them."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in rows:
        row, _, change = name.partition(" ")
        groups.setdefault((row.rpartition(".")[0], change), []).append(name)
    means = {}
    for (row, change), names in groups.items():
        if len(names) < 2:
            continue
        seeds = "+".join(name.partition(" ")[0].rpartition(".")[2] for name in names)
        merged: dict[str, dict] = {"early": {}, "late": {}}
        for when, values in merged.items():
            for key in ("learned", "recognised", "step_change"):
                if all(key in rows[name][when] for name in names):
                    by_concept = zip(*(rows[name][when][key] for name in names), strict=True)
                    values[key] = [sum(each) / len(each) for each in by_concept]
        means[f"{row}.{seeds} {change}".strip()] = merged
    return means


def mask_shares(report: dict) -> dict[str, tuple[Number, float]]:
    """What a variant learned, in parts of a change without mask, and the share of weights its folded masks leave open.

    Learned is how far the denoising loss on a concept's own pictures falls when its weights are folded.
    """
    plain = report["rows"][PLAIN]
    found = {}
    for name, rows in report["rows"].items():
        falls = {k: [r[k]["base weights"] - r[k]["folded"] for r in (rows, plain)] for k in rows}
        open_ = [row["density"] for row in rows.values() if row["density"] is not None]
        if share := mean([mine / full for mine, full in falls.values()]):
            found[name] = (share, sum(open_) / len(open_) if open_ else 1.0)
    return found


def mask_figure(report: dict) -> Figure:
    """`mask_shares` as points with their intervals, a line a variant."""
    found = mask_shares(report)
    figure, axis = plt.subplots(figsize=(6.4, 0.32 * len(found) + 0.8), layout="constrained")
    for y, (share, density) in enumerate(found.values()):
        arms = [[max(0.0, share.mean - share.low)], [max(0.0, share.high - share.mean)]]
        axis.errorbar(share.mean, -y, xerr=arms, marker="o", markersize=4, color=colour("stamina"))
        place = ("axes fraction", "data")
        axis.annotate(f"{100 * density:.0f} % open", (1.02, -y), xycoords=place, fontsize=8, va="center")
    axis.set_yticks([-y for y in range(len(found))], [*found])
    axis.axvline(1, color="#777777", linewidth=0.8)
    axis.set(xlabel="Learned (fall of the loss), in parts of a change without mask", xlim=(0, None))
    return figure


def mask_table(report: dict) -> str:
    lines = [[name, shown(share), f"{100 * density:.0f}"] for name, (share, density) in mask_shares(report).items()]
    return table(["mask", "learned, in parts of a change without mask", "open, %"], lines)


def steps_to(share: float, looks: list[int], values: list[float]) -> float:
    """The step at which `share` of the whole fall of `values`, seen at the steps `looks`, is done for the first time.

    Between two looks on a straight line; the last look where it never is.
    """
    goal = values[0] + share * (values[-1] - values[0])
    for k in range(1, len(values)):
        if (values[k] - goal) * (values[-1] - values[0]) >= 0:
            part = (goal - values[k - 1]) / (values[k] - values[k - 1])
            return looks[k - 1] + part * (looks[k] - looks[k - 1])
    return float(looks[-1])


def steps_needed(report: dict, row: str, late: bool) -> dict[str, float]:
    """Steps to 90 % of the final likeness, by seed and task, where any was gained; late: tasks of the second half."""
    runs = [(row_, seed, run) for row_, seeds in report["rows"].items() for seed, run in seeds.items()]
    half = max((int(task) for _, _, run in runs for task in run), default=0) / 2
    return {
        f"{seed}/{task}": steps_to(0.9, report["looks"], values)
        for row_, seed, run in runs
        for task, values in run.items()
        if row_ == row and (int(task) > half) == late and values[-1] < values[0]
    }


def fewer_steps(report: dict, row: str, other: str, late: bool) -> Number | None:
    """How many steps more a row needs than another, over the tasks in which both gained likeness."""
    mine, theirs = steps_needed(report, row, late), steps_needed(report, other, late)
    return number({name: mine[name] - theirs[name] for name in mine if name in theirs})


def speed_table(report: dict) -> str:
    """Steps to 90 % of the final likeness of tasks that were learned again, then one row less another."""
    lines = []
    for row, seeds in report["rows"].items():
        gained = [steps_needed(report, row, late) for late in (False, True)]
        every = sum(len(run) for run in seeds.values())
        lines.append([row, f"{sum(map(len, gained))} of {every}", *(shown(number(steps), 0) for steps in gained)])
    if {"stamina", "c-lora"} <= set(report["rows"]):
        less = [fewer_steps(report, "stamina", "c-lora", late) for late in (False, True)]
        lines.append(["stamina less c-lora", "", *(shown(n, 0) for n in less)])
    return table(["row", "tasks that gained likeness", "steps, early tasks", "steps, late tasks"], lines)


def own_steps_table(report: dict, protocol: str = "60") -> str:
    """Rows of the claim on tune5 with other numbers of steps, concept by concept against the protocol's steps."""
    head = ["row", "steps", "MMD² just learned", "A_mmd", f"A_mmd less that of {protocol} steps"]
    lines = []
    for row, runs in report["rows"].items():
        known = {steps: by_seed_and_concept(seeds, "a_mmd_each") for steps, seeds in runs.items()}
        for steps, final in known.items():
            shared = [key for key in final if key in known.get(protocol, {})]
            less = mean_of_pairs((name, final[seed, name] - known[protocol][seed, name]) for seed, name in shared)
            new = mean_of_pairs((n, v) for (_, n), v in by_seed_and_concept(runs[steps], "plasticity").items())
            end = mean_of_pairs((n, v) for (_, n), v in final.items())
            lines.append([row, steps, *(shown(number(v)) for v in (new, end, less if steps != protocol else {}))])
    return table(head, lines)


def by_seed_and_concept(seeds: dict, key: str) -> dict[tuple[str, str], float]:
    """(seed, concept) -> value, of runs stored seed by seed."""
    return {
        (seed, name): value
        for seed, run in seeds.items()
        for name, value in zip(run["tasks"], run[key], strict=True)
        if value is not None
    }


def tuning_table(trials: dict[str, dict], measure: str = "a_mmd", digits: int = 2) -> str:
    """Every trial of a method's settings, what differed and its measure, and which were chosen."""

    def told(options: dict) -> str:
        return ", ".join(f"{key} {value:g}" for key, value in renamed(options).items())

    lines = []
    for name, found in trials.items():
        seen = {told(trial["options"]): f"{trial[measure]:.{digits}f}" for trial in found["trials"]}
        lines.append([name, "; ".join(f"{o} → {a}" for o, a in seen.items()), told(found["chosen"])])
    name = {"a_mmd": "A_mmd", "a_n": "A_N"}[measure]
    return table(["method", f"trials: what differed → {name}", "chosen"], lines)


def together_table(report: dict) -> str:
    """Two concepts in one picture: how often both, or at least one, are nearest to their part, and how many are nearer.

    `composition.detect` says what is measured; intervals are over pairs.
    """
    lines = []
    for row, kinds in report["rows"].items():
        for kind, found in kinds.items():
            nearer = Number(found["nearer"], *found["nearer_interval"])
            lines.append([row, kind, f"{100 * found['both']:.0f}", f"{100 * found['one']:.0f}", shown(nearer)])
    return table(
        ["row", "pictures of", "both there, %", "one or both, %", "other concepts that are nearer, share"], lines
    )


def blocks(results: Path) -> dict[str, str]:
    """The tables of the studies that a folder of results holds, by the name under which documents show them."""
    stored = {
        "past": (long_past_table, "after_fifty.json"),
        "search": (mask_table, "mask_search.json"),
        "speed": (speed_table, "learning_speed.json"),
        "steps": (own_steps_table, "own_steps.json"),
        "together": (together_table, "pairs/pairs.json"),
    }
    tuned = {file.stem: read_json(file) for file in sorted((results / "tuning").glob("*.json"))}
    found = {"tuning": tuning_table(tuned)} if tuned else {}
    for name, (make, file) in stored.items():
        if (results / file).exists():
            found[name] = make(read_json(results / file)) + (FEW if name in ("past", "search", "steps") else "")
    return found


def mean(values: list[float]) -> Number | None:
    """A number over concepts; None without values."""
    return number({str(k): v for k, v in enumerate(values)})
