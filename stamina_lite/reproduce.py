"""The notebooks in batch: papermill over a grid of (notebook, parameters), from a preset; what is done is kept."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
import yaml

from .checkpoint import write_json
from .data import UserError

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
MARK = "stamina_lite"  # where the executed notebook's metadata holds what it was made from


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: a notebook (its file name), its parameters, and a name for what comes out of it."""

    name: str
    notebook: str
    parameters: dict = field(default_factory=dict)


def reproduce(
    preset: str, out: Path | str, engine: str = "local", workers: int = 1, notebooks: Path | str | None = None
) -> list[str]:
    """Run a preset's notebooks; returns the names of those that failed (their logs lie in out/NAME.log).

    preset: a name in notebooks/params/, or a YAML file: a list of {name, notebook, parameters}. In a text parameter
    {out} stands for the folder `out`, as seen from the notebook. Executed notebooks are written to out/NAME.ipynb; one
    that is there, made of the same source and parameters, is kept. Raises UserError before anything runs where the
    preset, a notebook or a parameter is wrong. notebooks: their folder, if not the checkout's own.
    """
    notebooks, out = Path(notebooks or NOTEBOOKS).resolve(), Path(out).resolve()
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine}: choose one of {', '.join(ENGINES)}")
    if workers < 1:
        raise UserError(f"workers must be 1 or more, not {workers}")
    cells = [with_out(cell, notebooks, out) for cell in read_preset(preset, notebooks)]
    for cell in cells:
        check_parameters(cell, notebooks / cell.notebook)
    run_all = ENGINES[engine]()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another --out") from None
    waiting = [cell for cell in cells if not finished(cell, notebooks, out)]
    for cell in cells:
        if cell not in waiting:
            print(f"kept    {cell.name}", flush=True)
    failed = []
    for cell, done in run_all(waiting, notebooks, out, workers):
        print(f"done    {cell.name}" if done else f"FAILED  {cell.name}: see {out / cell.name}.log", flush=True)
        if not done:
            failed.append(cell.name)
    return failed


def read_preset(preset: str, notebooks: Path) -> list[Cell]:
    """The cells of a preset, by its name or its file."""
    if not notebooks.is_dir():
        raise UserError(
            f"no notebooks at {notebooks}: they are in the source checkout, install from there with pip install -e ."
        )
    file = Path(preset) if preset.endswith((".yaml", ".yml")) else notebooks / "params" / f"{preset}.yaml"
    if not file.is_file():
        known = sorted(f.stem for f in (notebooks / "params").glob("*.yaml"))
        raise UserError(f"unknown preset {preset}: choose one of {', '.join(known)}, or give a YAML file")
    try:
        cells = [Cell(**entry) for entry in yaml.safe_load(file.read_text())]
    except (yaml.YAMLError, TypeError):
        raise UserError(f"{file} is no preset: expected a list of {{name, notebook, parameters}}") from None
    names = [cell.name for cell in cells]
    for cell in cells:
        if names.count(cell.name) > 1 or Path(cell.name).name != cell.name:
            raise UserError(f"{file}: {cell.name} must be a plain name, and stand there once")
        if not (notebooks / cell.notebook).is_file():
            raise UserError(f"{file}: {cell.name} wants {cell.notebook}, which is not in {notebooks}")
    return cells


def with_out(cell: Cell, notebooks: Path, out: Path) -> Cell:
    """The cell with {out} in its text parameters replaced: relative, so that no stored notebook holds a full path."""
    here = os.path.relpath(out, (notebooks / cell.notebook).parent)
    parameters = {k: v.replace("{out}", here) if isinstance(v, str) else v for k, v in cell.parameters.items()}
    return Cell(cell.name, cell.notebook, parameters)


def check_parameters(cell: Cell, file: Path) -> None:
    """Papermill only warns of a parameter that a notebook does not have, and YAML reads 1e-3 as text: refuse both."""
    known = papermill.inspect_notebook(str(file))
    for name, value in cell.parameters.items():
        if name not in known:
            raise UserError(f"{cell.name}: {file.name} has no parameter {name}: it has {', '.join(known) or 'none'}")
        default = ast.literal_eval(known[name]["default"])
        if isinstance(value, str) != isinstance(default, str) and default is not None:
            raise UserError(
                f"{cell.name}: {name} is {value!r}, but {default!r} in {file.name}: write 1e-3 as 0.001, text in quotes"
            )


def source_hash(file: Path) -> str:
    """sha256 of what a notebook says and does; stored outputs do not count."""
    cells = [(c.cell_type, c.source) for c in nbformat.read(file, as_version=4).cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def made_from(cell: Cell, notebooks: Path) -> dict:
    return {"source": source_hash(notebooks / cell.notebook), "parameters": cell.parameters}


def finished(cell: Cell, notebooks: Path, out: Path) -> bool:
    """Whether out/NAME.ipynb came to its end, from this source and these parameters."""
    file = out / f"{cell.name}.ipynb"
    if not file.exists():
        return False
    try:
        executed = json.loads(file.read_text())
    except json.JSONDecodeError:  # killed while papermill was writing
        return False
    return executed["metadata"].get(MARK) == made_from(cell, notebooks)


def run_cell(cell: Cell, notebooks: Path, out: Path, threads: int | None = None) -> bool:
    """Execute one notebook in its own folder and process, in this interpreter's environment; False if it failed.

    threads: how many a notebook may compute with, where several run at once.
    """
    source, executed = notebooks / cell.notebook, out / f"{cell.name}.ipynb"
    environment = {
        **os.environ,
        "TQDM_DISABLE": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if threads:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    command = [sys.executable, "-m", "papermill", source.name, os.path.relpath(executed, source.parent)]
    command += ["--kernel", "python3", "--log-output", "--parameters_yaml", yaml.safe_dump(cell.parameters)]
    with open(out / f"{cell.name}.log", "w") as log:
        code = subprocess.run(
            command, cwd=source.parent, env=environment, stdout=log, stderr=subprocess.STDOUT
        ).returncode
    if code == 0:  # only what came to its end is marked, so that a kill at any moment leaves work to do, never a lie
        notebook = json.loads(executed.read_text())
        notebook["metadata"][MARK] = made_from(cell, notebooks)
        write_json(executed, notebook)
    return code == 0


Results = Iterator[tuple[Cell, bool]]


def local_engine():
    """Notebooks as processes of this machine, `workers` at a time."""

    def run_all(cells: list[Cell], notebooks: Path, out: Path, workers: int) -> Results:
        threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        with ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(run_cell, cell, notebooks, out, threads): cell for cell in cells}
            try:
                yield from ((futures[f], f.result()) for f in as_completed(futures))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # interrupted: those that wait are not begun
                raise

    return run_all


def ray_engine():
    """Notebooks as tasks of a Ray cluster, whose machines share the checkout and the output folder."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("Ray is not installed: pip install ray, or use --engine local") from None

    def run_all(cells: list[Cell], notebooks: Path, out: Path, workers: int) -> Results:
        ray.init(ignore_reinit_error=True)
        task = ray.remote(num_cpus=max(1, int(ray.cluster_resources()["CPU"]) // workers))(run_cell)
        waiting = {task.remote(cell, notebooks, out): cell for cell in cells}
        while waiting:
            (ready,), _ = ray.wait([*waiting], num_returns=1)
            yield waiting.pop(ready), ray.get(ready)

    return run_all


ENGINES = {"local": local_engine, "ray": ray_engine}
