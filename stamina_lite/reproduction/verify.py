"""Whether stored runs are unchanged, and whether one that is trained anew comes out the same."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..classification.sets import EMBEDDED
from ..core.settings import renamed
from ..diffusion.concepts import SETS
from ..errors import UserError
from ..runs.files import read_record, sha256, task_info
from ..runs.folder import differences, tasks_of
from .grids import option, verify_checksum

NEVER_THE_SAME = ("seconds", "peak_memory")  # keys of results


def verify(run: Path) -> str:
    """Compare the files of a run with their checksums.

    Returns:
        What was compared, in a few words.

    Raises:
        UserError: a file was changed, or is missing or damaged.
    """
    read_record(run / "run.json")
    record, tasks = verify_checksum(run), tasks_of(run)
    for folder in tasks:
        info = task_info(folder)
        files = {folder / name: expected for name, expected in info["sha256"].items()}
        if folder == tasks[-1] and "heads_sha256" in info:
            files[run / f"heads-{int(folder.name):03d}.safetensors"] = info["heads_sha256"]
        for file, expected in files.items():
            if not file.is_file() or sha256(file) != expected:
                raise UserError(f"{file} was changed or is missing: restore it, or learn the run again")
    if record is None:
        return f"{len(tasks)} tasks; its results have no checksum, it is of no grid"
    return f"{len(tasks)} tasks, " + (f"failed: {record['failed']}" if "failed" in record else "results and run.json")


def retrain(run: Path, bench: Callable[[list[str]], object]) -> str:
    """Train a run anew in a temporary folder, and compare its results and its tasks' tensors bit for bit.

    Times and memory are not compared.

    Args:
        bench: `stamina-lite bench` with these arguments.

    Returns:
        What was compared, in a few words.

    Raises:
        UserError: they differ, or the run cannot be trained here from what it stores.
    """
    before, tasks = read_record(run / "results.json", "tasks"), tasks_of(run)
    arguments = bench_arguments(run, before)
    with tempfile.TemporaryDirectory() as temporary:
        anew = Path(temporary) / "run"
        anew.mkdir()
        shutil.copy(run / "run.json", anew)  # another base or other data are refused before anything is trained
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                bench([*arguments, "--out", str(anew)])
        except UserError as error:
            reason = str(error).partition(": ")[0].replace(str(anew), "its run.json")
            raise UserError(f"{run} cannot be trained anew: {reason}") from None
        after = read_record(anew / "results.json")
        before, after = ({k: v for k, v in each.items() if k not in NEVER_THE_SAME} for each in (before, after))
        found = differences(before, after)
        for folder in tasks:
            if task_info(folder)["sha256"] != task_info(anew / "tasks" / folder.name)["sha256"]:
                found.append(f"the tensors of task {int(folder.name)} are others")
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        shown = found[0] if len(found[0]) < 200 else f"{found[0][:200]} …"
        raise UserError(f"{run} is another when trained anew: {shown}{more}; see the versions in its run.json")
    return f"trained anew: results and {len(tasks)} tasks are equal bit for bit"


def bench_arguments(run: Path, results: dict) -> list[str]:
    """The arguments of `stamina-lite bench` that a finished run was made with. Raises UserError if they are unknown."""
    about = read_record(run / "run.json", "method", "settings", "seed", "set")
    classes = about.get("half") == "classification"
    if about["set"] not in (EMBEDDED if classes else SETS) or "sizes" in about or (classes and "order" in about):
        raise UserError(f"{run} has learned {about['set']} from a folder or in an order of its own: train it by hand")
    lengths = [len(task) for task in results["tasks"]] if classes else [len(results["tasks"])]
    arguments = [about["set"], "--method", about["method"], "--seed", str(about["seed"])]
    arguments += ["--concepts", str(sum(lengths))]
    for key in ("base_model", "base_config", "features", "pictures", "shuffle", "order", "stages", "tasks", "heads"):
        values = about.get(key) if isinstance(about.get(key), list) else [about[key]] if key in about else []
        names = {"base_model": "base", "heads": "head"}
        arguments += [f"--{names.get(key, key).replace('_', '-')}", *map(str, values)] if values else []
    return arguments + [word for key, value in renamed(about["settings"]).items() for word in option(key, value)]
