"""What is kept of a grid's cells, and the tables and figures made of it.

    stamina-lite reproduce claim50 --out runs/claim50
    python benchmarks/claim50.py runs/claim50 --out results/claim50

Of every cell run.json, results.json and its seal are stored; of the first seed in the set's own order a few pictures of
an early, a middle and a late person and waterfall. Then every table between `<!-- NAME -->` and `<!-- end -->` in
README.md, results/README.md and REPRODUCIBILITY.md is written anew. Without runs, tables and figures are made anew from
what is stored.
"""

import argparse
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from stamina_lite import cells, claim, claim_figures, plots, studies
from stamina_lite.grid import SEAL

ROOT = Path(__file__).parents[1]
GRID = ROOT / "notebooks" / "params" / "claim50.yaml"
DOCUMENTS = ("README.md", "REPRODUCIBILITY.md")
SHOWN = ("ti++", "lora", "c-lora", "stamina")
KEPT = 4  # pictures of a concept and stage: those that come from the same noise


def names_shown(tasks: list[str]) -> list[str]:
    """An early, a middle and a late person and waterfall."""
    middle = len(tasks) // 2
    return list(dict.fromkeys([*tasks[:2], *tasks[middle : middle + 2], *tasks[-2:]]))


def store(cell: Path, to: Path) -> None:
    """Copy what tables and figures are made of: numbers whole, pictures a few and packed."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in ("run.json", "results.json", SEAL):
        if (cell / name).exists():
            shutil.copy(cell / name, to / name)
    if not cell.name.endswith(".alternate.0") or not (cell / "results.json").exists():
        return
    for name in names_shown(plots.load_results(cell)["tasks"]):
        for concept in cell.glob(f"images/after-*/{name}"):
            folder = to / concept.relative_to(cell)
            folder.mkdir(parents=True)
            for k in range(KEPT):
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
    print(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="?", help="the folder of `stamina-lite reproduce claim50`")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "claim50")
    args = parser.parse_args()
    for seal in sorted(args.runs.glob(f"*/{SEAL}")) if args.runs else ():
        store(seal.parent, args.out / seal.parent.name)
    found = cells.read_cells(args.out, GRID)
    blocks = claim.blocks(args.out, GRID) | studies.blocks(ROOT / "results")
    for name in DOCUMENTS:
        fill(ROOT / name, blocks)
    print(*blocks.values(), sep="\n\n")
    there = cells.rows_of(found)
    results = [f.results for f in found if f.results and f.cell.row in SHOWN]
    for draw in (plots.weight_change, plots.plasticity, plots.forgetting, plots.accuracy):
        save(draw(results), args.out / f"{draw.__name__}.png")
    if cells.TOKEN in there:
        gaining = [row for row in ("lora-alone", "lora", "c-lora", "stamina") if row in there]
        save(claim_figures.gain_by_task(found, gaining), args.out / "gain.png")
        save(claim_figures.plane(found), args.out / "plane.png")
    if claim.STAMINA in there:
        save(claim_figures.masks(found), args.out / "masks.png")
    for f in found:
        if f.results and f.cell.name.endswith(".alternate.0"):
            home = args.out / f.cell.name
            sheet = plots.run_sheet(home, names_shown(f.results["tasks"]), columns=KEPT)
            save(sheet, args.out / f"sheet-{f.cell.row}.png", 80)


if __name__ == "__main__":
    main()
