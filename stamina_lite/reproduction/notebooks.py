"""Batch execution of presets: notebooks by papermill, or a grid of runs. Finished jobs are kept, failed ones named."""

import tempfile
from contextlib import closing
from pathlib import Path

from tqdm.auto import tqdm

from ..errors import UserError
from ..runs.folder import lock
from . import plan as plans
from .addresses import Address, AtAddress, is_address
from .engines import Job, local_engine
from .grids import NOTEBOOKS
from .presets import Selection, read_preset
from .ray_engine import ray_engine

ALL = Selection()


def reproduce(
    preset: str, out: Path | str, engine: str = "local", workers: int | None = None,
    notebooks: Path | str | None = None, selection: Selection = ALL, address: str | None = None,
) -> list[str]:  # fmt: skip
    """Run the jobs of a preset. Finished jobs of an earlier call are kept.

    Args:
        preset: a name in notebooks/params/, or a YAML file: a grid (see grids.py), or a list of {name, notebook,
            parameters}. {out} in a text parameter is replaced by `out`, relative to the notebook.
        out: the folder of executed notebooks (NAME.ipynb), grid runs (NAME) and logs (NAME.log), or an fsspec address.
        engine: local or ray.
        workers: number of jobs that run at the same time; None: one, or as many as a Ray cluster has room for.
        notebooks: the folder of the notebooks, by default that of the checkout.
        selection: which jobs, and with which changes.
        address: of a Ray cluster, see `ray_engine`.

    Returns:
        Names of the jobs that failed.

    Raises:
        UserError: the preset, a notebook or a parameter is wrong, and nothing is run then; or another process uses
            `out`, or the cluster cannot be used.
    """
    place, there, out = place_of(out)
    jobs = jobs_of(preset, notebooks, selection, there)
    run_all = ray_engine(workers, address) if engine == "ray" else local_engine(workers or 1)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another --out") from None
    failed = []
    with lock(out):
        if there:
            there.fetch_records()
        left, kept = divide(jobs, out)
        for job in kept:
            print(f"kept    {job.name}", flush=True)
        with tqdm(total=len(jobs), initial=len(kept), unit="run") as bar, closing(run_all(left, out)) as outcomes:
            for job, outcome in outcomes:
                end = f"{job.name}  {outcome.seconds:.0f} s"
                if outcome.failed:
                    failed.append(job.name)
                    end += f": {outcome.failed}; see {place}/{job.name}.log"
                bar.write(f"FAILED  {end}" if outcome.failed else f"done    {end}")
                bar.update()
    return failed


def plan(
    preset: str, out: Path | str, workers: int | None = None, notebooks: Path | str | None = None,
    selection: Selection = ALL,
) -> list[str]:  # fmt: skip
    """What `reproduce` would run, in lines; nothing is run. Arguments and errors as there."""
    _, there, out = place_of(out)
    jobs = jobs_of(preset, notebooks, selection, there)
    with tempfile.TemporaryDirectory() as records:  # not where another command may be at work
        if there:
            there.work = out = Path(records)
            there.fetch_records()
        left, kept = divide(jobs, out)
        return plans.plan(left, kept, out, workers or 1)


def place_of(out: Path | str) -> tuple[Path | str, Address | None, Path]:
    """Where results go, as messages name it; the address, if it is one; the folder of this machine."""
    if is_address(out):
        address = Address(str(out))
        return address.url, address, address.work
    return Path(out).resolve(), None, Path(out).resolve()


def jobs_of(preset: str, notebooks: Path | str | None, selection: Selection, there: Address | None) -> list[Job]:
    """The selected jobs of a preset."""
    jobs = read_preset(preset, Path(notebooks or NOTEBOOKS).resolve(), selection)
    return [AtAddress(job, there.url) for job in jobs] if there else [*jobs]


def divide(jobs, out: Path) -> tuple[list[Job], list[Job]]:
    """The jobs that are left, and those that have finished."""
    left: list[Job] = []
    kept: list[Job] = []
    for job in jobs:
        (kept if job.finished(out) else left).append(job)
    return left, kept
