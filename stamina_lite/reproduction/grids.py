"""A claim as a grid: many `bench` runs under one protocol, each a cell that stands alone, can be resumed and is sealed.

A grid is a YAML file with two parts. `protocol` is the set, what all rows share, and the settings of every row of the
tables; a hash of what is shared and the row's settings go into every cell, so that results of two protocols never meet.
`cells` says which rows are run with which seeds, and orders of concepts or numbers of tasks, the most important first.
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

from ..classification.datasets import CLASS_SETS
from ..core.settings import renamed
from ..diffusion.concepts import ORDERS, SETS
from ..errors import UserError
from ..methods.registry import make_class_method, make_method
from ..runs.files import read_json, sha256, write_json

SEAL = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One run of the grid: a row of the tables, learned with one seed in one way, under a protocol."""

    row: str
    way: str | int  # of `ways`
    seed: int
    protocol: dict
    shared: ClassVar[tuple[str, ...]] = ("set", "pictures", "stages", "guidance")  # what a protocol says of all rows
    ways: ClassVar[str] = "orders"  # what a group of cells calls them
    make_method = staticmethod(make_method)

    @classmethod
    def check_way(cls, way) -> None:
        if way not in ORDERS:
            raise UserError(f"unknown order {way}: choose {', '.join(ORDERS)}")

    @property
    def name(self) -> str:
        return f"{self.row}.{str(self.way).replace(' ', '-')}.{self.seed}"

    @property
    def seal(self) -> dict:
        return {
            "cell": self.name,
            "row": self.row,
            "settings": renamed(self.protocol["rows"][self.row]),
            "protocol": protocol_hash({key: self.protocol[key] for key in self.shared}),
        }

    def method(self) -> tuple[str, dict]:
        """The row's method and the settings that differ from that method's own."""
        settings = dict(self.protocol["rows"][self.row])
        return settings.pop("method", self.row), settings

    def arguments(self) -> list[str]:
        """What `stamina-lite bench` is told beside method, settings and folder."""
        p = self.protocol
        stages = ["--stages", *map(str, p["stages"])] if p["stages"] else []
        order = ["--seed", str(self.seed), "--shuffle", str(self.seed), "--order", str(self.way).replace(" ", "-")]
        return [p["set"], *order, "--pictures", str(p["pictures"]), "--guidance", str(p["guidance"]), *stages]

    def finished(self, out: Path) -> bool:
        """Whether the cell was run to its end under this protocol, and its results are as they were then."""
        folder = out / self.name
        if not (folder / SEAL).exists():
            return False
        return read_seal(folder / SEAL) == {**self.seal, "results": results_hash(folder)}

    def run(self, out: Path, threads: int | None = None) -> bool:
        """`stamina-lite bench` in a process of its own, its output in out/NAME.log; False if it failed.

        A failure is written into the cell's folder, so that tables can say so; running it again goes on with the run.
        """
        folder = out / self.name
        method, settings = self.method()
        command = [sys.executable, "-m", "stamina_lite.cli", "bench", *self.arguments(), "--method", method]
        command += [word for key, value in settings.items() for word in option(key, value)]
        environment = {**os.environ, "TQDM_DISABLE": "1"}
        if threads:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        log = out / f"{self.name}.log"
        with open(log, "w") as file:
            done = subprocess.run([*command, "--out", str(folder)], env=environment, stdout=file, stderr=file)
        folder.mkdir(exist_ok=True)
        if done.returncode == 0:
            write_json(folder / SEAL, {**self.seal, "results": results_hash(folder)})
        else:
            said = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
            write_json(folder / SEAL, {**self.seal, "failed": said[-1]})
        return done.returncode == 0


@dataclass(frozen=True)
class ClassCell(Cell):
    """One run of the classification half: a row, learned in so many tasks, in the seed's order of classes."""

    shared = ("set", "epochs")
    ways = "tasks"
    make_method = staticmethod(make_class_method)

    @classmethod
    def check_way(cls, way) -> None:
        if not isinstance(way, int):
            raise UserError(f"tasks are counted, not {way}: give whole numbers")

    def arguments(self) -> list[str]:
        p = self.protocol
        return [p["set"], "--seed", str(self.seed), "--tasks", str(self.way), "--epochs", str(p["epochs"])]


def read_grid(content: dict, file: Path) -> list[Cell]:
    """The cells of a grid in their order. Raises UserError where the file says something that cannot be run."""
    protocol = content.get("protocol")
    classes = isinstance(protocol, dict) and protocol.get("set") in CLASS_SETS
    kind = ClassCell if classes else Cell
    known = sorted((*kind.shared, "rows"))
    if sorted(content) != ["cells", "protocol"] or not isinstance(protocol, dict) or sorted(protocol) != known:
        raise UserError(f"{file} is no grid: expected cells, and a protocol of {', '.join(kind.shared)}, rows")
    if not classes and protocol["set"] not in SETS:
        raise UserError(f"{file}: unknown set {protocol['set']}: choose one of {', '.join((*SETS, *CLASS_SETS))}")
    cells = []
    for entry in content["cells"]:
        if not isinstance(entry, dict) or sorted(entry) != sorted(("rows", "seeds", kind.ways)):
            raise UserError(f"{file}: {entry} is no group of cells: expected rows, seeds and {kind.ways}")
        for way, seed, row in itertools.product(entry[kind.ways], entry["seeds"], entry["rows"]):
            if row not in protocol["rows"]:
                raise UserError(f"{file}: unknown row {row}: the protocol has {', '.join(protocol['rows'])}")
            try:
                kind.check_way(way)
            except UserError as error:
                raise UserError(f"{file}: {error}") from None
            cells.append(kind(row, way, seed, protocol))
    names = [cell.name for cell in cells]
    for cell in cells:
        if names.count(cell.name) > 1:
            raise UserError(f"{file}: {cell.name} stands there twice: take one away")
        method, settings = cell.method()
        kind.make_method(method, **settings)
    return cells


def load_grid(file: Path) -> list[Cell]:
    """The cells of a grid's file."""
    return read_grid(yaml.safe_load(file.read_text()), file)


def protocol_hash(shared: dict) -> str:
    """A hash of what all rows share: rows may be added to a protocol while its cells are being run."""
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]


def results_hash(folder: Path) -> dict:
    """What a cell is sealed with: the sha256 of its results and of what they were made with."""
    return {name: sha256(folder / name) for name in ("results.json", "run.json") if (folder / name).exists()}


def check_seal(folder: Path) -> dict | None:
    """The seal of a cell's folder; None where it is a run like any other.

    Raises UserError where results or settings are not those that the cell was sealed with.
    """
    if not (folder / SEAL).exists():
        return None
    seal = read_seal(folder / SEAL)
    if "failed" not in seal and seal.get("results") != results_hash(folder):
        raise UserError(f"{folder} was changed after its run: restore it, or delete it and run its cell again")
    return seal


def read_seal(file: Path) -> dict:
    """What a seal's file says, with settings by their present names."""
    seal = read_json(file)
    return {**seal, "settings": renamed(seal["settings"])} if isinstance(seal.get("settings"), dict) else seal


def option(key: str, value) -> list[str]:
    """A setting as words of the command line."""
    if key == "hard":
        return [] if value else ["--soft"]
    return [f"--{key.replace('_', '-')}", str(value)]
