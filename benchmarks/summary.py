"""Table and figures of a long sequence from the stored results of its methods, written beside them.

    python benchmarks/summary.py results/mini50

Writes table.md (95 % bootstrap intervals over concepts; "first" and "last" are means over the first and the last fifth
of the sequence; below it, concept by concept, the differences from the first method named and between the last two),
weight_change.png, plasticity.png, forgetting.png, accuracy.png, and a sheet of early, middle and late concepts of every
method.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from stamina_lite import metrics, plots

HEAD = "| method | A_mmd | F_mmd | accuracy % | when learned % | MMD² when learned, first → last | ‖ΔW‖ first → last |"


def spread(values: list[float], digits: int, scale: float = 1.0) -> str:
    """mean [low, high]"""
    low, high = metrics.mean_interval(values)
    mean = sum(values) / len(values)
    return f"{scale * mean:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def ends(values: list[float]) -> tuple[float, float]:
    """Means of the first and of the last fifth."""
    fifth = max(1, len(values) // 5)
    return sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth


def final(r: dict) -> list[float]:
    """MMD² of every concept to its real pictures after the last task."""
    return list(r["mmd"][str(len(r["tasks"]))].values())


def row(r: dict) -> str:
    cells = [spread(final(r), 2), spread(r["f_mmd_each"], 2)]
    cells += [spread(r[key], 0, 100) for key in ("concept_accuracy_each", "concept_accuracy_when_learned_each")]
    cells += [f"{a:.2f} → {b:.2f}" for a, b in (ends(r["plasticity"]), ends(r["step_change"]))]
    return f"| {r['method']} | " + " | ".join(cells) + " |"


def difference(a: dict, b: dict) -> list[str]:
    """b less a, concept by concept, in every measure that has one value a concept."""
    fifth = max(1, len(a["tasks"]) // 5)

    def gap(x, y):
        return [v - u for u, v in zip(x, y, strict=True)]

    learned = "concept_accuracy_when_learned_each"
    lines = [
        f"A_mmd {spread(gap(final(a), final(b)), 2)}",
        f"F_mmd {spread(gap(a['f_mmd_each'], b['f_mmd_each']), 2)}",
        f"accuracy {spread(gap(a['concept_accuracy_each'], b['concept_accuracy_each']), 0, 100)} points",
        f"accuracy when learned {spread(gap(a[learned], b[learned]), 0, 100)} points",
        f"MMD² when learned, first fifth {spread(gap(a['plasticity'], b['plasticity'])[:fifth], 2)}",
        f"MMD² when learned, last fifth {spread(gap(a['plasticity'], b['plasticity'])[-fifth:], 2)}",
        f"accuracy when learned, first fifth {spread(gap(a[learned], b[learned])[:fifth], 0, 100)} points",
        f"accuracy when learned, last fifth {spread(gap(a[learned], b[learned])[-fifth:], 0, 100)} points",
    ]
    return [f"{b['method']} less {a['method']}: {line}" for line in lines]


def sheets(home: Path, r: dict) -> None:
    """An early, a middle and a late person and waterfall: when just learned, and drawn by the final model."""
    tasks = r["tasks"]
    middle = len(tasks) // 2
    names = dict.fromkeys([*tasks[:2], *tasks[middle : middle + 2], *tasks[-2:]])
    save(plots.run_sheet(home / r["method"], names, columns=4), home / f"sheet-{r['method']}.png", 80)


def save(figure: plt.Figure, file: Path, dpi: int = 110) -> None:
    figure.savefig(file, dpi=dpi)
    plt.close(figure)
    print(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="a folder with what is stored of a run, one folder a method")
    parser.add_argument("--methods", nargs="+", default=["ti++", "lora", "c-lora", "stamina"])
    args = parser.parse_args()
    shown = [plots.load_results(args.results / m) for m in args.methods]
    lines = [HEAD, "|---" * HEAD.count(" |") + "|", *map(row, shown)]
    pairs = [(shown[0], r) for r in shown[1:]] + ([(shown[-2], shown[-1])] if len(shown) > 2 else [])
    for a, b in pairs:
        lines += ["", *(f"- {line}" for line in difference(a, b))]
    table = args.results / "table.md"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, table, sep="\n")
    for draw in (plots.weight_change, plots.plasticity, plots.forgetting, plots.accuracy):
        save(draw(shown), args.results / f"{draw.__name__}.png")
    for r in shown:
        sheets(args.results, r)


if __name__ == "__main__":
    main()
