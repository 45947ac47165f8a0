"""Tables and claims of the stored runs of the classification half, for README and REPRODUCIBILITY.md.

Intervals are 95 % percentile bootstraps over runs and over classes: the runs of a row are resampled, and their classes,
the same ones in all runs. Rows are compared between runs of the same seed, in the same resamples. The interval of a
single run covers the variation of classes only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..measures.intervals import Number
from .claims import missing, verdict
from .grids import load_grid
from .results import StoredRun, of_row, read_runs, rows_of
from .tables import shown, table

RESAMPLES = 1000
C_LORA, STAMINA, CODA = "c-lora", "stamina", "coda-p"
NAMES = {"a_n": "A_N", "f_n": "F_N"}
# rows of the README's table
BRIEF = tuple("ub ft ewc coda-p lora c-lora stamina stamina-no-mask ncm c-lora-means stamina-means".split())


@dataclass(frozen=True)
class Bootstrap:
    """Runs, and the MEASURES of each in every resample: (row, tasks, seed) -> name -> (1 + RESAMPLES,)."""

    found: list[StoredRun]
    measures: dict[tuple[str, int, int], dict[str, Tensor | None]]

    @property
    def lengths(self) -> list[int]:
        """Numbers of tasks of the runs, ascending."""
        return sorted({tasks for _, tasks, _ in self.measures})

    def values(self, row: str, tasks: int, measure: str) -> dict[int, Tensor]:
        """seed -> the measure in every resample, of a row's runs with this number of tasks."""
        runs = {seed: m[measure] for (name, n, seed), m in self.measures.items() if (name, n) == (row, tasks)}
        return {seed: values for seed, values in runs.items() if values is not None}

    def number(self, row: str, tasks: int, measure: str) -> Number | None:
        return number(self.values(row, tasks, measure))

    def difference(self, row: str, other: str, tasks: int, measure: str) -> Number | None:
        """row minus other, between runs of the same seed; None if no seed is in both."""
        a, b = (self.values(name, tasks, measure) for name in (row, other))
        return number({seed: a[seed] - b[seed] for seed in a if seed in b})


def bootstrap(found: list[StoredRun]) -> Bootstrap:
    """Resample the classes, the same ones in all runs."""
    measures = {}
    for f in found:
        if f.results:
            R, key = accuracies(f.results), (f.run.row, int(f.run.variant), f.run.seed)
            measures[key] = {name: measure(R) for name, measure in MEASURES.items()}
    return Bootstrap(found, measures)


def accuracies(results: dict) -> Tensor:
    """R[d, t, i], accuracy in percent on task i after task t, in resample d of the classes: (1 + RESAMPLES, T, N).

    The first resample has every class once. Entries above the diagonal are nan, and tasks without a resampled class;
    T is 1 for a joint method.
    """
    tasks, right = results["tasks"], results["right"]
    if len(right) not in (1, len(tasks)):
        raise UserError(f"{results['method']} has results of {len(right)} of {len(tasks)} tasks: resume its run")
    order = torch.tensor(sum(tasks, []))  # the classes as this run learned them
    n = len(order)
    weights = torch.ones(1 + RESAMPLES, n, dtype=torch.float64)
    picks = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(0))
    weights[1:] = torch.zeros(RESAMPLES, n, dtype=torch.float64).scatter_add_(1, picks, weights[1:])
    sizes = [len(task) for task in tasks]
    of_task = weights[:, order].split(sizes, dim=1)  # N tensors (d, classes of the task)
    counts = torch.full((len(right), n), torch.nan, dtype=torch.float64)
    for t, row in enumerate(right):
        counts[t, : len(row)] = torch.tensor(row, dtype=torch.float64)
    totals = torch.tensor(results["asked"], dtype=torch.float64).split(sizes)
    parts = zip(of_task, counts.split(sizes, dim=1), totals, strict=True)
    return torch.stack([100 * (w @ right.T) / (w @ asked)[:, None] for w, right, asked in parts], dim=2)


def a_n(R: Tensor) -> Tensor:
    """`final_mean` of every resample."""
    return R[:, -1].nanmean(1)


def f_n(R: Tensor) -> Tensor | None:
    """`forgetting_coda` of every resample; None for a single task."""
    if R.shape[1] < 2:
        return None
    return (R[:, :-1] - R[:, 1:]).nanmean(2).nanmean(1)


def learned(R: Tensor) -> Tensor | None:
    """Mean accuracy of tasks just after they were learned; None for a joint method."""
    return R.diagonal(dim1=1, dim2=2).nanmean(1) if R.shape[1] > 1 else None


MEASURES = {"a_n": a_n, "f_n": f_n, "learned": learned}


def number(runs: dict[int, Tensor]) -> Number | None:
    """Mean over runs, and its interval over runs and classes; None without runs."""
    if not runs:
        return None
    values = torch.stack([runs[seed] for seed in sorted(runs)])  # (runs, 1 + RESAMPLES)
    picks = torch.randint(len(values), (len(values), RESAMPLES), generator=torch.Generator().manual_seed(1))
    means = values[:, 1:].gather(0, picks).mean(0)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Number(values[:, 0].mean().item(), low, high)


def main_table(samples: Bootstrap, only: tuple[str, ...] = (), measures: tuple[str, ...] = ("a_n", "f_n")) -> str:
    """A_N and F_N of every row, or only of some, for every number of tasks."""
    lengths = samples.lengths
    head = ["method", "runs", *(f"{NAMES[measure]}, {n} tasks" for measure in measures for n in lengths)]
    lines = []
    for row in rows_of(samples.found):
        if only and row not in only:
            continue
        runs = " + ".join(str(sum(f.run.variant == n for f in of_row(samples.found, row))) for n in lengths)
        numbers = [samples.number(row, n, measure) for measure in measures for n in lengths]
        lines.append([row, runs, *(shown(v, 1) for v in numbers)])
    return table(head, lines)


def detail_table(samples: Bootstrap, tasks: int) -> str:
    """Accuracy when just learned, other measures of the same runs, masks and costs of every row."""
    head = ["method", "just learned", "running A", "F_N Chaudhry", "trained %", "stored %", "minutes"]
    head += ["open %", "overlap", "by chance"]
    lines = []
    for row in rows_of(samples.found):
        results = [f.results for f in of_row(samples.found, row) if f.run.variant == tasks]
        if not results:
            continue
        values = [shown(samples.number(row, tasks, "learned"), 1)]
        for key in ("a_n_running", "f_n_chaudhry"):
            each = [r[key] for r in results if r[key] is not None]
            values.append(f"{sum(each) / len(each):.1f}" if each else "–")
        cost = results[0]["n_param"]
        minutes = sum(sum(r["seconds"]) for r in results) / len(results) / 60
        values += [f"{cost['train']:.3g}", f"{cost['store']:.3g}", f"{minutes:.1f}"]
        opened = [100 * share for r in results for share in r["mask_density"] if share is not None]
        shared = [pair for r in results for pair in r["mask_overlap"] if pair]
        values.append(f"{sum(opened) / len(opened):.0f}" if opened else "–")
        values += [
            f"{sum(p[key] for p in shared) / len(shared):.2f}" if shared else "–" for key in ("overlap", "chance")
        ]
        lines.append([row, *values])
    return table(head, lines)


PAIRS = [(C_LORA, CODA), (STAMINA, C_LORA), (STAMINA, CODA), (C_LORA, "lora"), (CODA, "ncm"), (C_LORA, "ncm")]
PAIRS += [("ub", "ncm"), ("lora-scaled", "ncm"), ("ewc", "ncm")]
PAIRS += [(STAMINA, "ncm"), (STAMINA, "stamina-no-mask"), (STAMINA, "stamina-random-mask")]
PAIRS += [("stamina-no-mask", "coda-p-slow-head"), ("stamina-no-mask", C_LORA), ("coda-p-slow-head", CODA)]
PAIRS += [(f"{name}-means", name) for name in (C_LORA, STAMINA)] + [
    (f"{name}-means", "ncm") for name in (C_LORA, STAMINA)
]
PAIRS += [(f"{STAMINA}-means", f"{C_LORA}-means"), ("ub", f"{STAMINA}-means")]


def pair_table(samples: Bootstrap, pairs: Sequence[tuple[str, str]] = PAIRS) -> str:
    """Differences of pairs of rows: A_N in points (positive favours the first) and F_N (negative favours the first)."""
    lengths = samples.lengths
    head = ["", *(f"A_N, {n} tasks" for n in lengths), *(f"F_N, {n} tasks" for n in lengths)]
    lines = []
    for row, other in pairs:
        gaps = [samples.difference(row, other, n, measure) for measure in ("a_n", "f_n") for n in lengths]
        if any(gaps):
            lines.append([f"{row} minus {other}", *(shown(gap, 1) for gap in gaps)])
    return table(head, lines)


HeadSamples = dict[tuple[str, int, str], dict[int, Tensor]]  # (row, tasks, head) -> seed -> A_N in every resample


def by_head(found: list[StoredRun]) -> HeadSamples:
    """A_N of all runs that were tested with several heads."""
    samples: HeadSamples = {}
    for f in found:
        for head, measured in f.results.get("heads", {}).items() if f.results else ():
            R = accuracies({**f.results, **measured})
            samples.setdefault((f.run.row, int(f.run.variant), head), {})[f.run.seed] = a_n(R)
    return samples


def head_numbers(samples: HeadSamples, tasks: int) -> dict[str, dict[str, Number]]:
    """{row: {head: A_N}} of the runs with this number of tasks."""
    numbers: dict[str, dict[str, Number]] = {}
    for (row, n, head), runs in samples.items():
        if n == tasks and (value := number(runs)):
            numbers.setdefault(row, {})[head] = value
    return numbers


def heads_table(samples: HeadSamples) -> str:
    """A_N of every row with each head, for every number of tasks; "" without heads."""
    if not samples:
        return ""
    heads = list(dict.fromkeys(head for _, _, head in samples))
    lines = []
    for tasks in sorted({n for _, n, _ in samples}):
        for row, numbers in head_numbers(samples, tasks).items():
            runs = max(len(of) for (name, n, _), of in samples.items() if (name, n) == (row, tasks))
            lines.append([row, str(tasks), str(runs), *(shown(numbers.get(head), 1) for head in heads)])
    return table(["method", "tasks", "runs", *(f"A_N, {head}" for head in heads)], lines)


HEAD_PAIRS = (  # rows compared with one head; what the difference says if it is above zero
    (STAMINA, C_LORA, "the mask helps"),  # with the same rates it is all that differs: a classifier has no tokens
    (STAMINA, "ncm", "learning helps"),
    (C_LORA, "ncm", "learning helps"),
    ("ub", STAMINA, "joint training is ahead"),
    ("ub", C_LORA, "joint training is ahead"),
    *((f"{STAMINA}@{x}", f"{C_LORA}@{x}", "the mask helps") for x in (1, 10, 1000)),
)


def head_pairs_table(samples: HeadSamples) -> str:
    """Differences of A_N between rows with the same head and seed, in points, with the verdict on "above zero"."""
    heads = list(dict.fromkeys(head for _, _, head in samples))
    lines = []
    for row, other, claim in HEAD_PAIRS:
        for tasks in sorted({n for _, n, _ in samples}):
            gaps = []
            for head in heads:
                a, b = (samples.get((name, tasks, head), {}) for name in (row, other))
                gaps.append(number({seed: a[seed] - b[seed] for seed in a if seed in b}))
            if any(gaps):
                said = [f"{shown(gap, 1)} {verdict(gap, 'above')}" if gap else "–" for gap in gaps]
                lines.append([f"{row} minus {other}", claim, str(tasks), *said])
    return table(["A_N, points", "claim", "tasks", *heads], lines)


CLAIMS = (  # claim; rows compared; measure; side of zero on which the difference of the two should lie
    ("C-LoRA knows more at the end than CODA-P", C_LORA, CODA, "a_n", "above"),
    ("STAMINA knows more at the end than C-LoRA", STAMINA, C_LORA, "a_n", "above"),
    ("STAMINA forgets less than C-LoRA", STAMINA, C_LORA, "f_n", "below"),
    ("STAMINA's mask helps", STAMINA, "stamina-no-mask", "a_n", "above"),
    ("learning the mask helps", STAMINA, "stamina-random-mask", "a_n", "above"),
    ("STAMINA knows more than a frozen model's nearest class mean", STAMINA, "ncm", "a_n", "above"),
)


def claims_table(samples: Bootstrap) -> str:
    """The paper's claims: difference, interval and the verdict of `claims.verdict`, for every number of tasks."""
    lengths = samples.lengths
    head = ["claim", "what is measured", *(word for n in lengths for word in (f"{n} tasks", "verdict"))]
    lines = []
    for claim, row, other, measure, side in CLAIMS:
        gaps = [samples.difference(row, other, n, measure) for n in lengths]
        if any(gaps):
            results = [text for gap in gaps for text in (shown(gap, 1), verdict(gap, side))]
            lines.append([claim, f"{NAMES[measure]} of {row} minus {other}", *results])
    return table(head, lines)


def blocks(results: Path, grids: Path) -> dict[str, str]:
    """Every table by its name in the documents; empty without stored runs."""
    grid = grids / "classes.yaml"
    found = read_runs(results / "classes", grid) if grid.exists() else []
    if not found:
        return {}
    samples = bootstrap(found)
    return {
        "classes": main_table(samples),
        "classes_brief": main_table(samples, BRIEF, ("a_n",)),
        "classes_detail": detail_table(samples, 10 if 10 in samples.lengths else samples.lengths[-1]),
        "classes_pairs": pair_table(samples),
        "classes_claims": claims_table(samples),
        "classes_missing": missing(found, load_grid(grid)),
    }
