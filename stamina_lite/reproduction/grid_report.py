"""The part of a report on a grid of runs: tables with intervals, verdicts on the papers' claims, figures."""

from html import escape
from pathlib import Path

from . import claims, class_claims, frontier
from .figures import gain_by_task, masks, side_by_side
from .figures import plane as gain_plane
from .grids import CHECKSUM_FILE, PRESETS, load_grid
from .page import from_markdown, inline
from .results import StoredRun, read_runs, rows_of

TITLES = {
    "claims": "Claims of the papers: what is claimed, what was measured, the verdict of its 95 % interval",
    "main": "Measures of every row, with 95 % intervals over concepts",
    "pairs": "Differences of rows, concept by concept",
    "frontier": "Frontiers: likeness of late concepts, forgetting, final measures",
    "gaps": "Frontiers compared at equal forgetting",
    "classes_claims": "Claims of the papers: what is claimed, what was measured, the verdict of its 95 % interval",
    "classes": "Measures of every row, with 95 % intervals",
    "classes_pairs": "Differences of rows",
}


def grid_report(folder: Path) -> str:
    """Tables and figures of a folder of runs that is named after a grid of the checkout; empty for other folders."""
    file = PRESETS / f"{folder.resolve().name}.yaml"
    if not file.is_file() or not any(folder.glob(f"*/{CHECKSUM_FILE}")):
        return ""
    found = read_runs(folder, file)
    finished = [run for run in found if run.results]
    if not finished:
        return ""
    if "tasks" in finished[0].run.variants:
        tables, drawn = class_claims.blocks(folder.parent, PRESETS), ""
    elif any("@" in row for row in rows_of(found)):
        tables = {"frontier": frontier.frontier_table(found), "gaps": frontier.gaps_table(found)}
        drawn = inline(
            frontier.plane(found), "Forgetting, and MMD² of late concepts when just learned; lower is better."
        )
        drawn += inline(
            frontier.norm_curves(found), "Norm of each task's update; the fainter the line, the lower the strength."
        )
        drawn += inline(frontier.by_strength(found, "a_mmd"), "A_mmd at the end against the strength; lower is better.")
        drawn += inline(frontier.by_strength(found, "accuracy"), "Accuracy at the end against the strength.")
        if any((folder / run.run.name / "images").is_dir() for run in finished):
            caption = "Early, middle and late concepts as the final models draw them, from the same noise."
            drawn += inline(side_by_side(found, folder, 1), caption)
    else:
        tables, drawn = claims.blocks(folder, file), claim_figures(found)
    shown = [
        f"<h3>{escape(TITLES[name])}</h3>{from_markdown(tables[name], TITLES[name])}"
        for name in TITLES
        if tables.get(name)
    ]
    state = claims.missing(found, load_grid(file))
    brief = f"{state.partition(' runs')[0]} runs are stored."
    state = f"<details><summary>{brief}</summary><p>{escape(state)}</p></details>"
    return f"<h2>Grid {escape(file.stem)}</h2>{state}{''.join(shown)}{drawn}"


def claim_figures(found: list[StoredRun]) -> str:
    """The gain over the token alone against forgetting and against the task, and the masks."""
    rows = [row for row in ("lora-alone", "lora", "c-lora", "stamina") if row in rows_of(found)]
    return (
        inline(gain_plane(found), "Gain over the token alone when just learned, and what was forgotten since.")
        + inline(gain_by_task(found, rows), "Gain over the token alone, against the task.")
        + inline(gain_by_task(found, rows, claims.ALONE), "The same over a LoRA that starts from the base.")
        + inline(masks(found), "Density of the masks, what they touch of the past, and their overlap.")
    )
