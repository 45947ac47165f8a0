"""What runs the jobs of a preset: processes of this machine, or a Ray cluster (ray_engine.py)."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..runs.files import writing
from .needs import Needs
from .processes import Processes


class Job(Protocol):
    """A notebook, or a run of a grid."""

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> Needs: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def places(self) -> list[str]: ...  # its files and folders in `out`, without its log
    def finished(self, out: Path) -> bool: ...
    def run(self, out: Path, threads: int | None, processes: Processes) -> str: ...


@dataclass(frozen=True)
class Outcome:
    """failed: why, in one line, or empty. seconds: of the job alone."""

    failed: str
    seconds: float


Outcomes = Generator[tuple[Any, Outcome], None, None]
Engine = Callable[[Sequence[Any], Path], Outcomes]


def run_job(job: Job, out: Path, threads: int | None, processes: Processes) -> Outcome:
    """Run a job to its end. Raises UserError if the disk is full, or it may not write."""
    start = time.monotonic()
    with writing(out, "make room and give the same command, runs go on"):
        failed = job.run(out, threads, processes)
    return Outcome(failed, time.monotonic() - start)


def local_engine(workers: int) -> Engine:
    """An engine of local processes, `workers` at a time, which share the CPUs' threads."""

    def run_all(jobs: Sequence[Any], out: Path) -> Outcomes:
        threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        processes = Processes()
        with ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(run_job, job, out, threads, processes): job for job in jobs}
            try:
                yield from ((futures[f], f.result()) for f in as_completed(futures))
            except BaseException:  # interrupted: jobs that wait are not started, the others are stopped
                pool.shutdown(wait=False, cancel_futures=True)
                processes.stop()
                raise

    return run_all
