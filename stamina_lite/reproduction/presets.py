"""Presets: YAML files with a list of notebooks or a grid of runs, and which of their jobs are chosen."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from ..classification.sets import CLASS_SETS
from ..errors import UserError
from .engines import Job
from .grids import ClassGridRun, GridRun, read_grid
from .needs import read_minutes, read_needs
from .notebook_runs import Notebook

FORM = "expected a grid, or a list of {name, notebook, parameters, needs, minutes}"


@dataclass(frozen=True)
class Selection:
    """Which jobs of a preset are run, and what is changed in them.

    Attributes:
        only: names, or shell patterns of names; empty: all.
        seeds: of a grid's runs; empty: all.
        changes: values of parameters of notebooks, or of options that all rows of a grid share.
    """

    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    changes: dict = field(default_factory=dict)


def read_preset(preset: str, notebooks: Path, selection: Selection) -> Sequence[Job]:
    """The selected jobs of a preset, given by its name or file, in its order.

    Raises:
        UserError: the preset is wrong, or has nothing that the selection names.
    """
    if not notebooks.is_dir():
        raise UserError(
            f"no notebooks at {notebooks}: they are in the source checkout, install from there with pip install -e ."
        )
    file = Path(preset) if preset.endswith((".yaml", ".yml")) else notebooks / "params" / f"{preset}.yaml"
    if not file.is_file():
        known = sorted(f.stem for f in (notebooks / "params").glob("*.yaml"))
        raise UserError(f"unknown preset {preset}: choose one of {', '.join(known)}, or give a YAML file")
    content = read_yaml(file)
    try:
        if isinstance(content, dict) and "notebooks" not in content:
            return read_runs_of_grid(content, file, selection)
        return read_notebooks(content, file, notebooks, selection)
    except (TypeError, AttributeError):
        raise UserError(f"{file} is not a preset: {FORM}") from None


def read_yaml(file: Path):
    """The content of a YAML file. Raises UserError if it is none."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: {error.problem}: this is no YAML, mend it") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{file} has characters that no YAML file has: give a text file in UTF-8") from None


def read_runs_of_grid(content: dict, file: Path, selection: Selection) -> list[GridRun]:
    """The selected runs of a grid, with the changed options in their protocol and so in its hash."""
    protocol = content.get("protocol")
    if selection.changes and isinstance(protocol, dict):
        shared = (ClassGridRun if protocol.get("set") in CLASS_SETS else GridRun).shared
        for name, value in selection.changes.items():
            if name not in shared:
                raise UserError(f"{file.stem} has no option {name} that all rows share: it has {', '.join(shared)}")
            if kind(value) != kind(protocol.get(name)):
                raise UserError(f"{name} is {value!r}, but {protocol.get(name)!r} in {file}: give a value of that kind")
        content = {**content, "protocol": protocol | selection.changes}
    runs = read_grid(content, file)
    seeds = {run.seed for run in runs}
    for seed in selection.seeds:
        if seed not in seeds:
            raise UserError(f"{file.stem} has no run with the seed {seed}: it has {', '.join(map(str, sorted(seeds)))}")
    return chosen([run for run in runs if not selection.seeds or run.seed in selection.seeds], file, selection)


def read_notebooks(content, file: Path, notebooks: Path, selection: Selection) -> list[Notebook]:
    """The selected notebooks of a preset: a list, or {notebooks: a list, needs, minutes} with what is for all."""
    if selection.seeds:
        raise UserError(f"--seeds is for grids, and {file.stem} has notebooks: give --set SEED=0")
    shared = content if isinstance(content, dict) else {"notebooks": content}
    if not {*shared} <= {"notebooks", "needs", "minutes"}:
        raise UserError(f"{file} is not a preset: {FORM}")
    needs, minutes = shared.get("needs", {}), shared.get("minutes")
    read_needs(needs, file), read_minutes(minutes, file)
    jobs = []
    for entry in shared["notebooks"]:
        jobs.append(
            notebook_of(notebooks, file, **{"minutes": minutes, **entry, "needs": {**needs, **entry.get("needs", {})}})
        )
    for name, count in Counter(job.name for job in jobs).items():
        if count > 1 or Path(name).name != name:
            raise UserError(f"{file}: {name} must be a plain file name, and be listed once")
    for job in jobs:
        if not job.file.is_file():
            raise UserError(f"{file}: {job.name} needs {job.file.name}, which is not in {notebooks}")
    jobs = chosen(jobs, file, selection)
    for name in selection.changes:
        if not any(name in job.known for job in jobs):
            raise UserError(f"no chosen notebook of {file.stem} has a parameter {name}: see their first code cells")
    for job in jobs:
        job.parameters.update({name: value for name, value in selection.changes.items() if name in job.known})
        job.check()
    return jobs


def notebook_of(
    folder: Path,
    preset: Path,
    name: str,
    notebook: str,
    needs: dict,
    minutes,
    parameters: dict | None = None,
) -> Notebook:
    """An entry of a preset."""
    return Notebook(
        name, folder / notebook, {**(parameters or {})}, read_needs(needs, preset), read_minutes(minutes, preset)
    )


def chosen(jobs: list, file: Path, selection: Selection) -> list:
    """The jobs whose names match. Raises UserError for a pattern that none matches."""
    for pattern in selection.only:
        if not any(fnmatchcase(job.name, pattern) for job in jobs):
            names = ", ".join(job.name for job in jobs[:3])
            raise UserError(f"{file.stem} has no run {pattern}: its names are like {names}")
    return [job for job in jobs if not selection.only or any(fnmatchcase(job.name, p) for p in selection.only)]


def kind(value) -> type:
    """The type of a value, where whole numbers are numbers."""
    return float if type(value) is int else type(value)
