"""Grids of runs: a YAML file of runs that share a protocol. Runs can be resumed and are stored with checksums.

A grid has two parts. `protocol` has the set, the options that all rows share, and the settings of every row; its hash
and the row's settings are stored with every run, so that results of different protocols are never mixed. `runs` lists
rows with their seeds and their orders of concepts or numbers of tasks, the most important first.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from ..classification.sets import CLASS_SETS
from ..core.settings import renamed
from ..diffusion.concepts import ORDERS, SETS
from ..errors import UserError
from ..methods.registry import make_class_method, make_method
from ..runs.files import read_json, sha256, write_json

CHECKSUM_FILE = "cell.json"


@dataclass(frozen=True)
class GridRun:
    """One run of a grid of concepts: a row of the tables, a seed, and an order of the concepts."""

    row: str
    variant: str | int  # the order of concepts, or the number of tasks
    seed: int
    protocol: dict
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

    def finished(self, out: Path) -> bool:
        """Whether the run has finished with this protocol and its results are unchanged."""
        folder = out / self.name
        if not (folder / CHECKSUM_FILE).exists():
            return False
        return read_checksum(folder / CHECKSUM_FILE) == {**self.checksum, "results": results_hash(folder)}

    def run(self, out: Path, threads: int | None = None) -> bool:
        """Run `stamina-lite bench` in its own process, with its output in out/NAME.log; returns False if it failed.

        A failure is recorded in the run's folder, so that tables show it. Another call resumes the run.
        """
        folder = out / self.name
        method, settings = self.method()
        command = [sys.executable, "-m", "stamina_lite.cli", "bench", *self.arguments(), "--method", method]
        command += [word for key, value in settings.items() for word in option(key, value)]
        environment = {**os.environ, "TQDM_DISABLE": "1"}
        if threads:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        log = out / f"{self.name}.log"
        with open(log, "w", encoding="utf-8") as file:
            done = subprocess.run([*command, "--out", str(folder)], env=environment, stdout=file, stderr=file)
        folder.mkdir(exist_ok=True)
        if done.returncode == 0:
            write_json(folder / CHECKSUM_FILE, {**self.checksum, "results": results_hash(folder)})
        else:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
            write_json(folder / CHECKSUM_FILE, {**self.checksum, "failed": lines[-1]})
        return done.returncode == 0


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
    protocol = content.get("protocol")
    classes = isinstance(protocol, dict) and protocol.get("set") in CLASS_SETS
    kind = ClassGridRun if classes else GridRun
    known = sorted((*kind.shared, "rows"))
    given = sorted({*protocol} - ({"heads"} if classes else set())) if isinstance(protocol, dict) else []
    if sorted(content) != ["protocol", "runs"] or not isinstance(protocol, dict) or given != known:
        raise UserError(f"{file} is not a grid: expected runs, and a protocol with {', '.join(kind.shared)}, rows")
    if not classes and protocol["set"] not in SETS:
        raise UserError(f"{file}: unknown set {protocol['set']}: choose one of {', '.join((*SETS, *CLASS_SETS))}")
    runs = []
    for group in content["runs"]:
        if not isinstance(group, dict) or sorted(group) != sorted(("rows", "seeds", kind.variants)):
            raise UserError(f"{file}: {group} is not a group of runs: expected rows, seeds and {kind.variants}")
        for variant, seed, row in itertools.product(group[kind.variants], group["seeds"], group["rows"]):
            if row not in protocol["rows"]:
                raise UserError(f"{file}: unknown row {row}: the protocol has {', '.join(protocol['rows'])}")
            variant = variant.replace(" ", "-") if isinstance(variant, str) else variant  # as earlier versions had it
            try:
                kind.check_variant(variant)
            except UserError as error:
                raise UserError(f"{file}: {error}") from None
            runs.append(kind(row, variant, seed, protocol))
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise UserError(f"{file}: {run.name} is listed twice: remove one")
        method, settings = run.method()
        kind.make_method(method, **settings)
    return runs


def load_grid(file: Path) -> list[GridRun]:
    """The runs of a grid's file."""
    return read_grid(yaml.safe_load(file.read_text(encoding="utf-8")), file)


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
