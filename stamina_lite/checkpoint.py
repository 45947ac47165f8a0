"""Files that are written whole or not at all, and known again by their sha256: safetensors and JSON, never a pickle."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .data import UserError


def write_json(file: Path, content) -> None:
    """Written beside and moved into place: a kill leaves the old file or the new one."""
    beside = file.with_name(f".{file.name}.part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, file)


def read_json(file: Path):
    """Raises UserError where the file is missing or no JSON."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file} is missing: name a run folder, or start the run anew with another --out") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{file} is damaged (no JSON): restore it, or start the run anew with another --out") from None


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def save_task(folder: Path, tensors: dict, info: dict) -> None:
    """Write tensors.safetensors and task.json (info and the sha256) as one folder that appears complete."""
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, beside / "tensors.safetensors")
    write_json(
        beside / "task.json", {**info, "sha256": {"tensors.safetensors": sha256(beside / "tensors.safetensors")}}
    )
    os.replace(beside, folder)


def load_task(folder: Path) -> tuple[dict, dict]:
    """(tensors, info) of a saved task; a truncated or altered file raises UserError."""
    info = read_json(folder / "task.json")
    for name, expected in info["sha256"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise UserError(
                f"{folder / name} is missing, truncated or altered: delete {folder} and later tasks to learn them again"
            )
    try:
        return load_file(folder / "tensors.safetensors"), info
    except SafetensorError:
        raise UserError(
            f"{folder}/tensors.safetensors is no safetensors file: delete {folder} to learn it again"
        ) from None
