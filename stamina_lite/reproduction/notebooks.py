"""Batch execution of presets: notebooks by papermill, or a grid of runs. Finished jobs are kept, failed ones named."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
import yaml

from ..errors import UserError
from ..runs.files import write_json
from .grids import GridRun, read_grid

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
MARK = "stamina_lite"  # key of source hash and parameters in the metadata of an executed notebook


@dataclass(frozen=True)
class Notebook:
    """A notebook of a preset: the name of its output, its file and its parameters."""

    name: str
    file: Path
    parameters: dict = field(default_factory=dict)

    def check(self) -> None:
        """Raise UserError for unknown parameters, of which papermill only warns, and for wrong types.

        YAML reads 1e-3 as text.
        """
        known = papermill.inspect_notebook(str(self.file))
        for name, value in self.parameters.items():
            if name not in known:
                raise UserError(
                    f"{self.name}: {self.file.name} has no parameter {name}: it has {', '.join(known) or 'none'}"
                )
            default = ast.literal_eval(known[name]["default"])
            if isinstance(value, str) != isinstance(default, str) and default is not None:
                raise UserError(
                    f"{self.name}: {name} is {value!r}, but {default!r} in {self.file.name}: write 1e-3 as 0.001, "
                    "text in quotes"
                )

    @property
    def made_from(self) -> dict:
        return {"source": source_hash(self.file), "parameters": self.parameters}

    def finished(self, out: Path) -> bool:
        """Whether out/NAME.ipynb was executed to its end from this source with these parameters."""
        file = out / f"{self.name}.ipynb"
        if not file.exists():
            return False
        try:
            executed = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError:  # killed while papermill was writing
            return False
        return executed["metadata"].get(MARK) == self.made_from

    def run(self, out: Path, threads: int | None = None) -> bool:
        """Execute the notebook in its folder, in a process of its own; returns False if it failed.

        threads: number of threads that it may use.
        """
        executed = out / f"{self.name}.ipynb"
        environment = {
            **os.environ,
            "TQDM_DISABLE": "1",
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        if threads:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        home = self.file.parent
        command = [sys.executable, "-m", "papermill", self.file.name, os.path.relpath(executed, home)]
        command += ["--kernel", "python3", "--log-output", "--parameters_yaml", yaml.safe_dump(self.parameters)]
        with open(out / f"{self.name}.log", "w", encoding="utf-8") as log:
            code = subprocess.run(command, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
        if code == 0:  # only a finished notebook is marked
            notebook = json.loads(executed.read_text(encoding="utf-8"))
            notebook["metadata"][MARK] = self.made_from
            write_json(executed, notebook)
        return code == 0


Job = Notebook | GridRun


def reproduce(
    preset: str, out: Path | str, engine: str = "local", workers: int = 1, notebooks: Path | str | None = None
) -> list[str]:
    """Run the jobs of a preset. Finished jobs of an earlier call are kept.

    Args:
        preset: a name in notebooks/params/, or a YAML file: a grid (see grids.py), or a list of {name, notebook,
            parameters}. {out} in a text parameter is replaced by `out`, relative to the notebook.
        out: the folder of executed notebooks (NAME.ipynb), grid runs (NAME) and logs (NAME.log).
        engine: a name of ENGINES.
        workers: number of jobs that run at the same time.
        notebooks: the folder of the notebooks, by default that of the checkout.

    Returns:
        Names of the jobs that failed.

    Raises:
        UserError: the preset, a notebook or a parameter is wrong; nothing is run then.
    """
    notebooks, out = Path(notebooks or NOTEBOOKS).resolve(), Path(out).resolve()
    jobs = read_preset(preset, notebooks, out)
    run_all = ENGINES[engine]()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another --out") from None
    waiting = [job for job in jobs if not job.finished(out)]
    for job in jobs:
        if job not in waiting:
            print(f"kept    {job.name}", flush=True)
    failed = []
    for job, done in run_all(waiting, out, workers):
        print(f"done    {job.name}" if done else f"FAILED  {job.name}: see {out / job.name}.log", flush=True)
        if not done:
            failed.append(job.name)
    return failed


def read_preset(preset: str, notebooks: Path, out: Path) -> Sequence[Job]:
    """The jobs of a preset, given by its name or file."""
    if not notebooks.is_dir():
        raise UserError(
            f"no notebooks at {notebooks}: they are in the source checkout, install from there with pip install -e ."
        )
    file = Path(preset) if preset.endswith((".yaml", ".yml")) else notebooks / "params" / f"{preset}.yaml"
    if not file.is_file():
        known = sorted(f.stem for f in (notebooks / "params").glob("*.yaml"))
        raise UserError(f"unknown preset {preset}: choose one of {', '.join(known)}, or give a YAML file")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return read_grid(content, file)
        jobs = [notebook_of(notebooks, out, **entry) for entry in content]
    except (yaml.YAMLError, TypeError):
        message = f"{file} is not a preset: expected a grid, or a list of {{name, notebook, parameters}}"
        raise UserError(message) from None
    names = [job.name for job in jobs]
    for job in jobs:
        if names.count(job.name) > 1 or Path(job.name).name != job.name:
            raise UserError(f"{file}: {job.name} must be a plain file name, and be listed once")
        if not job.file.is_file():
            raise UserError(f"{file}: {job.name} needs {job.file.name}, which is not in {notebooks}")
        job.check()
    return jobs


def notebook_of(folder: Path, out: Path, name: str, notebook: str, parameters: dict | None = None) -> Notebook:
    """An entry of a preset, with {out} in its parameters replaced by a relative path."""
    file = folder / notebook
    here = os.path.relpath(out, file.parent)
    text = {k: v.replace("{out}", here) if isinstance(v, str) else v for k, v in (parameters or {}).items()}
    return Notebook(name, file, text)


def source_hash(file: Path) -> str:
    """sha256 of the cells of a notebook, without outputs."""
    cells = [(c.cell_type, c.source) for c in nbformat.read(file, as_version=4).cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def run_job(job: Job, out: Path) -> bool:
    return job.run(out)


Results = Iterator[tuple[Job, bool]]


def local_engine():
    """Run jobs as local processes, `workers` at a time."""

    def run_all(jobs: list[Job], out: Path, workers: int) -> Results:
        threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        with ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(job.run, out, threads): job for job in jobs}
            try:
                yield from ((futures[f], f.result()) for f in as_completed(futures))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # interrupted: jobs that wait are not started
                raise

    return run_all


def ray_engine():
    """Run jobs as tasks of a Ray cluster, whose machines share the checkout and the output folder."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("Ray is not installed: pip install ray, or use --engine local") from None

    def run_all(jobs: list[Job], out: Path, workers: int) -> Results:
        ray.init(ignore_reinit_error=True)
        task = ray.remote(num_cpus=max(1, int(ray.cluster_resources()["CPU"]) // workers))(run_job)
        waiting = {task.remote(job, out): job for job in jobs}
        while waiting:
            (ready,), _ = ray.wait([*waiting], num_returns=1)
            yield waiting.pop(ready), ray.get(ready)

    return run_all


ENGINES = {"local": local_engine, "ray": ray_engine}
