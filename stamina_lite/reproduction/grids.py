"""Grids of runs: a YAML file of runs that share a protocol. Runs can be resumed and are stored with checksums.

A grid has two parts. `protocol` has the set, the options that all rows share, and the settings of every row; its hash
and the row's settings are stored with every run, so that results of different protocols are never mixed. `runs` lists
rows with their seeds and their orders of concepts or numbers of tasks, the most important first. `needs` and `minutes`,
which may be left out, say what a run takes; they are in no hash.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from ..classification.sets import CLASS_SETS
from ..core.settings import renamed
from ..diffusion.concepts import ORDERS, SETS
from ..errors import UserError
from ..methods.registry import make_class_method, make_method
from ..runs.files import read_json, read_record, sha256, write_json
from ..runs.versions import minor_version
from .data_hash import data_hash
from .needs import Needs, read_minutes, read_needs
from .processes import Processes

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"  # of the checkout
PRESETS = NOTEBOOKS / "params"
CHECKSUM_FILE = "cell.json"
BASE = "mini"  # of all runs of grids
NAN = "its results are not finite numbers"


@dataclass(frozen=True)
class GridRun:
    """One run of a grid of concepts: a row of the tables, a seed, and an order of the concepts.

    minutes: how long it takes with one process on its own cores; None: not known.
    """

    row: str
    variant: str | int  # the order of concepts, or the number of tasks
    seed: int
    protocol: dict
    needs: Needs = Needs()
    minutes: float | None = None
    shared: ClassVar[tuple[str, ...]] = ("set", "pictures", "stages", "guidance")  # of the protocol, without rows
    variants: ClassVar[str] = "orders"  # key of a group of runs
    make_method = staticmethod(make_method)

    @classmethod
    def check_variant(cls, variant) -> None:
        if variant not in ORDERS:
            raise UserError(f"unknown order {variant}: choose {', '.join(ORDERS)}")

    @property
    def name(self) -> str:
        return f"{self.row}.{self.variant}.{self.seed}"

    @property
    def places(self) -> list[str]:
        return [self.name]

    @property
    def checksum(self) -> dict:
        return {
            "cell": self.name,
            "row": self.row,
            "settings": renamed(self.protocol["rows"][self.row]),
            "protocol": protocol_hash({key: self.protocol[key] for key in self.shared}),
        }

    def method(self) -> tuple[str, dict]:
        """The row's method and the settings that differ from its defaults."""
        settings = dict(self.protocol["rows"][self.row])
        return settings.pop("method", self.row), settings

    def arguments(self) -> list[str]:
        """Arguments of `stamina-lite bench` other than method, settings and folder."""
        p = self.protocol
        stages = ["--stages", *map(str, p["stages"])] if p["stages"] else []
        order = ["--seed", str(self.seed), "--shuffle", str(self.seed), "--order", str(self.variant)]
        return [p["set"], *order, "--pictures", str(p["pictures"]), "--guidance", str(p["guidance"]), *stages]

    @property
    def made_from(self) -> dict:
        """What a finished run was made from besides its protocol; records of earlier versions do not say it."""
        return {"version": minor_version(), "data": data_hash([self.protocol["set"], BASE])}

    def finished(self, out: Path) -> bool:
        """Whether the run has finished with this protocol, data and version, and its results are unchanged."""
        folder = out / self.name
        if not (folder / CHECKSUM_FILE).exists() or self.outdated(folder):
            return False
        return read_checksum(folder / CHECKSUM_FILE).get("results") == results_hash(folder)

    def outdated(self, folder: Path) -> bool:
        """Whether a folder's run was made with another protocol, other data, or another version."""
        if not (folder / CHECKSUM_FILE).exists():
            about = read_record(folder / "run.json") if (folder / "run.json").exists() else {}
            begun = about.get("versions", {}).get("stamina-lite", minor_version())
            return begun.split(".")[:2] != minor_version().split(".")
        record = read_checksum(folder / CHECKSUM_FILE)
        now = self.checksum | {key: value for key, value in self.made_from.items() if key in record}
        return {key: record.get(key) for key in now} != now

    def run(self, out: Path, threads: int | None, processes: Processes) -> str:
        """Run `stamina-lite bench` in its own process, with its output in out/NAME.log.

        A failure is recorded in the run's folder, so that tables show it; another call resumes the run. A run that is
        outdated is moved to OUT.replaced and begun anew.

        Returns:
            Why it failed, in one line; empty if it did not.

        Raises:
            Interrupted: the run was stopped; another call resumes it.
        """
        folder = out / self.name
        if folder.exists() and self.outdated(folder):
            replaced = out.with_name(f"{out.name}.replaced") / self.name
            shutil.rmtree(replaced, ignore_errors=True)
            replaced.parent.mkdir(exist_ok=True)
            folder.replace(replaced)
        method, settings = self.method()
        arguments = ["bench", *self.arguments(), "--method", method, "--out", str(folder)]
        arguments += [word for key, value in settings.items() for word in option(key, value)]
        environment = {**os.environ, "TQDM_DISABLE": "1"}
        if threads:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        failed = processes.run("stamina_lite.cli", arguments, out / f"{self.name}.log", environment)
        folder.mkdir(exist_ok=True)
        if not failed and has_nan(folder / "results.json"):
            failed = f"{NAN}: lower the row's learning rates or penalties"
        end = {"failed": failed} if failed else {"results": results_hash(folder)}
        write_json(folder / CHECKSUM_FILE, {**self.checksum, **self.made_from, **end})
        return failed


@dataclass(frozen=True)
class ClassGridRun(GridRun):
    """One classification run: a row, a number of tasks, and a seed that also sets the order of classes.

    The protocol may have `heads`, with which every run is tested. They do not change what is trained, so they are not
    in the protocol's hash.
    """

    shared = ("set", "epochs")
    variants = "tasks"
    make_method = staticmethod(make_class_method)

    @classmethod
    def check_variant(cls, variant) -> None:
        if not isinstance(variant, int):
            raise UserError(f"tasks must be whole numbers, not {variant}")

    def arguments(self) -> list[str]:
        p = self.protocol
        heads = ["--head", *p["heads"]] if "heads" in p else []
        return [p["set"], "--seed", str(self.seed), "--tasks", str(self.variant), "--epochs", str(p["epochs"]), *heads]


def read_grid(content: dict, file: Path) -> list[GridRun]:
    """The runs of a grid in their order.

    Args:
        content: the YAML file's content; grids of earlier versions have `cells` for `runs`.
        file: its name, for messages.

    Raises:
        UserError: the content is no grid, or a run's row, order or settings are unknown.
    """
    content = {"runs" if key == "cells" else key: value for key, value in content.items()}
    needs, minutes = read_needs(content.pop("needs", {}), file), content.pop("minutes", None)
    protocol = content.get("protocol")
    classes = isinstance(protocol, dict) and protocol.get("set") in CLASS_SETS
    kind = ClassGridRun if classes else GridRun
    known = sorted((*kind.shared, "rows"))
    given = sorted({*protocol} - ({"heads"} if classes else set())) if isinstance(protocol, dict) else []
    if sorted(content) != ["protocol", "runs"] or not isinstance(protocol, dict) or given != known:
        raise UserError(f"{file} is not a grid: expected runs, and a protocol with {', '.join(kind.shared)}, rows")
    if not classes and protocol["set"] not in SETS:
        raise UserError(f"{file}: unknown set {protocol['set']}: choose one of {', '.join((*SETS, *CLASS_SETS))}")
    for row, settings in protocol["rows"].items():
        kind.make_method(**{"name": row, **{"name" if k == "method" else k: v for k, v in settings.items()}})
    minutes_of = minutes_by_row(minutes, protocol["rows"], file)
    runs = []
    for group in content["runs"]:
        if not isinstance(group, dict) or sorted(group) != sorted(("rows", "seeds", kind.variants)):
            raise UserError(f"{file}: {group} is not a group of runs: expected rows, seeds and {kind.variants}")
        for variant, seed, row in itertools.product(group[kind.variants], group["seeds"], group["rows"]):
            if row not in protocol["rows"]:
                raise UserError(f"{file}: unknown row {row}: the protocol has {', '.join(protocol['rows'])}")
            if type(seed) is not int or seed < 0:
                raise UserError(f"{file}: seeds must be whole numbers from 0, not {seed!r}")
            variant = variant.replace(" ", "-") if isinstance(variant, str) else variant  # as earlier versions had it
            try:
                kind.check_variant(variant)
            except UserError as error:
                raise UserError(f"{file}: {error}") from None
            runs.append(kind(row, variant, seed, protocol, needs, minutes_of[row]))
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise UserError(f"{file}: {name} is listed twice: remove one")
    return runs


def minutes_by_row(content, rows: Iterable[str], file: Path) -> dict[str, float | None]:
    """The minutes of a run of each row: one number for all, or {default: NUMBER, ROW: NUMBER}."""
    given = content if isinstance(content, dict) else {"default": content}
    for name in given:
        if name not in ("default", *rows):
            raise UserError(f"{file}: minutes of an unknown row {name}: the protocol has {', '.join(rows)}")
    return {row: read_minutes(given.get(row, given.get("default")), file) for row in rows}


def load_grid(file: Path) -> list[GridRun]:
    """The runs of a grid's file."""
    return read_grid(yaml.safe_load(file.read_text(encoding="utf-8")), file)


def has_nan(results: Path) -> bool:
    """Whether a file of results has a number that is not finite. Such a run is a failed one."""
    found: list[str] = []
    if results.exists():
        json.loads(results.read_text(encoding="utf-8"), parse_constant=found.append)
    return bool(found)


def protocol_hash(shared: dict) -> str:
    """Hash of the options that all rows share. Rows are not included, so that more can be added later."""
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]


def results_hash(folder: Path) -> dict:
    """sha256 of a run's results and of its run.json."""
    return {name: sha256(folder / name) for name in ("results.json", "run.json") if (folder / name).exists()}


def verify_checksum(folder: Path) -> dict | None:
    """The checksum record of a grid's run; None for other runs.

    Raises:
        UserError: results.json or run.json have changed since the run.
    """
    if not (folder / CHECKSUM_FILE).exists():
        return None
    record = read_checksum(folder / CHECKSUM_FILE)
    if "failed" not in record and record.get("results") != results_hash(folder):
        raise UserError(f"{folder} was changed after its run: restore it, or delete it and run it again")
    return record


def read_checksum(file: Path) -> dict:
    """A checksum record, with the current names of settings."""
    record = read_json(file)
    return {**record, "settings": renamed(record["settings"])} if isinstance(record.get("settings"), dict) else record


def option(key: str, value) -> list[str]:
    """A setting as arguments of the command line."""
    if key == "hard":
        return [] if value else ["--soft"]
    return [f"--{key.replace('_', '-')}", str(value)]
