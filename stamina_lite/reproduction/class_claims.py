"""What the stored runs of the classification half say: its tables in README and REPRODUCIBILITY.md.

Intervals are 95 % percentile bootstraps over runs and over classes: a row's runs are drawn anew, and in all of them the
same classes are. Rows are compared run by run of the same seed, in the same draws. With one run an interval knows its
classes only.
"""

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

DRAWS = 1000
C_LORA, STAMINA, CODA = "c-lora", "stamina", "coda-p"
NAMES = {"a_n": "A_N", "f_n": "F_N"}
# rows of the README's table
BRIEF = tuple("ub ft ewc coda-p lora c-lora stamina stamina-no-mask ncm c-lora-means stamina-means".split())


@dataclass(frozen=True)
class Drawn:
    """Runs, and of each the measures of MEASURES in every draw: (row, tasks, seed) -> name -> (1 + DRAWS,)."""

    found: list[StoredRun]
    measures: dict[tuple[str, int, int], dict[str, Tensor | None]]

    @property
    def lengths(self) -> list[int]:
        """Numbers of tasks that there are runs of."""
        return sorted({tasks for _, tasks, _ in self.measures})

    def values(self, row: str, tasks: int, measure: str) -> dict[int, Tensor]:
        """seed -> the measure in every draw, of a row's runs with so many tasks."""
        runs = {seed: m[measure] for (name, n, seed), m in self.measures.items() if (name, n) == (row, tasks)}
        return {seed: drawn for seed, drawn in runs.items() if drawn is not None}

    def number(self, row: str, tasks: int, measure: str) -> Number | None:
        return number(self.values(row, tasks, measure))

    def less(self, row: str, other: str, tasks: int, measure: str) -> Number | None:
        """row less other, run by run of the same seed; None where they share none."""
        mine, theirs = (self.values(name, tasks, measure) for name in (row, other))
        return number({seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs})


def draw(found: list[StoredRun]) -> Drawn:
    """Resampled classes, the same in all runs."""
    measures = {}
    for f in found:
        if f.results:
            R, key = accuracies(f.results), (f.run.row, int(f.run.variant), f.run.seed)
            measures[key] = {name: measure(R) for name, measure in MEASURES.items()}
    return Drawn(found, measures)


def accuracies(results: dict) -> Tensor:
    """R[d, t, i], percent on task i after task t, for draw d of the classes: (1 + DRAWS, T, N); the first is as it was.

    A task of which no class was drawn is nan, as what is above the diagonal; of a joint method T is 1.
    """
    tasks, right = torch.tensor(results["tasks"]), results["right"]
    if len(right) not in (1, len(tasks)):
        raise UserError(f"{results['method']} has results of {len(right)} of {len(tasks)} tasks: let its run end")
    n, each = tasks.shape
    weights = torch.ones(1 + DRAWS, n * each, dtype=torch.float64)
    picks = torch.randint(n * each, (DRAWS, n * each), generator=torch.Generator().manual_seed(0))
    weights[1:] = torch.zeros(DRAWS, n * each, dtype=torch.float64).scatter_add_(1, picks, weights[1:])
    weights = weights[:, tasks]  # labels, as this run's tasks have them: (d, n, each)
    known = torch.full((len(right), n * each), torch.nan, dtype=torch.float64)
    for t, row in enumerate(right):
        known[t, : len(row)] = torch.tensor(row, dtype=torch.float64)
    asked = torch.tensor(results["asked"], dtype=torch.float64).view(n, each)
    told = torch.einsum("dnk,tnk->dtn", weights, known.view(len(right), n, each))
    return 100 * told / torch.einsum("dnk,nk->dn", weights, asked)[:, None]


def a_n(R: Tensor) -> Tensor:
    """`final_mean` of every draw."""
    return R[:, -1].nanmean(1)


def f_n(R: Tensor) -> Tensor | None:
    """`forgetting_coda` of every draw; None where nothing came after anything."""
    if R.shape[1] < 2:
        return None
    return (R[:, :-1] - R[:, 1:]).nanmean(2).nanmean(1)


def learned(R: Tensor) -> Tensor | None:
    """Accuracy of tasks just learned, mean; None for all at once."""
    return R.diagonal(dim1=1, dim2=2).nanmean(1) if R.shape[1] > 1 else None


MEASURES = {"a_n": a_n, "f_n": f_n, "learned": learned}


def number(runs: dict[int, Tensor]) -> Number | None:
    """Mean over runs, and its interval over runs and classes; None without runs."""
    if not runs:
        return None
    drawn = torch.stack([runs[seed] for seed in sorted(runs)])  # (runs, 1 + DRAWS)
    picks = torch.randint(len(drawn), (len(drawn), DRAWS), generator=torch.Generator().manual_seed(1))
    means = drawn[:, 1:].gather(0, picks).mean(0)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Number(drawn[:, 0].mean().item(), low, high)


def main_table(drawn: Drawn, only: tuple[str, ...] = (), measures: tuple[str, ...] = ("a_n", "f_n")) -> str:
    """A_N and F_N of every row, or only of some, for every number of tasks."""
    ways = drawn.lengths
    head = ["method", "runs", *(f"{NAMES[measure]}, {n} tasks" for measure in measures for n in ways)]
    lines = []
    for row in rows_of(drawn.found):
        if only and row not in only:
            continue
        runs = " + ".join(str(sum(f.run.variant == n for f in of_row(drawn.found, row))) for n in ways)
        numbers = [drawn.number(row, n, measure) for measure in measures for n in ways]
        lines.append([row, runs, *(shown(v, 1) for v in numbers)])
    return table(head, lines)


def detail_table(drawn: Drawn, tasks: int) -> str:
    """Beside A_N: what was learned, other measures of the same runs, what the masks did, and what it costs."""
    head = ["method", "just learned", "running A", "F_N Chaudhry", "trained %", "stored %", "minutes"]
    head += ["open %", "overlap", "by chance"]
    lines = []
    for row in rows_of(drawn.found):
        results = [f.results for f in of_row(drawn.found, row) if f.run.variant == tasks]
        if not results:
            continue
        values = [shown(drawn.number(row, tasks, "learned"), 1)]
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


def pair_table(drawn: Drawn) -> str:
    """One row less another: points of A_N (positive is better for the first) and of F_N (negative is)."""
    ways = drawn.lengths
    head = ["", *(f"A_N, {n} tasks" for n in ways), *(f"F_N, {n} tasks" for n in ways)]
    lines = []
    for row, other in PAIRS:
        gaps = [drawn.less(row, other, n, measure) for measure in ("a_n", "f_n") for n in ways]
        if any(gaps):
            lines.append([f"{row} less {other}", *(shown(gap, 1) for gap in gaps)])
    return table(head, lines)


CLAIMS = (  # what is said; rows compared; by what; on which side of zero the first less the second should lie
    ("C-LoRA knows more at the end than CODA-P", C_LORA, CODA, "a_n", "above"),
    ("STAMINA knows more at the end than C-LoRA", STAMINA, C_LORA, "a_n", "above"),
    ("STAMINA forgets less than C-LoRA", STAMINA, C_LORA, "f_n", "below"),
    ("STAMINA's mask helps", STAMINA, "stamina-no-mask", "a_n", "above"),
    ("learning the mask helps", STAMINA, "stamina-random-mask", "a_n", "above"),
    ("STAMINA knows more than a frozen model's nearest class mean", STAMINA, "ncm", "a_n", "above"),
)


def claims_table(drawn: Drawn) -> str:
    """The paper's claims: difference, interval and the verdict of `claims.verdict`, for every number of tasks."""
    ways = drawn.lengths
    head = ["claim", "what is measured", *(word for n in ways for word in (f"{n} tasks", "verdict"))]
    lines = []
    for said, row, other, measure, side in CLAIMS:
        gaps = [drawn.less(row, other, n, measure) for n in ways]
        if any(gaps):
            told = [word for gap in gaps for word in (shown(gap, 1), verdict(gap, side))]
            lines.append([said, f"{NAMES[measure]} of {row} less {other}", *told])
    return table(head, lines)


def blocks(results: Path, grids: Path) -> dict[str, str]:
    """Every table, by the name under which documents show it; none of what is not stored."""
    grid = grids / "classes.yaml"
    found = read_runs(results / "classes", grid) if grid.exists() else []
    if not found:
        return {}
    drawn = draw(found)
    return {
        "classes": main_table(drawn),
        "classes_brief": main_table(drawn, BRIEF, ("a_n",)),
        "classes_detail": detail_table(drawn, 10 if 10 in drawn.lengths else drawn.lengths[-1]),
        "classes_pairs": pair_table(drawn),
        "classes_claims": claims_table(drawn),
        "classes_missing": missing(found, load_grid(grid)),
    }
