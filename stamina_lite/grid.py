"""A claim as a grid: many `bench` runs under one protocol, each a cell that stands alone, can be resumed and is sealed.

A grid is a YAML file with two parts. `protocol` is the set, how pictures are drawn and measured, and the settings of
every row of the tables; a hash of what all rows share and the row's settings go into every cell, so that results of two
protocols never meet. `cells` says which rows are run with which seeds and orders, the most important first.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from .checkpoint import read_json, sha256, write_json
from .data import ORDERS, SETS, UserError
from .methods import make_method

SHARED = ("set", "pictures", "stages", "guidance")  # what a protocol says of all rows
SEAL = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One run of the grid: a row of the tables, learned in one order with one seed, under a protocol."""

    row: str
    order: str
    seed: int
    protocol: dict

    @property
    def name(self) -> str:
        return f"{self.row}.{self.order.replace(' ', '-')}.{self.seed}"

    @property
    def seal(self) -> dict:
        return {
            "cell": self.name,
            "row": self.row,
            "settings": self.protocol["rows"][self.row],
            "protocol": protocol_hash(self.protocol),
        }

    def method(self) -> tuple[str, dict]:
        """The row's method and the settings that differ from that method's own."""
        settings = dict(self.protocol["rows"][self.row])
        return settings.pop("method", self.row), settings

    def finished(self, out: Path) -> bool:
        """Whether the cell was run to its end under this protocol, and its results are as they were then."""
        folder = out / self.name
        if not (folder / SEAL).exists():
            return False
        return read_json(folder / SEAL) == {**self.seal, "results": results_hash(folder)}

    def run(self, out: Path, threads: int | None = None) -> bool:
        """`stamina-lite bench` in a process of its own, its output in out/NAME.log; False if it failed.

        A failure is written into the cell's folder, so that tables can say so; running it again goes on with the run.
        """
        folder, p = out / self.name, self.protocol
        method, settings = self.method()
        command = [sys.executable, "-m", "stamina_lite.cli", "bench", p["set"], "--method", method]
        command += ["--seed", str(self.seed), "--shuffle", str(self.seed), "--order", self.order.replace(" ", "-")]
        command += ["--pictures", str(p["pictures"]), "--guidance", str(p["guidance"])]
        command += ["--stages", *map(str, p["stages"])] if p["stages"] else []
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


def read_grid(content: dict, file: Path) -> list[Cell]:
    """The cells of a grid in their order. Raises UserError where the file says something that cannot be run."""
    protocol, wanted = content.get("protocol"), content.get("cells")
    known = sorted((*SHARED, "rows"))
    if sorted(content) != ["cells", "protocol"] or not isinstance(protocol, dict) or sorted(protocol) != known:
        raise UserError(f"{file} is no grid: expected cells, and a protocol of {', '.join(SHARED)}, rows")
    if protocol["set"] not in SETS:
        raise UserError(f"{file}: unknown set {protocol['set']}: choose one of {', '.join(SETS)}")
    cells = []
    for entry in wanted:
        if not isinstance(entry, dict) or sorted(entry) != ["orders", "rows", "seeds"]:
            raise UserError(f"{file}: {entry} is no group of cells: expected rows, seeds and orders")
        for order, seed, row in itertools.product(entry["orders"], entry["seeds"], entry["rows"]):
            if row not in protocol["rows"]:
                raise UserError(f"{file}: unknown row {row}: the protocol has {', '.join(protocol['rows'])}")
            if order not in ORDERS:
                raise UserError(f"{file}: unknown order {order}: choose {', '.join(ORDERS)}")
            cells.append(Cell(row, order, seed, protocol))
    names = [cell.name for cell in cells]
    for cell in cells:
        if names.count(cell.name) > 1:
            raise UserError(f"{file}: {cell.name} stands there twice: take one away")
        method, settings = cell.method()
        make_method(method, **settings)
    return cells


def load_grid(file: Path) -> list[Cell]:
    """The cells of a grid's file."""
    return read_grid(yaml.safe_load(file.read_text()), file)


def protocol_hash(protocol: dict) -> str:
    """A hash of what all rows share: rows may be added to a protocol while its cells are being run."""
    shared = {key: protocol[key] for key in SHARED}
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
    seal = read_json(folder / SEAL)
    if "failed" not in seal and seal.get("results") != results_hash(folder):
        raise UserError(f"{folder} was changed after its run: restore it, or delete it and run its cell again")
    return seal


def option(key: str, value) -> list[str]:
    """A setting as words of the command line."""
    if key == "hard":
        return [] if value else ["--soft"]
    return [f"--{key.replace('_', '-')}", str(value)]
