"""Files that are written completely or not at all, checked by their sha256: safetensors and JSON, never a pickle."""

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import UserError


@contextmanager
def writing(place: Path | str, advice: str = "make room, or choose another --out") -> Iterator[None]:
    """Turn a full disk or a missing permission into a UserError while something is written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write to {place} ({why(error)}): {advice}") from None


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` at the end, and is removed after an error.

    Raises:
        UserError: `out` is there already and not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: choose another --out, or delete it")
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        gc.collect()  # of models that map the files: Windows renames no folder of mapped files
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {out} ({error}): make room, or choose another --out") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_text(file: Path, text: str) -> None:
    """Write to a temporary file and move it into place: a kill or a full disk leaves the old file or the new one."""
    temporary = file.with_name(f".{file.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(file: Path, content) -> None:
    write_text(file, json.dumps(content, indent=1) + "\n")


def write_tensors(file: Path, tensors: dict, about: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of other files; safetensors itself lets only the owner read it."""
    file.touch()
    mode = file.stat().st_mode
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, file, about)
    file.chmod(mode)


def read_json(file: Path):
    """Read a JSON file. Raises UserError if it is missing, cannot be read or is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file} is missing: name a run folder, or start the run anew with another --out") from None
    except OSError as error:
        raise UserError(f"cannot read {file} ({why(error)}): see who may read it, or name another") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{file} is damaged (no JSON): restore it, or start the run anew with another --out") from None


def read_record(file: Path, *needed: str) -> dict:
    """Read a JSON object that has these keys. Raises UserError if it is none or lacks one."""
    content = read_json(file)
    missing = [name for name in needed if name not in content] if isinstance(content, dict) else needed or ("names",)
    if missing:
        raise UserError(f"{file} says no {', '.join(missing)}: restore it, or start the run anew with another --out")
    return content


def cache_folder() -> Path:
    """Where things are kept that can be computed again; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "stamina-lite"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def save_task(folder: Path, tensors: dict, info: dict) -> None:
    """Write tensors.safetensors and task.json (info and the sha256) to a folder that appears complete or not at all."""
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "tensors.safetensors", tensors)
        hashes = {"tensors.safetensors": sha256(temporary / "tensors.safetensors")}
        write_json(temporary / "task.json", {**info, "sha256": hashes})
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def task_info(folder: Path, *needed: str) -> dict:
    """The contents of a stored task's task.json, with these keys. Raises UserError if it is damaged."""
    advice = f"delete {folder} and later tasks to learn them again"
    try:
        info = read_record(folder / "task.json", "sha256", *needed)
    except UserError as error:
        raise UserError(f"{str(error).partition(': ')[0]}: {advice}") from None
    if not isinstance(info["sha256"], dict):
        raise UserError(f"{folder / 'task.json'} is damaged: {advice}")
    return info


def load_task(folder: Path) -> tuple[dict, dict]:
    """(tensors, info) of a stored task. Raises UserError if a file is truncated or was changed."""
    info = task_info(folder)
    for name, expected in info["sha256"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise UserError(
                f"{folder / name} is missing, truncated or altered: delete {folder} and later tasks to learn them again"
            )
    try:
        return load_file(folder / "tensors.safetensors"), info
    except (SafetensorError, FileNotFoundError):
        raise UserError(
            f"{folder}/tensors.safetensors is no safetensors file: delete {folder} to learn it again"
        ) from None
