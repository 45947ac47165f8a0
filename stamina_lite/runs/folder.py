"""A run's folder: its identity, its tasks, its log. Another run is never overwritten; a killed run is resumed."""

import json
import shutil
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..core.settings import renamed
from ..errors import UserError
from .files import read_record, save_task, task_info, write_json, write_text, writing
from .versions import versions

ADDED = ("base_weights",)  # keys that run.json of earlier versions does not have
PLACES = ("base_model", "base_config")  # where the base was found; what it is, its weights say


class Run:
    """The folder of a run.

    Args:
        identity: what makes it this run and no other, written to run.json.

    Raises:
        UserError: the folder has another run, or cannot be written.
    """

    def __init__(self, folder: Path | str, identity: dict, device: torch.device):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: give --out a folder")
        about = self.folder / "run.json"
        with writing(self.folder):
            (self.folder / "tasks").mkdir(parents=True, exist_ok=True)
            self.lock = lock(self.folder)
            if not about.exists():
                if any(self.folder.glob("tasks/*")):
                    raise UserError(f"{self.folder} holds tasks but no run.json: choose another --out")
                write_json(about, {**identity, **versions(device)})
                return
        record = read_record(about)
        stored = {k: v for k, v in record.items() if k not in ("versions", "device")}
        stored["settings"] = renamed(stored.get("settings", {}))
        refuse_another_base(self.folder, stored, identity)
        given = {k: v for k, v in identity.items() if k in stored or k not in ADDED}
        whole = "base" if stored.get("half") == "classification" else "base_weights"  # the hash of all weights
        places = {k: v for k, v in given.items() if k in PLACES}
        if whole in stored and stored[whole] == given.get(whole):  # the same base, wherever it is
            stored, given = ({k: v for k, v in each.items() if k not in PLACES} for each in (stored, given))
        found = differences(stored, json.loads(json.dumps(given)))
        if found:
            summary = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
            raise UserError(f"{self.folder} holds another run ({summary}): choose another --out, or delete it")
        if places != {k: v for k, v in record.items() if k in PLACES}:
            write_json(about, {k: v for k, v in record.items() if k not in PLACES} | places)
        for part in self.folder.glob("tasks/.*.part"):  # left by an interrupted task
            shutil.rmtree(part)
        drop_log_lines(self.folder / "log.jsonl", after=len(self.tasks()))

    def tasks(self) -> list[Path]:
        """The folders of the finished tasks, in order."""
        return tasks_of(self.folder)

    def save(self, record: dict, tensors: dict, steps: list[dict]) -> None:
        """Store a finished task: its steps in the log, its tensors and its record in a folder of their own."""
        with writing(self.folder, "make room and give the same command, the run goes on with this task"):
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
                for line in steps:
                    log.write(json.dumps({"task": record["task"], **line}) + "\n")
            save_task(self.folder / "tasks" / f"{record['task']:03d}", tensors, record)


def lock(folder: Path) -> FileLock:
    """Lock a run's folder for this process, until the lock is deleted; the system releases it if the process dies.

    Raises:
        UserError: another process has the folder.
    """
    run_lock = FileLock(folder / ".lock", is_singleton=True)  # one process may open a run several times
    try:
        run_lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder} is in use by another process: wait for it, or choose another --out") from None
    return run_lock


def refuse_another_base(run: Path, stored: dict, given: dict) -> None:
    """Raise UserError if a run began on a base with other weights than the given one."""
    if "base" in stored and stored["base"] != given["base"]:
        first, second = (f"{about.get('base_model', '')} ({about['base']})".strip() for about in (stored, given))
        raise UserError(
            f"{run} was begun on the base {first}, not on {second}: give --base the one it was begun on, or choose "
            "another --out (an older mini comes with an older stamina-lite)"
        )


def differences(stored: dict, given: dict, prefix: str = "") -> list[str]:
    """Where a run's identity differs from the one it is asked to go on with, a sentence for each key."""
    found = []
    for key in sorted({*stored, *given}):
        a, b = stored.get(key), given.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{key} ")
        elif a != b:
            found.append(f"{prefix}{key} is {a} there and {b} here")
    return found


def tasks_of(run: Path) -> list[Path]:
    """The folders of a run's finished tasks, in order. Raises UserError if one is missing."""
    folders = sorted(folder for folder in (run / "tasks").glob("[0-9]*") if folder.name.isdecimal())
    for k, folder in enumerate(folders, 1):
        if int(folder.name) != k:
            raise UserError(f"{run}/tasks/{k:03d} is missing: delete the later tasks, or choose another --out")
    return folders


def records_of(folders: list[Path], *needed: str) -> list[dict]:
    """The records of finished tasks, which have these keys."""
    return [{k: v for k, v in task_info(folder, "task", *needed).items() if k != "sha256"} for folder in folders]


def drop_log_lines(file: Path, after: int) -> None:
    """Delete the log lines of tasks later than `after`, and incomplete lines."""
    if not file.exists():
        return
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["task"] <= after:
                lines.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # cut off by a kill, or not one of ours
    with writing(file):
        write_text(file, "".join(line + "\n" for line in lines))


def shown(progress: bool) -> dict:
    """Options of tqdm: without progress the bar is disabled, with it TQDM_DISABLE decides."""
    return {} if progress else {"disable": True}
