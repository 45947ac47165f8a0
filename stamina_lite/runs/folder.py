"""A run's folder: what it is of, its tasks, its log; another run is never written over, a killed one goes on."""

import json
import shutil
from pathlib import Path

import torch

from ..core.settings import renamed
from ..errors import UserError
from .files import read_record, save_task, task_info, write_json, write_text, writing
from .versions import versions

UNTOLD = ("base_weights",)  # what run.json of older runs does not tell


class Run:
    """The folder of a run. identity: what makes it this run; a folder of another run is refused (UserError)."""

    def __init__(self, folder: Path | str, identity: dict, device: torch.device):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: give --out a folder")
        about = self.folder / "run.json"
        with writing(self.folder):
            (self.folder / "tasks").mkdir(parents=True, exist_ok=True)
            if not about.exists():
                if any(self.folder.glob("tasks/*")):
                    raise UserError(f"{self.folder} holds tasks but no run.json: choose another --out")
                write_json(about, {**identity, **versions(device)})
                return
        there = {k: v for k, v in read_record(about).items() if k not in ("versions", "device")}
        there["settings"] = renamed(there.get("settings", {}))
        refuse_another_base(self.folder, there, identity)
        here = {k: v for k, v in identity.items() if k in there or k not in UNTOLD}
        other = differences(there, json.loads(json.dumps(here)))
        if other:
            told = "; ".join(other[:3]) + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
            raise UserError(f"{self.folder} holds another run ({told}): choose another --out, or delete it")
        for part in self.folder.glob("tasks/.*.part"):  # what an interrupted task has left
            shutil.rmtree(part)
        drop_log_lines(self.folder / "log.jsonl", after=len(self.tasks()))

    def tasks(self) -> list[Path]:
        """The folders of its finished tasks in order."""
        return tasks_of(self.folder)

    def save(self, record: dict, tensors: dict, steps: list[dict]) -> None:
        """Keep a finished task: its steps in the log, its tensors and its record in a folder that appears complete."""
        with writing(self.folder, "make room and give the same command, the run goes on with this task"):
            with open(self.folder / "log.jsonl", "a") as log:
                for line in steps:
                    log.write(json.dumps({"task": record["task"], **line}) + "\n")
            save_task(self.folder / "tasks" / f"{record['task']:03d}", tensors, record)


def refuse_another_base(run: Path, there: dict, here: dict) -> None:
    """Raise UserError where a run was begun on a base with other weights than the one it is to go on with."""
    if "base" in there and there["base"] != here["base"]:
        begun, given = (f"{about.get('base_model', '')} ({about['base']})".strip() for about in (there, here))
        raise UserError(
            f"{run} was begun on the base {begun}, not on {given}: give --base the one it was begun on, or choose "
            "another --out (an older mini comes with an older stamina-lite)"
        )


def differences(there: dict, here: dict, prefix: str = "") -> list[str]:
    """What a run was begun with and what it is asked to go on with, where they are not the same."""
    told = []
    for key in sorted({*there, *here}):
        a, b = there.get(key), here.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            told += differences(a, b, f"{key} ")
        elif a != b:
            told.append(f"{prefix}{key} is {a} there and {b} here")
    return told


def tasks_of(run: Path) -> list[Path]:
    """The folders of a run's complete tasks in order. Raises UserError where one is missing."""
    folders = sorted(folder for folder in (run / "tasks").glob("[0-9]*") if folder.name.isdecimal())
    for k, folder in enumerate(folders, 1):
        if int(folder.name) != k:
            raise UserError(f"{run}/tasks/{k:03d} is missing: delete the later tasks, or choose another --out")
    return folders


def records_of(folders: list[Path], *needed: str) -> list[dict]:
    """What task.json says of finished tasks, this of each."""
    return [{k: v for k, v in task_info(folder, "task", *needed).items() if k != "sha256"} for folder in folders]


def drop_log_lines(file: Path, after: int) -> None:
    """Keep the log lines of the tasks up to `after`, as far as they are whole."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["task"] <= after:
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # cut off by a kill, or no line of ours
    with writing(file):
        write_text(file, "".join(line + "\n" for line in kept))


def shown(progress: bool) -> dict:
    """For a bar of tqdm: where it is wanted, TQDM_DISABLE decides."""
    return {} if progress else {"disable": True}
