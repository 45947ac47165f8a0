"""A notebook with its parameters, executed by papermill in a process of its own."""

import ast
import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import nbformat
import papermill
import yaml

from ..errors import UserError
from ..runs.files import write_json
from ..runs.versions import minor_version
from .data_hash import data_hash
from .needs import Needs
from .processes import Processes

OUT = "{out}/"  # begins a parameter that names a folder of results
MARK = "stamina_lite"  # key of what an executed notebook was made from, in its metadata


@dataclass(frozen=True)
class Notebook:
    """A notebook of a preset: the name of its output, its file and its parameters.

    parameters: {out} in a text is the folder of results.
    minutes: how long it takes; None: not known.
    """

    name: str
    file: Path
    parameters: dict = field(default_factory=dict)
    needs: Needs = Needs()
    minutes: float | None = None

    @property
    def known(self) -> dict:
        """The notebook's parameters and their defaults."""
        return defaults(self.file)

    @property
    def places(self) -> list[str]:
        """Its executed file, and the folders of results that a parameter names."""
        texts = [value for value in self.parameters.values() if isinstance(value, str)]
        return [f"{self.name}.ipynb", *(text.removeprefix(OUT) for text in texts if text.startswith(OUT))]

    def filled(self, out: Path) -> dict:
        """The parameters with the folder of results as the notebook sees it."""
        here = os.path.relpath(out, self.file.parent)
        return {k: v.replace("{out}", here) if isinstance(v, str) else v for k, v in self.parameters.items()}

    def check(self) -> None:
        """Raise UserError for unknown parameters, of which papermill only warns, and for wrong types.

        YAML reads 1e-3 as text.
        """
        for name, value in self.parameters.items():
            if name not in self.known:
                names = ", ".join(self.known) or "none"
                raise UserError(f"{self.name}: {self.file.name} has no parameter {name}: it has {names}")
            default = self.known[name]
            if isinstance(value, str) != isinstance(default, str) and default is not None:
                raise UserError(
                    f"{self.name}: {name} is {value!r}, but {default!r} in {self.file.name}: write 1e-3 as 0.001, "
                    "text in quotes"
                )

    def made_from(self, out: Path) -> dict:
        """What identifies the executed notebook: source, parameters, version and data.

        The data are embedded sets, bases, folders and files that a parameter names; not what is in `out`.
        """
        texts = {value for value in {**self.known, **self.filled(out)}.values() if isinstance(value, str) and value}
        paths = {text: (self.file.parent / text).resolve() for text in texts}
        names = [
            str(path) if os.path.exists(path) else text for text, path in paths.items() if not path.is_relative_to(out)
        ]
        return {
            "source": source_hash(self.file),
            "parameters": self.parameters,
            "version": minor_version(),
            "data": data_hash(sorted(names)),
        }

    def finished(self, out: Path) -> bool:
        """Whether out/NAME.ipynb was executed to its end from this source, with these parameters, data and version."""
        file = out / f"{self.name}.ipynb"
        if not file.exists():
            return False
        try:
            executed = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError:  # killed while papermill was writing
            return False
        now = self.made_from(out)
        earlier = {**now, "parameters": self.filled(out)}  # as earlier versions wrote it
        return executed["metadata"].get(MARK) in (now, earlier)

    def run(self, out: Path, threads: int | None, processes: Processes) -> str:
        """Execute the notebook in its folder. A failed one is stored up to its error.

        Returns:
            Why it failed, in one line; empty if it did not.

        Raises:
            Interrupted: it was stopped.
        """
        executed, home = out / f"{self.name}.ipynb", self.file.parent
        environment = {
            **os.environ,
            "TQDM_DISABLE": "1",
            "JUPYTER_PREFER_ENV_PATH": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        if threads:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        arguments = [self.file.name, os.path.relpath(executed, home)]
        arguments += ["--kernel", "python3", "--log-output", "--parameters_yaml", yaml.safe_dump(self.filled(out))]
        failed = processes.run("papermill", arguments, out / f"{self.name}.log", environment, home)
        if not failed:  # only a finished notebook is marked
            notebook = json.loads(executed.read_text(encoding="utf-8"))
            notebook["metadata"][MARK] = self.made_from(out)
            write_json(executed, notebook)
        return failed


@cache
def defaults(file: Path) -> dict:
    """The parameters of a notebook: name -> default."""
    return {name: ast.literal_eval(p["default"]) for name, p in papermill.inspect_notebook(str(file)).items()}


def source_hash(file: Path) -> str:
    """sha256 of the cells of a notebook, without outputs."""
    return cells_hash(file, file.stat().st_mtime_ns)


@cache
def cells_hash(file: Path, changed: int) -> str:
    """`source_hash`, read once for every time at which the file was changed."""
    cells = [(c.cell_type, c.source) for c in nbformat.read(file, as_version=4).cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()
