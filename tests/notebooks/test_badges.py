"""Badges and the installing cell: written into every notebook by studies/badges.py, from one address."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "studies"))

import badges  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ADDRESS = "https://github.com/someone/stamina-lite"


def project(folder: Path, urls: str) -> Path:
    file = folder / "pyproject.toml"
    file.write_text(f'[project]\nname = "x"\n{urls}')
    return file


@pytest.fixture
def copies(tmp_path):
    """Two notebooks to be written to."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for file in NOTEBOOKS[:2]:
        shutil.copy(file, folder)
    return folder


def contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.glob("*.ipynb"))]


def test_an_address_gives_badges_and_without_it_they_are_taken_off(copies, tmp_path):
    without = contents(copies)
    with_address = project(tmp_path, f'[project.urls]\nRepository = "{ADDRESS}.git"\n')
    badges.main(["--project", str(with_address), "--notebooks", str(copies)])
    for file in copies.iterdir():
        notebook = nbformat.read(file, 4)
        nbformat.validate(notebook)
        line = notebook.cells[0].source.split("\n\n")[1]
        assert line.count("[![Open in ") == 3
        assert (
            f"(https://colab.research.google.com/github/someone/stamina-lite/blob/main/notebooks/{file.name})" in line
        )
        assert f"welcome?src={ADDRESS}/blob/main/notebooks/{file.name})" in line
        assert f"(https://mybinder.org/v2/gh/someone/stamina-lite/main?labpath=notebooks%2F{file.name})" in line
        assert ADDRESS in notebook.cells[1].source and notebook.cells[1].cell_type == "code"
    once = contents(copies)
    badges.main(["--project", str(with_address), "--notebooks", str(copies)])
    assert contents(copies) == once != without
    badges.main(["--project", str(project(tmp_path, "")), "--notebooks", str(copies)])
    assert contents(copies) == without


def test_another_address_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not https://github.com/OWNER/NAME"):
        badges.repository(project(tmp_path, '[project.urls]\nRepository = "https://example.org/a"\n'))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_every_notebook_is_as_the_script_writes_it(file, tmp_path):
    copy = tmp_path / file.name
    shutil.copy(file, copy)
    badges.write(copy, badges.repository(ROOT / "pyproject.toml"))
    written, here = nbformat.read(copy, 4), nbformat.read(file, 4)
    assert [c.source for c in written.cells] == [c.source for c in here.cells], "run python studies/badges.py"


RUN = """
import subprocess, sys, types
commands = []
subprocess.run = lambda command, check: commands.append(command)
{colab}
exec(sys.argv[1])
for command in commands:
    print(*command)
"""


def commands_of(cell: str, folder: Path, colab: bool, environment: dict | None = None) -> list[str]:
    """What the cell would run, in a process in which stamina_lite is not installed."""
    hosted = "sys.modules['google.colab'] = types.ModuleType('google.colab')" if colab else ""
    absent = "import importlib.util as u\nu.find_spec = lambda name: None\n"
    done = subprocess.run(
        [sys.executable, "-c", absent + RUN.format(colab=hosted), cell], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **(environment or {})}, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_the_cell_installs_on_colab_and_kaggle_only_and_keeps_the_torch_that_is_there(tmp_path, address):
    (tmp_path / "checkout" / "notebooks").mkdir(parents=True)
    cell = badges.INSTALL.format(clone=badges.CLONE.format(branch="main", address=address) if address else "")
    assert commands_of(cell, tmp_path, colab=False) == []
    for colab, environment in ((True, {}), (False, {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"})):
        *clone, install = commands_of(cell, tmp_path, colab, environment)
        assert [ADDRESS in command for command in clone] == ([True] if address else [])
        assert install.endswith(f"install -q .. torch=={version('torch')} torchvision=={version('torchvision')}")
