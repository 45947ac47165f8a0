"""What is kept of the claim's cells, and the tables and figures made of it.

    stamina-lite reproduce claim50 --out runs/claim50
    stamina-lite reproduce claim10 --out runs/claim10 --workers 2
    stamina-lite reproduce classes --out runs/classes --workers 2
    python benchmarks/claim.py runs/claim50 runs/claim10 runs/classes

A folder of runs has its grid's name. Of every cell run.json, results.json and its seal are stored in results/; of
concepts, the first seed in the set's own order, a few pictures of an early, a middle and a late person and waterfall.
Then every table between `<!-- NAME -->` and `<!-- end -->` in DOCUMENTS is written anew. Without runs, tables and
figures are made anew from what is stored.
"""

import argparse
import re
import shutil
from pathlib import Path

import class_heads
import matplotlib.pyplot as plt
import step_tables
from PIL import Image

from stamina_lite import concepts, plots
from stamina_lite.diffusion.concepts import learned_from
from stamina_lite.reproduction import claims, class_claims, figures, studies
from stamina_lite.reproduction.grids import CHECKSUM_FILE
from stamina_lite.reproduction.results import StoredRun, read_runs, rows_of

ROOT = Path(__file__).parents[1]
RESULTS, GRIDS = ROOT / "results", ROOT / "notebooks" / "params"
LARGE, SMALL, CLASSES = "claim50", "claim10", "classes"
DOCUMENTS = ("README.md", "REPRODUCIBILITY.md", "results/README.md", "results/TABLES.md")
SHOWN = ("ti++", "lora", "c-lora", "stamina")
LAMBDAS = ("c-lora-weak", "c-lora-strong")  # C-LoRA with a tenth and ten times its λ
SHOWN_CLASSES = ("ub", "ft", "ewc", "coda-p", "lora", "c-lora", "inflora", "sd-lora", "stamina", "ncm")
KEPT = {LARGE: 4, SMALL: 2, CLASSES: 0}  # pictures of a concept and stage, of those that come from the same noise


def store(cell: Path, to: Path, kept: int) -> None:
    """Copy what tables and figures are made of: numbers whole, pictures a few and packed."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in ("run.json", "results.json", CHECKSUM_FILE):
        if (cell / name).exists():
            shutil.copy(cell / name, to / name)
    if not cell.name.endswith(".alternate.0") or not (cell / "results.json").exists():
        return
    for name in figures.early_middle_late(plots.load_results(cell)["tasks"]):
        for concept in cell.glob(f"images/after-*/{name}"):
            folder = to / concept.relative_to(cell)
            folder.mkdir(parents=True)
            for k in range(kept):
                Image.open(concept / f"{k:02d}.png").quantize(128).save(folder / f"{k:02d}.png", optimize=True)


def fill(file: Path, blocks: dict[str, str]) -> None:
    """Put the tables between their marks."""
    text = file.read_text(encoding="utf-8")
    for name, block in blocks.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, b=block: f"{m[1]}{b}\n{m[2]}", text, flags=re.S
        )
    file.write_text(text, encoding="utf-8")


def save(figure: plt.Figure, file: Path, dpi: int = 110) -> None:
    figure.savefig(file, dpi=dpi)
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)
    print(file)


def by_row(found: list[StoredRun], rows: tuple[str, ...]) -> list[dict]:
    """Results of some rows, told by the row's name: two rows may be one method with other settings."""
    return [{**f.results, "method": f.run.row} for f in found if f.results and f.run.row in rows]


def figures_of_claim(found: list[StoredRun], home: Path) -> None:
    for draw in (plots.plasticity, plots.forgetting, plots.accuracy):
        save(draw(by_row(found, SHOWN)), home / f"{draw.__name__}.png")
    save(plots.weight_change(by_row(found, (*SHOWN, *LAMBDAS))), home / "weight_change.png")
    there, real = rows_of(found), concepts("mini50")
    gaining = [row for row in ("lora-alone", "lora", "c-lora", "stamina") if row in there]
    save(figures.gain_by_task(found, gaining), home / "gain.png")
    save(figures.plane(found), home / "plane.png")
    save(figures.masks(found), home / "masks.png")
    for f in found:
        if f.results and f.run.name.endswith(".alternate.0"):
            names = figures.early_middle_late(f.results["tasks"])
            stages = ("learned", "final") if f.results["plasticity"][0] is not None else ("final",)  # joint methods
            sheet = plots.run_sheet(home / f.run.name, names, stages, KEPT[LARGE], learned_from(real, KEPT[LARGE]))
            save(sheet, home / f"sheet-{f.run.row}.png", 80)


def figures_of_classes(found: list[StoredRun], home: Path) -> None:
    """A_N of every row, and after every one of ten tasks."""
    drawn = class_claims.draw(found)
    numbers = {row: {n: drawn.number(row, n, "a_n") for n in drawn.lengths} for row in rows_of(found)}
    there = {row: {n: number for n, number in of_row.items() if number} for row, of_row in numbers.items()}
    save(plots.ranking({row: of_row for row, of_row in there.items() if of_row}), home / "ranking.png")
    ten = [f for f in found if f.run.variant == 10]
    save(plots.accuracy_curves(by_row(ten, SHOWN_CLASSES)), home / "accuracy_curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="*", help="folders of `stamina-lite reproduce`, named as their grid")
    args = parser.parse_args()
    for runs in args.runs:
        if runs.name not in KEPT:
            parser.error(f"{runs} is named after no grid: expected {', '.join(KEPT)}")
        for seal in sorted(runs.glob(f"*/{CHECKSUM_FILE}")):
            store(seal.parent, RESULTS / runs.name / seal.parent.name, KEPT[runs.name])
    found = {name: read_runs(RESULTS / name, GRIDS / f"{name}.yaml") for name in KEPT}
    blocks = claims.documents(RESULTS, GRIDS) | studies.blocks(RESULTS) | class_claims.blocks(RESULTS, GRIDS)
    blocks |= step_tables.blocks(RESULTS) | class_heads.blocks(RESULTS)
    for name in DOCUMENTS:
        fill(ROOT / name, blocks)
    print(*blocks.values(), sep="\n\n")
    figures_of_claim(found[LARGE], RESULTS / LARGE)
    figures_of_classes(found[CLASSES], RESULTS / CLASSES)
    every = figures.side_by_side(found[SMALL], RESULTS / SMALL, KEPT[SMALL], learned_from(concepts("mini10"), 2))
    save(every, RESULTS / SMALL / "gallery.png", 50)


if __name__ == "__main__":
    main()
