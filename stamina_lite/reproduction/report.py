"""A self-contained HTML report of runs: measures, figures, pictures, settings, notebooks."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from .. import plots
from ..errors import UserError
from ..plots.concepts import by_method
from ..runs.files import read_json, read_record, write_text, writing
from . import class_report
from .comparison import HEAD, compare
from .figures import early_middle_late
from .grid_report import grid_report
from .grids import verify_checksum
from .page import STYLE, bullets, inline, section, table
from .page_gallery import SCRIPT, gallery
from .table_files import write_tables

# key in results.json -> (name, meaning)
MEASURES = {
    "a_mmd": ("A_mmd", "mean over concepts of the MMD² between real pictures and the final model's; lower is better"),
    "f_mmd": (
        "F_mmd",
        "mean MMD² between pictures drawn just after a concept was learned and at the end; lower is better",
    ),
    "kid": ("KID", "as A_mmd with the kernel of KID, on unit vectors; lower is better"),
    "image_alignment": ("Alignment", "mean cosine of generated and real pictures (CLIP-I with CLIP); higher is better"),
    "concept_accuracy": (
        "Accuracy",
        "share of the final model's pictures nearest to their own concept; chance is 1 / concepts",
    ),
    "concept_accuracy_grey": (
        "Accuracy, grey",
        "the same in greyscale, where hair and background colour are no shortcut",
    ),
    "concept_accuracy_when_learned": (
        "Accuracy, learned",
        "the same for pictures drawn just after each concept was learned",
    ),
}
CONCEPTS = ["Run", "Method", "Seed", "Concepts", *(name for name, _ in MEASURES.values())]
CONCEPTS += ["Trained", "Added", "Time", "Memory"]
OPEN = 6  # runs whose details are unfolded
FIGURES = (
    (
        plots.weight_change,
        "Distance of the K and V weights from the base (left), and the size of each task's update (right).",
    ),
    (
        plots.plasticity,
        "MMD² of every concept just after it was learned (thin), and the mean of five concepts (thick).",
    ),
    (
        plots.forgetting,
        "MMD² of every concept when just learned and at the end: concepts above the line were forgotten.",
    ),
    (
        plots.accuracy,
        "Accuracy at the end, by position in the sequence: low on the left is forgetting, on the right saturation.",
    ),
)


@dataclass(frozen=True)
class Run:
    """The contents of a run folder: run.json, and results.json if there is one."""

    folder: Path
    about: dict
    results: dict  # empty without results.json

    @property
    def classes(self) -> bool:
        """Whether this is a classification run."""
        return self.about.get("half") == "classification"

    @property
    def finished(self) -> bool:
        return "a_mmd" in self.results


def write_report(runs: Iterable[Path | str], out: Path | str, tables: Path | None = None) -> Path:
    """Write a report of run folders, or of all runs in given folders, to `out` and print its path.

    A folder of a grid's runs, named after the grid, has its tables and verdicts in front; two runs of the same concepts
    are compared concept by concept.

    Args:
        tables: a folder for the table of measures as CSV, Markdown and LaTeX.

    Raises:
        UserError: a folder contains no run and no executed notebook, or a damaged file.
    """
    out = Path(out)
    folders = [Path(r) for r in runs]
    found = [read_run(f) for f in unique(f for folder in folders for f in find_runs(folder))]
    refuse_mixed(found)
    notebooks = unique(n for folder in folders for n in find_notebooks(folder))
    if not found and not notebooks:
        raise UserError(f"no run.json under {', '.join(map(str, folders))}: name a run folder, or a folder of runs")
    home = out.resolve().parent
    concepts, classes = ([run for run in found if run.classes is kind] for kind in (False, True))
    groups = comparable(concepts)
    sections = [grid_report(folder) for folder in folders]
    alike = [group for group in groups if not of_strengths(group)]
    sections += [overview(concepts, home), comparison(groups, home), *(figures(group) for group in alike)]
    of_classes = [(place(run, home), run.about, run.results) for run in classes]
    sections += [class_report.overview(of_classes)]
    sections += [class_report.figures(group[0].about, [run.results for run in group]) for group in comparable(classes)]
    sections += [unfinished(found, home), notebook_list(notebooks, home)]
    sections += ["<h2>Runs</h2>"] if len(found) > OPEN else []
    sections += [details(run, home, len(found) <= OPEN) for run in found]
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>stamina-lite report</title><style>{STYLE}</style></head>
<body><main><h1>Runs side by side</h1>
{"".join(sections)}
</main><script>{SCRIPT}</script></body></html>
"""
    with writing(out, "make room, or give --out a file name in a folder of yours"):
        home.mkdir(parents=True, exist_ok=True)
        write_text(out, page)
        if tables:
            for name, head, rows in (
                ("concepts", CONCEPTS, rows_of_measures(concepts, home)),
                ("classes", class_report.HEAD, class_report.rows_of_measures(of_classes)),
            ):
                if rows:
                    write_tables(tables, name, head, rows)
    print(out)
    return out


def find_runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run, otherwise all runs in it."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name a run folder, or a folder of runs")
    return [folder] if (folder / "run.json").exists() else sorted(f.parent for f in folder.rglob("run.json"))


def find_notebooks(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts)


def unique(paths: Iterable[Path]) -> list[Path]:
    """Every folder or file once, also if it is named by several paths."""
    return list({path.resolve(): path for path in paths}.values())


def read_run(folder: Path) -> Run:
    verify_checksum(folder)
    about, file = read_record(folder / "run.json"), folder / "results.json"
    if not file.exists():
        return Run(folder, about, {})
    if about.get("half") == "classification":
        return Run(folder, about, class_report.check(read_json(file), file))
    return Run(folder, about, plots.load_results(folder))


def refuse_mixed(runs: list[Run]) -> None:
    """Raise UserError for grid runs of different protocols, or of one row with different settings."""
    seen: dict[str, tuple] = {}
    for run in runs:
        record = verify_checksum(run.folder)
        for part, value in (("protocol", record["protocol"]), (record["row"], record["settings"])) if record else ():
            other, first = seen.setdefault(part, (value, run.folder))
            if other != value:
                raise UserError(f"{first} and {run.folder} have different protocols: report them separately")


def comparable(runs: list[Run]) -> list[list[Run]]:
    """Runs with results, grouped by data, base and number of tasks: only these are comparable in one figure."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.results:
            a = run.about
            same = (a.get(key) for key in ("set", "set_hash", "base", "tasks"))
            groups.setdefault(tuple(map(str, same)), []).append(run)
    return list(groups.values())


def of_strengths(runs: list[Run]) -> bool:
    """Whether some are runs of one method at several strengths: figures by method would average them."""
    return any("@" in (verify_checksum(run.folder) or {}).get("row", "") for run in runs)


def rows_of_measures(runs: list[Run], home: Path) -> list[list[str]]:
    """Rows of the table of measures, of the runs that have results."""
    return [
        [
            place(run, home), run.results["method"], str(run.about.get("seed")),
            str(len(run.results["tasks"])) + ("" if run.finished else " so far"),
            *(number(run.results.get(key)) for key in MEASURES),
            *(f"{run.results['n_param'][k]:.3g} %" for k in ("train", "store")),
            f"{sum(run.results['seconds']) / 60:.1f} min", f"{max(run.results['peak_memory']) / 2**30:.1f} GiB",
        ]
        for run in runs
        if run.results
    ]  # fmt: skip


def overview(runs: list[Run], home: Path) -> str:
    """The table of measures and their meanings."""
    rows = rows_of_measures(runs, home)
    if not rows:
        return ""
    meanings = "".join(f"<li><b>{escape(name)}</b>: {escape(meaning)}.</li>" for name, meaning in MEASURES.values())
    meanings += "<li><b>Trained</b>, <b>Added</b>: parameters trained for a concept and stored after it, in %.</li>"
    meanings += "<li><b>Time</b> of learning alone; <b>Memory</b>: the peak, of the GPU where there was one.</li>"
    return f"<h2>Measures</h2>{table(CONCEPTS, rows, 'Measures')}<ul>{meanings}</ul>"


def comparison(groups: list[list[Run]], home: Path) -> str:
    """The comparison of two runs of concepts; empty for other numbers of runs."""
    if len(groups) != 1 or len(groups[0]) != 2:
        return ""
    first, second = groups[0]
    rows = compare(first.results, second.results)
    text = f"First: {place(first, home)}. Second: {place(second, home)}. In brackets 95 % intervals over concepts."
    return f"<h2>Two runs compared</h2><p>{escape(text)}</p>{table(HEAD, rows, 'Two runs compared')}"


def figures(runs: list[Run]) -> str:
    """Figures of runs with the same concepts."""
    results = [run.results for run in runs]
    title = f"{runs[0].about.get('set') or 'Own pictures'}: {', '.join(by_method(results))}"
    return section(title, FIGURES, results)


def unfinished(runs: list[Run], home: Path) -> str:
    """A list of the runs without results."""
    names = [place(run, home) for run in runs if not run.results]
    text = "No results.json: the run was interrupted before its first measure, or only learned (stamina-lite learn)."
    return f"<h2>Unfinished</h2><p>{text}</p>{bullets(map(escape, names))}" if names else ""


def notebook_list(notebooks: list[Path], home: Path) -> str:
    """Links to executed notebooks, with their duration or state."""
    links = []
    for file in notebooks:
        try:
            run = read_json(file)["metadata"].get("papermill", {})
        except (KeyError, TypeError):
            raise UserError(f"{file} is not a notebook: execute it again, or remove it") from None
        path = Path(os.path.relpath(file.resolve(), home)).as_posix()
        ended = f"{run['duration']:.0f} s" if run.get("duration") else "not executed to its end"
        state = "failed" if run.get("exception") else ended
        links.append(f'<a href="{quote(path)}">{escape(path)}</a> <small>{escape(state)}</small>')
    return f"<h2>Notebooks</h2>{bullets(links)}" if links else ""


def details(run: Run, home: Path, unfolded: bool) -> str:
    """A run's pictures, masks, settings and versions; unfolded with a sheet, folded with the gallery alone."""
    parts = []
    if run.finished:
        names = [name for name in early_middle_late(run.results["tasks"]) if any(run.folder.glob(f"images/*/{name}"))]
        if names and unfolded:
            stages = ("learned", "final") if run.results["plasticity"][0] is not None else ("final",)  # joint methods
            sheet = plots.run_sheet(run.folder, names, stages)
            parts.append(inline(sheet, "Pictures just after learning, and at the end."))
        parts.append(gallery(run.folder))
        masks = plots.load_masks(run.folder)
        if masks:
            parts.append(inline(plots.mask_panel(masks), "Density of the folded masks, and the overlap between tasks."))
    if run.classes and run.results:
        caption = "Accuracy on every task (columns) after every task (rows): forgetting is a column that decreases."
        parts.append(inline(plots.accuracy_matrix(run.results), caption))
    rows = [
        [key, json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value]
        for key, value in flat(run.about)
    ]
    settings = table(["name", "value"], rows, "Settings and versions")
    name, text = escape(place(run, home)), "".join(parts)
    if unfolded:
        return f"<h2>{name}</h2>{text}<details><summary>Settings and versions</summary>{settings}</details>"
    return f"<details><summary>{name}</summary>{text}{settings}</details>"


def flat(content: dict, prefix: str = "") -> list[tuple[str, object]]:
    """Nested settings as (dotted name, value)."""
    pairs: list[tuple[str, object]] = []
    for key, value in content.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs


def place(run: Run, home: Path) -> str:
    """Path of a run relative to the report."""
    return Path(os.path.relpath(run.folder.resolve(), home)).as_posix()


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) >= 0.01 or not value else f"{value:.2g}"
