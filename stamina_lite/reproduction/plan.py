"""What `reproduce --dry-run` prints: the jobs that are left, their time and their space."""

import heapq
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from .engines import Job

SAMPLED = 20  # finished runs that are measured for the space of one
GIB = 2**30


def plan(left: Sequence[Job], finished: Sequence[Job], out: Path, workers: int) -> list[str]:
    """A line for every job that is left, and one for all.

    Hours are those of the preset's `minutes`, space is the mean of finished runs or the preset's `needs: {disk}`.
    """
    lines = [f"{job.name}  {job.minutes:g} min" if job.minutes is not None else job.name for job in left]
    known = [job.minutes for job in left if job.minutes is not None]
    parts = [f"{len(left)} to run, {len(finished)} finished"]
    if known:
        missing = f", without {len(left) - len(known)} whose time is not known" if len(known) < len(left) else ""
        parts.append(
            f"{sum(known) / 60:.1f} h in all, {makespan(known, workers) / 60:.1f} h with {workers} at a time{missing}"
        )
    elif left:
        parts.append("time not known (the preset states no minutes)")
    space = disk(left, finished, out)
    parts.append("space not known (the preset states no disk)" if space is None else f"{space:.1f} GiB of disk")
    return [*lines, "; ".join(parts)]


def makespan(minutes: Sequence[float], workers: int) -> float:
    """Minutes until the last job ends, where `workers` take them one after another in their order."""
    ends = [0.0] * workers
    for job in minutes:
        heapq.heapreplace(ends, ends[0] + job)
    return max(ends)


def disk(left: Sequence[Job], finished: Sequence[Job], out: Path) -> float | None:
    """GiB that the jobs take which are left; None: not known."""
    folders = [out / job.name for job in finished if (out / job.name).is_dir()]
    if folders:
        sizes = [size(folder) for folder in islice(folders, SAMPLED)]
        return len(left) * sum(sizes) / len(sizes) / GIB
    stated = [job.needs.disk for job in left]
    return None if None in stated else float(sum(space for space in stated if space is not None))


def size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
