"""Store what tables and figures need of a grid's runs, and write the tables of all documents and the figures.

    stamina-lite reproduce claim50 --out runs/claim50
    stamina-lite reproduce claim10 --out runs/claim10 --workers 2
    stamina-lite reproduce classes --out runs/classes --workers 2
    python studies/publish.py runs/claim50 runs/claim10 runs/classes runs/frontier runs/fifty

A folder of runs has its grid's name. Of every run, run.json, results.json and its checksums are stored in results/; of
concepts, for the first seed in the set's own order, a few images of an early, a middle and a late person and waterfall.
Failed runs are not stored. Then every table between `<!-- NAME -->` and `<!-- end -->` in DOCUMENTS is written from
results/, and the figures of the grids named, or of all; of the frontier and the fifty concepts the report, too.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import after_fifty
import class_heads
import learning_speed
import mask_search
import mask_variants
import matplotlib.pyplot as plt
import own_steps
import pairs
import shared_words
import tune
from PIL import Image

from stamina_lite import concepts, plots
from stamina_lite.diffusion.concepts import training_images
from stamina_lite.reproduction import claims, class_claims, figures, frontier
from stamina_lite.reproduction.grids import CHECKSUM_FILE, load_grid
from stamina_lite.reproduction.report import write_report
from stamina_lite.reproduction.results import StoredRun, read_runs, rows_of
from stamina_lite.runs.files import read_json

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import step_tables  # noqa: E402

ROOT = Path(__file__).parents[1]
RESULTS, GRIDS = ROOT / "results", ROOT / "notebooks" / "params"
LARGE, SMALL, CLASSES, FRONTIER, FIFTY = "claim50", "claim10", "classes", "frontier", "fifty"
HEADS = ("heads", "heads-100")  # on 200 classes, and on the hundred with most room
DOCUMENTS = ("README.md", "REPRODUCIBILITY.md", "results/README.md", "results/TABLES.md")
SHOWN = ("ti++", "lora", "c-lora", "stamina")
STRENGTHS = (1, 10, 100)
EWC = "lora-ewc@100000"  # the strength with the lowest A_mmd
AT_ONE_STRENGTH = [
    (f"{row}@{x}", f"{other}@{x}")
    for row, other in (
        ("stamina", "c-lora"), ("stamina-no-mask", "c-lora"), ("stamina", "stamina-no-mask"),
        ("stamina", "stamina-random-mask"),
    )
    for x in STRENGTHS
]  # fmt: skip
AGAINST_BOUNDS = [(f"{row}@10", "ti++") for row in ("c-lora", "stamina", "stamina-no-mask")]
AGAINST_BOUNDS += [("c-lora@10", "lora"), ("stamina@10", "lora-alone")]
AGAINST_BOUNDS += [(EWC, f"{row}@{x}") for row in ("c-lora", "stamina") for x in (10, 100)]
AGAINST_BOUNDS += [(EWC, other) for other in ("c-lora@1000", "stamina-no-mask@100", "ti++", "lora-alone")]
IN_README = ("lora-alone", "ti++", "lora", *(f"c-lora@{x}" for x in (1, 10, 1000)))
IN_README += ("stamina@10", "stamina@100", "stamina-no-mask@10", EWC)
MASKED = "stamina@10"  # the row of the frontier whose masks are shown
LAMBDAS = ("c-lora-weak", "c-lora-strong")  # C-LoRA with a tenth and ten times its λ
SHOWN_CLASSES = ("ub", "ft", "ewc", "coda-p", "lora", "c-lora", "inflora", "sd-lora", "stamina", "ncm")
KEPT = {
    LARGE: 4,
    SMALL: 2,
    CLASSES: 0,
    FRONTIER: 2,
    FIFTY: 4,
    **dict.fromkeys(HEADS, 0),
}  # pictures of a concept and stage, of those that come from the same noise


STUDIES = {  # block -> the table of a study, and its file in results/
    "past": (after_fifty.long_past_table, "after_fifty.json"),
    "search": (mask_search.mask_table, "mask_search.json"),
    "variants": (mask_variants.variants_table, "mask_variants.json"),
    "speed": (learning_speed.speed_table, "learning_speed.json"),
    "frontier_speed": (learning_speed.speed_table, "learning_speed_frontier.json"),
    "steps": (own_steps.own_steps_table, "own_steps.json"),
    "shared_words": (shared_words.words_table, "shared_words.json"),
    "together": (pairs.together_table, "pairs/pairs.json"),
}
FEW_CONCEPTS = ("past", "search", "steps", "frontier_speed")
FEW = "\n\nThese intervals are over four to six concepts: a bootstrap of so few values is not reliable."


def blocks(results: Path = RESULTS, grids: Path = GRIDS) -> dict[str, str]:
    """Every table, by the name under which documents show it."""
    found = claims.documents(results, grids) | class_claims.blocks(results, grids)
    found |= step_tables.blocks(results) | class_heads.blocks(results)
    if (results / FRONTIER).is_dir():
        runs = read_runs(results / FRONTIER, grids / f"{FRONTIER}.yaml")
        found |= {"frontier": frontier.frontier_table(runs), "gaps": frontier.gaps_table(runs)}
        found["frontier_updates"] = frontier.updates_table(runs)
        found["frontier_pairs"] = claims.pair_table(runs, AT_ONE_STRENGTH + AGAINST_BOUNDS)
        brief = [run for run in runs if run.run.row in IN_README]
        found["frontier_brief"] = frontier.frontier_table(brief, frontier.BRIEF)
        found["frontier_missing"] = claims.missing(runs, load_grid(grids / f"{FRONTIER}.yaml"))
    if (results / FIFTY).is_dir():
        tables = claims.blocks(results / FIFTY, grids / f"{FIFTY}.yaml")
        runs = read_runs(results / FIFTY, grids / f"{FIFTY}.yaml")
        tables |= {"late": frontier.frontier_table(runs), "updates": frontier.updates_table(runs)}
        found |= {f"fifty_{name}": table for name, table in tables.items()}
    for grid in HEADS:
        if (results / grid).is_dir():
            runs = read_runs(results / grid, grids / f"{grid}.yaml")
            samples = class_claims.by_head(runs)
            block = grid.replace("-", "_")
            found[block] = class_claims.heads_table(samples)
            found[f"{block}_pairs"] = class_claims.head_pairs_table(samples)
            found[f"{block}_missing"] = claims.missing(runs, load_grid(grids / f"{grid}.yaml"))
    for name, (make, file) in STUDIES.items():
        if (results / file).exists():
            found[name] = make(read_json(results / file)) + (FEW if name in FEW_CONCEPTS else "")
    for name, folder, measure, digits in (
        ("tuning", "tuning", "a_mmd", 2),
        ("rates", "tuning-rates", "a_mmd", 2),
        ("classes_tuning", "tuning-classes", "a_n", 1),
        ("head_rates", "tuning-head-rates", "a_n", 1),
    ):
        trials = {file.stem: read_json(file) for file in sorted((results / folder).glob("*.json"))}
        if trials:
            found[name] = tune.tuning_table(trials, measure, digits)
    return found


def store(run: Path, to: Path, kept: int) -> None:
    """Copy what tables and figures are made of: numbers whole, pictures a few and packed."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in ("run.json", "results.json", CHECKSUM_FILE):
        if (run / name).exists():
            shutil.copy(run / name, to / name)
    if not run.name.endswith(".alternate.0") or not (run / "results.json").exists():
        return
    for name in figures.early_middle_late(plots.load_results(run)["tasks"]):
        for concept in run.glob(f"images/after-*/{name}"):
            folder = to / concept.relative_to(run)
            folder.mkdir(parents=True)
            for k in range(kept):
                Image.open(concept / f"{k:02d}.png").quantize(128).save(folder / f"{k:02d}.png", optimize=True)


def fill(file: Path, tables: dict[str, str]) -> None:
    """Put the tables between their marks."""
    text = file.read_text(encoding="utf-8")
    for name, block in tables.items():
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
            sheet = plots.run_sheet(home / f.run.name, names, stages, KEPT[LARGE], training_images(real, KEPT[LARGE]))
            save(sheet, home / f"sheet-{f.run.row}.png", 80)


def figures_of_frontier(found: list[StoredRun], home: Path) -> None:
    save(frontier.plane(found), home / "plane.png")
    save(frontier.norm_curves(found), home / "norms.png")
    if MASKED in rows_of(found):
        save(figures.masks(found, MASKED), home / "masks.png")
    for measure in ("a_mmd", "accuracy"):
        save(frontier.by_strength(found, measure), home / f"{measure}.png")


def figures_of_fifty(found: list[StoredRun], home: Path) -> None:
    rows = [row for row in ("c-lora", "stamina", "stamina-no-mask", "lora-ewc") if row in rows_of(found)]
    save(figures.gain_by_task(found, rows, "lora-alone"), home / "gain.png")
    save(plots.weight_change(by_row(found, tuple(rows))), home / "weight_change.png")
    if "stamina" in rows:
        save(figures.masks(found), home / "masks.png")
    real = training_images(concepts("mini50"), KEPT[FIFTY])
    for row in rows:
        run = home / f"{row}.alternate.0"
        names = figures.early_middle_late(plots.load_results(run)["tasks"])
        save(plots.run_sheet(run, names, ("learned", "final"), KEPT[FIFTY], real), home / f"sheet-{row}.png", 80)


def figure_of_drift(folder: Path, home: Path) -> None:
    """How a person and a waterfall drift, one above the other."""
    runs = {run.name: run for run in sorted(folder.iterdir())}
    parts = []
    for concept in concepts("mini25", count=2):
        figure = plots.drift_sheet(runs, concept.name, training_images([concept], 1)[concept.name][0])
        save(figure, home / "drift.png")
        parts.append(Image.open(home / "drift.png").convert("RGB"))
    both = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    for k, part in enumerate(parts):
        both.paste(part, (both.width - part.width, sum(p.height for p in parts[:k])))
    both.quantize(256).save(home / "drift.png", optimize=True)


def figures_of_classes(found: list[StoredRun], home: Path) -> None:
    """A_N of every row, and after every one of ten tasks."""
    drawn = class_claims.bootstrap(found)
    numbers = {row: {n: drawn.number(row, n, "a_n") for n in drawn.lengths} for row in rows_of(found)}
    there = {row: {n: number for n, number in of_row.items() if number} for row, of_row in numbers.items()}
    save(plots.ranking({row: of_row for row, of_row in there.items() if of_row}), home / "ranking.png")
    ten = [f for f in found if f.run.variant == 10]
    save(plots.accuracy_curves(by_row(ten, SHOWN_CLASSES)), home / "accuracy_curves.png")


def figure_of_heads(found: list[StoredRun], home: Path) -> None:
    """A_N of every row with each head in ten tasks; of rows at several λ the one at 100, which has no @."""
    numbers = class_claims.head_numbers(class_claims.by_head(found), tasks=10)
    save(plots.head_ranking({row: of_row for row, of_row in numbers.items() if "@" not in row}), home / "heads.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="*", help="folders of `stamina-lite reproduce`, named as their grid")
    args = parser.parse_args()
    for runs in args.runs:
        if runs.name not in KEPT:
            parser.error(f"{runs} is named after no grid: expected {', '.join(KEPT)}")
        for record in sorted(runs.glob(f"*/{CHECKSUM_FILE}")):
            if "failed" not in read_json(record):
                store(record.parent, RESULTS / runs.name / record.parent.name, KEPT[runs.name])
    drawn = [runs.name for runs in args.runs] or [name for name in KEPT if (RESULTS / name).is_dir()]
    found = {name: read_runs(RESULTS / name, GRIDS / f"{name}.yaml") for name in drawn}
    tables = blocks()
    for name in DOCUMENTS:
        fill(ROOT / name, tables)
    print(*tables.values(), sep="\n\n")
    if LARGE in found:
        figures_of_claim(found[LARGE], RESULTS / LARGE)
    if CLASSES in found:
        figures_of_classes(found[CLASSES], RESULTS / CLASSES)
    for grid in HEADS:
        if grid in found:
            figure_of_heads(found[grid], RESULTS / grid)
    if FRONTIER in found:
        figures_of_frontier(found[FRONTIER], RESULTS / FRONTIER)
        figure_of_drift(RESULTS / "drift", RESULTS / FRONTIER)
        write_report([RESULTS / FRONTIER], RESULTS / f"report-{FRONTIER}.html")
    if FIFTY in found:
        figures_of_fifty(found[FIFTY], RESULTS / FIFTY)
        write_report([RESULTS / FIFTY], RESULTS / f"report-{FIFTY}.html")
    if SMALL in found:
        every = figures.side_by_side(found[SMALL], RESULTS / SMALL, KEPT[SMALL], training_images(concepts("mini10"), 2))
        save(every, RESULTS / SMALL / "gallery.png", 50)


if __name__ == "__main__":
    main()
