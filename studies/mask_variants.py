"""Is the reconstruction of STAMINA's mask at fault? Variants of it on a sequence of twenty tuning concepts.

    python studies/mask_variants.py --runs runs/mask_variants --out results/mask_variants.json

All have the rate, steps and strengths of `stamina@10` of the frontier. Resumable: a variant in --out, or whose folder
in --runs has results, is not run again. The figure is drawn next to --out.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stamina_lite import ContinualLearner, Evaluation, concepts, load_base, run_sequence
from stamina_lite.core.layers import AdaptedWeight
from stamina_lite.measures.features import features
from stamina_lite.measures.intervals import Number, number
from stamina_lite.methods.lora import Stamina, StaminaNoMask
from stamina_lite.reproduction.tables import shown, table
from stamina_lite.runs.files import read_json, write_json
from stamina_lite.runs.versions import versions

SET, PICTURES, LATE = "tune20", 16, 3
COMMON = {"steps": 60, "lr": 0.01, "lambda_forget": 10.0}
MASKED = {**COMMON, "lambda_sparse": 0.001}
COLOURS = ("#D55E00", "#000000", "#0072B2", "#009E73", "#CC79A7")  # of Okabe and Ito
AS_IS = "as it is"  # the variant that the others are compared with


class PenaltyApart(Stamina):
    """The mask gets no gradient from L_forget: the penalty makes updates smaller, and does not close masks."""

    def penalty(self, layer: AdaptedWeight) -> torch.Tensor:
        adapter, s = layer.adapter, self.settings
        update = adapter.A @ adapter.B * adapter.mask().detach()
        forget = (layer.past * update).square().sum()
        return s.lambda_sparse * adapter.mask.sparsity() + s.lambda_forget * forget


class SparseStart(Stamina):
    """Masks start with a share `start` of the weights open, instead of half."""

    start = 0.05

    def adapter(self, layer: AdaptedWeight, generator: torch.Generator):
        adapter = super().adapter(layer, generator)
        with torch.no_grad():
            on, off = adapter.mask.logits()
            b_off = adapter.mask.b2.chunk(2)[1]
            b_off += (on - off).flatten().quantile(1 - self.start)
        return adapter


VARIANTS = {
    AS_IS: Stamina(**MASKED),
    "no mask": StaminaNoMask(**COMMON),
    "penalty apart from the mask": PenaltyApart(**MASKED),
    "5 % open at first, rate 0.02": SparseStart(**{**MASKED, "lr": 0.02}),
    "free logits": Stamina(**MASKED, mask="free"),
}
MEASURES = {
    "plasticity": "plasticity",
    "a_mmd": "a_mmd_each",
    "f_mmd": "f_mmd_each",
    "accuracy": "concept_accuracy_each",
}


def learn(method: Stamina, run: Path) -> dict:
    """The variant's measures of every concept, norms of its updates and densities of its masks by task."""
    if not (run / "results.json").exists() or "a_mmd" not in read_json(run / "results.json"):
        found = concepts(SET)
        learner = ContinualLearner(load_base(), method.name, 0, run, {"variant": run.name}, **method.settings.as_dict())
        learner.method = method
        run_sequence(learner, found, Evaluation(found, features("lite0"), features("lite0", greyscale=True), PICTURES))
    results = read_json(run / "results.json")
    measures = {name: dict(zip(results["tasks"], results[key], strict=False)) for name, key in MEASURES.items()}
    return {**measures, "step_change": results["step_change"], "mask_density": results["mask_density"]}


def less(report: dict, name: str, measure: str, late: bool = False) -> Number | None:
    """A variant's measure less that of the mask as it is, concept by concept; late: the last third of the tasks."""
    ours, other = (report["rows"][row][measure] for row in (name, AS_IS))
    names = [*ours][len(ours) * (LATE - 1) // LATE :] if late else [*ours]
    return number({key: ours[key] - other[key] for key in names if ours[key] is not None})


def variants_table(report: dict) -> str:
    """Every variant less the mask as it is."""
    lines = []
    for name in report["rows"]:
        if name != AS_IS:
            gaps = [
                less(report, name, "plasticity", late=True),
                less(report, name, "f_mmd"),
                less(report, name, "a_mmd"),
            ]
            lines.append([name, *map(shown, gaps), shown(less(report, name, "accuracy"), 0, 100)])
    return table(["mask", "MMD² when learned, last third", "F_mmd", "A_mmd", "accuracy, points"], lines)


def variants_figure(report: dict) -> Figure:
    """Share of open weights and norm of the update, by task, a line a variant."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for (name, row), shade in zip(report["rows"].items(), COLOURS, strict=False):
        tasks = range(1, len(row["step_change"]) + 1)
        if row["mask_density"][0] is not None:
            left.plot(tasks, [100 * share for share in row["mask_density"]], color=shade, label=name)
        else:
            left.plot([], [], color=shade, label=name)
        right.plot(tasks, row["step_change"], color=shade)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="Task", ylabel="Open weights (%)", ylim=(0, None))
    right.set(xlabel="Task", ylabel="Norm of the update, ‖ΔW_t‖", yscale="log")
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--runs", type=Path, default=Path("runs/mask_variants"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    report = read_json(args.out) if args.out.exists() else {"rows": {}, **versions(torch.device("cpu"))}
    for name in args.variants:
        if name not in report["rows"]:
            report["rows"][name] = learn(VARIANTS[name], args.runs / name.replace(" ", "-").replace("%", "percent"))
            write_json(args.out, report)
    print(variants_table(report))
    variants_figure(report).savefig(args.out.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
