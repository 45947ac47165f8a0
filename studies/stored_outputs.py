"""Copy the outputs of executed notebooks to the notebooks of the repository: what a reader sees before running them.

    make run && python studies/stored_outputs.py runs/quick

Sources stay as they are; papermill's injected cell and widgets (progress bars too) are left out. Images get a palette
of 256 colours, or of fewer in a notebook that would be larger than LIMIT, and the alternative text of their cell: its
metadata is {"mystnb": {"image": {"alt": TEXT}}}, from which the book takes it; nbconvert reads it from the output.
"""

import argparse
import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

from stamina_lite.reproduction.notebooks import NOTEBOOKS

LIMIT = 690_000  # bytes of a notebook
WIDGET = "application/vnd.jupyter.widget-view+json"
PALETTES = (256, 128, 96, 64, 48, 32)


def packed(png: str, colours: int) -> str:
    """A base64 PNG with a palette of so many colours, or the given one if it is smaller."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=2).save(small, "PNG", optimize=True)
    coded = base64.b64encode(small.getvalue()).decode()
    return min(png, coded, key=len)


def stored(output, count: int, colours: int):
    """An output as it is stored, or None for the error stream and for widgets, which need a running kernel."""
    if output.get("name") == "stderr" or WIDGET in output.get("data", {}):
        return None
    if output.output_type == "execute_result":
        output.execution_count = count
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = packed(output.data["image/png"], colours)
    return output


def describe(cell) -> None:
    """Give a cell's images its alternative text. Raises ValueError if the cell shows an image and has no text."""
    text = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            if not text:
                raise ValueError(f"cell {cell.id} shows an image: write its alternative text into its metadata")
            output.metadata["image/png"] = {"alt": text}


def take_over(executed: Path, notebook: Path, colours: int) -> None:
    """Write an executed notebook's outputs to `notebook`. Raises ValueError if that has changed since."""
    source, target = nbformat.read(executed, 4), nbformat.read(notebook, 4)
    tags = [cell.metadata.get("tags", []) for cell in source.cells]
    executed_cells = [
        cell
        for cell, tagged in zip(source.cells, tags, strict=True)
        if cell.cell_type == "code" and "injected-parameters" not in tagged
    ]
    cells = [cell for cell in target.cells if cell.cell_type == "code"]
    if [cell.source for cell in executed_cells] != [cell.source for cell in cells]:
        raise ValueError(f"{notebook.name} has changed since {executed} was made: run it again")
    for count, (cell, ran) in enumerate(zip(cells, executed_cells, strict=True), 1):
        cell.execution_count = count
        cell.outputs = [o for o in (stored(output, count, colours) for output in ran.outputs) if o]
        describe(cell)
    nbformat.write(target, notebook)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a batch run, such as runs/quick")
    args = parser.parse_args()
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        executed = args.run / notebook.name
        for colours in PALETTES if executed.exists() else ():
            take_over(executed, notebook, colours)
            if notebook.stat().st_size <= LIMIT:
                break
        print(f"{notebook.name}  {notebook.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
