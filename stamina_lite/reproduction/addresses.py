"""Results at an fsspec address (s3://BUCKET/FOLDER): runs work in a folder of their machine and are copied there.

A run begins with what the address has of it, is copied after every finished task, and whole when it ends; then it is
removed from the machine. An address is no file system: a file is there whole or not at all, a folder is not. So a
task's tensors are copied before its record, what ends a run is copied last, and what lacks its record is not fetched.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from ..errors import UserError, first_line
from ..runs.files import cache_folder
from .engines import Job
from .grids import CHECKSUM_FILE
from .needs import Needs
from .processes import Processes

EVERY = 5.0  # seconds between two looks for finished tasks
RECORDS = (CHECKSUM_FILE, "results.json", "run.json")  # of a run, which say whether it has finished


def is_address(place: Path | str) -> bool:
    """Whether a place is an address, not a folder."""
    return "://" in str(place)


class Address:
    """A folder at an fsspec address.

    Attributes:
        work: the folder of this machine in which its runs work.

    Raises:
        UserError: no file system is known for the address, or its package is missing.
    """

    def __init__(self, url: str):
        import fsspec  # is not needed for folders

        self.url, protocol = url.rstrip("/"), url.partition("://")[0]
        if protocol not in fsspec.available_protocols():
            raise UserError(f"{url}: unknown kind of address {protocol}://, give s3://, gs://, file:// or a folder")
        options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        try:
            with reaching(self.url):
                self.files, self.root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise UserError(f"{url} needs a package that is missing: {first_line(error)}") from None
        self.work = cache_folder() / "addresses" / sha256(self.url.encode()).hexdigest()[:16]

    def names(self, places: Sequence[str] = ("",)) -> list[str]:
        """Names of these files, and of all files in these folders; by default of all."""
        with reaching(self.url):
            self.files.invalidate_cache()
            found = [file for place in places for file in self.files.find(f"{self.root}/{place}".rstrip("/"))]
        return [file.removeprefix(self.root).strip("/") for file in found]

    def fetch(self, names: Sequence[str]) -> None:
        """Copy files to the folder of this machine."""
        with reaching(self.url):
            for name in names:
                (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            if names:
                self.files.get([f"{self.root}/{name}" for name in names], [str(self.work / name) for name in names])

    def store(self, names: Sequence[str]) -> None:
        """Copy files of this machine to the address, those that end something after the others."""
        with reaching(self.url):
            for last in range(4):
                some = [name for name in names if rank(name) == last]
                if some:
                    self.files.put([str(self.work / name) for name in some], [f"{self.root}/{name}" for name in some])

    def remove(self, names: Sequence[str]) -> None:
        with reaching(self.url):
            if names:
                self.files.rm([f"{self.root}/{name}" for name in names])

    def fetch_records(self) -> None:
        """Fetch what says which runs have finished: records of grids' runs, and executed notebooks."""
        for file in [*self.work.glob(f"*/{CHECKSUM_FILE}"), *self.work.glob("*.ipynb")]:  # of an earlier command
            file.unlink()
        paths = map(PurePosixPath, self.names())
        self.fetch([str(p) for p in paths if (len(p.parts) == 2 and p.name in RECORDS) or is_notebook(p)])


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what a file system raises into a UserError."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # every file system has errors of its own
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"cannot read or write {url} ({reason}): see its name, your rights and the network") from None


@dataclass(frozen=True)
class AtAddress:
    """A job whose results are at an address. It works in a folder of the machine that runs it."""

    job: Job
    url: str

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def needs(self) -> Needs:
        return self.job.needs

    @property
    def minutes(self) -> float | None:
        return self.job.minutes

    @property
    def places(self) -> list[str]:
        return [*self.job.places, f"{self.name}.log"]

    def finished(self, out: Path) -> bool:
        return self.job.finished(out)

    def run(self, out: Path, threads: int | None, processes: Processes) -> str:
        """Run the job in `Address.work` of this machine, whatever `out` is. Arguments and errors as for the job."""
        address = Address(self.url)
        copy = Copy(address, self.places)
        try:
            copy.begin()
            try:
                with copy.followed():
                    return self.job.run(address.work, threads, processes)
            finally:
                copy.end()
        except UserError as error:
            return f"{error}; what there is of it here is in {address.work}"


class Copy:
    """The files of one job, on this machine and at an address. places: names of its files and folders."""

    def __init__(self, address: Address, places: Sequence[str]):
        self.address, self.places = address, places
        self.stored: dict[str, tuple[int, int]] = {}  # what the address has: name -> state of the file here

    def here(self) -> dict[str, tuple[int, int]]:
        """State of every file on this machine, its time and size. Unfinished files are left out."""
        states, work = {}, self.address.work
        for place in self.places:
            found = [work / place] if (work / place).is_file() else []
            for folder, _, names in os.walk(work / place):  # passes over folders that are removed meanwhile
                found += [Path(folder, name) for name in names]
            for file in found:
                try:
                    status = file.stat()
                except FileNotFoundError:
                    continue
                path = file.relative_to(work)
                if not any(part.startswith(".") for part in path.parts):
                    states[path.as_posix()] = status.st_mtime_ns, status.st_size
        return states

    def begin(self) -> None:
        """Fetch what the address has, if it is not less than what a command that was killed has left here."""
        there = whole(self.address.names(self.places))
        if len(tasks(self.here())) > len(tasks(there)):
            self.store(self.here())
            return
        for place in self.places:
            remove(self.address.work / place)
        self.address.work.mkdir(parents=True, exist_ok=True)
        self.address.fetch(there)
        self.stored = self.here()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Meanwhile, copy every finished task."""
        over = threading.Event()
        follower = threading.Thread(target=self.follow, args=(over,))
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()

    def follow(self, over: threading.Event) -> None:
        """Copy what there was when the newest task had finished, until `over`; later files may be incomplete."""
        while not over.wait(EVERY):
            found = self.here()
            finished = tasks(found)
            if finished - {*self.stored}:
                newest = max(found[name][0] for name in finished)
                try:  # a second look, as the first may have missed files that are older than the newest task
                    self.store({name: state for name, state in self.here().items() if state[0] <= newest})
                except UserError:
                    continue  # the end says so, if it lasts

    def store(self, found: dict[str, tuple[int, int]]) -> None:
        """Copy the files that the address does not have in this state."""
        self.address.store([name for name, state in found.items() if self.stored.get(name) != state])
        self.stored |= found

    def end(self) -> None:
        """Copy all, with a run that was replaced, and remove it here. Files that are no more are removed there too."""
        found, address = self.here(), self.address
        self.store(found)
        address.remove([name for name in address.names(self.places) if name not in found])
        replaced = address.work.with_name(f"{address.work.name}.replaced")
        if replaced.is_dir():
            older = Address(f"{address.url}.replaced")
            older.work = replaced
            Copy(older, [place for place in self.places if (replaced / place).exists()]).end()
        for place in self.places:
            remove(address.work / place)


def tasks(names: Sequence[str] | dict) -> set[str]:
    """The records of finished tasks among these files."""
    return {name for name in names if rank(name) == 2}


def whole(names: Sequence[str]) -> list[str]:
    """The files without tasks whose record is missing, and without those that follow a missing task."""
    records, kept = tasks(names), []
    for name in names:
        home = PurePosixPath(name).parent
        if home.parent.name != "tasks" or not home.name.isdecimal():
            kept.append(name)
        elif all(f"{home.parent}/{k:03d}/task.json" in records for k in range(1, int(home.name) + 1)):
            kept.append(name)
    return kept


def rank(name: str) -> int:
    """When a file is copied: 0 first, 1 tensors of tasks, 2 records of tasks, 3 what says that a run has finished."""
    path = PurePosixPath(name)
    if path.name == CHECKSUM_FILE or is_notebook(path):
        return 3
    if path.parent.parent.name == "tasks":
        return 2 if path.name == "task.json" else 1
    return 0


def is_notebook(path: PurePosixPath) -> bool:
    return len(path.parts) == 1 and path.suffix == ".ipynb"


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        os.remove(path)
