"""Write badges (Open in Colab, Kaggle, Binder) and the cell that installs the package there into all notebooks.

    python studies/badges.py

The repository's address stands in one place, pyproject.toml:

    [project.urls]
    Repository = "https://github.com/OWNER/NAME"

Without it no badges are written, and the cell installs from the checkout that the notebook is in. The script can be run
again at any time: it replaces what it has written.
"""

import argparse
import tomllib
from pathlib import Path
from urllib.parse import quote

import nbformat

ROOT = Path(__file__).parents[1]
CELL = "install"  # id and tag of the installing cell
BADGES = {  # name -> image, link
    "Colab": (
        "https://colab.research.google.com/assets/colab-badge.svg",
        "https://colab.research.google.com/github/{name}/blob/{branch}/notebooks/{file}",
    ),
    "Kaggle": (
        "https://kaggle.com/static/images/open-in-kaggle.svg",
        "https://kaggle.com/kernels/welcome?src=https://github.com/{name}/blob/{branch}/notebooks/{file}",
    ),
    "Binder": (
        "https://mybinder.org/badge_logo.svg",
        "https://mybinder.org/v2/gh/{name}/{branch}?labpath={path}",
    ),
}
INSTALL = """\
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

hosted = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if hosted and find_spec("stamina_lite") is None:{clone}
    torch = [f"{{name}}=={{version(name)}}" for name in ("torch", "torchvision")]  # stay as they are
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "..", *torch], check=True)"""
CLONE = """
    subprocess.run(["git", "clone", "-q", "--depth", "1", "-b", "{branch}", "{address}", "checkout"], check=True)
    os.chdir("checkout/notebooks")"""


def repository(project: Path) -> str:
    """The address in a pyproject.toml, https://github.com/OWNER/NAME; empty if it has none.

    Raises:
        ValueError: the address is not one of GitHub, whose notebooks all three services open.
    """
    address = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("urls", {}).get("Repository", "")
    address = address.removesuffix("/").removesuffix(".git")
    if address and not (address.startswith("https://github.com/") and address.count("/") == 4):
        raise ValueError(f"{address} is not https://github.com/OWNER/NAME")
    return address


def badges(address: str, branch: str, file: str) -> str:
    """The line of badges of a notebook, in Markdown."""
    name = address.removeprefix("https://github.com/")
    values = {"name": name, "branch": branch, "file": file, "path": quote(f"notebooks/{file}", safe="")}
    return " ".join(
        f"[![Open in {service}]({image})]({link.format(**values)})" for service, (image, link) in BADGES.items()
    )


def write(file: Path, address: str, branch: str = "main") -> None:
    """Write the badges below a notebook's title, and the installing cell after its first cell."""
    notebook = nbformat.read(file, 4)
    title, *rest = notebook.cells[0].source.split("\n\n")
    rest = [part for part in rest if not part.startswith("[![Open in")]
    line = [badges(address, branch, file.name)] if address else []
    notebook.cells[0].source = "\n\n".join([title, *line, *rest])
    cells = [cell for cell in notebook.cells if cell.id != CELL]
    clone = CLONE.format(branch=branch, address=address) if address else ""
    install = nbformat.v4.new_code_cell(INSTALL.format(clone=clone), id=CELL)
    install.metadata.tags = [CELL, "remove-cell"]  # the book does not show it
    notebook.cells = [cells[0], install, *cells[1:]]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(cell.execution_count for cell in code):
        for count, cell in enumerate(code, 1):
            cell.execution_count = count
    nbformat.write(notebook, file)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--project", type=Path, default=ROOT / "pyproject.toml", help="where the address stands")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks")
    parser.add_argument("--branch", default="main")
    args = parser.parse_args(argv)
    address = repository(args.project)
    for file in sorted(args.notebooks.glob("[0-9]*.ipynb")):
        write(file, address, args.branch)
        print(f"{file.name}  {'badges of ' + address if address else 'no address, no badges'}")


if __name__ == "__main__":
    main()
