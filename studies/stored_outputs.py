"""Take the outputs of a batch run over into the notebooks that are kept: what a reader sees before running anything.

    make run && python studies/stored_outputs.py runs/quick

Sources stay as they are; papermill's injected cell and progress bars are left out, pictures are packed to 128 colours.
"""

import argparse
import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

from stamina_lite.reproduction.notebooks import NOTEBOOKS


def packed(png: str) -> str:
    """A base64 PNG in 128 colours; the smaller of the two."""
    small = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    coded = base64.b64encode(small.getvalue()).decode()
    return min(png, coded, key=len)


def kept(output, count: int):
    """An output as it is stored, or None for what passes by on the error stream."""
    if output.get("name") == "stderr":
        return None
    if output.output_type == "execute_result":
        output.execution_count = count
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = packed(output.data["image/png"])
    return output


def take_over(executed: Path, notebook: Path) -> None:
    """Raises ValueError if the notebook has changed since it was executed."""
    ran, ours = nbformat.read(executed, 4), nbformat.read(notebook, 4)
    cells = [c for c in ran.cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])]
    mine = [c for c in ours.cells if c.cell_type == "code"]
    if [c.source for c in cells] != [c.source for c in mine]:
        raise ValueError(f"{notebook.name} has changed since {executed} was made: run it again")
    for count, (cell, there) in enumerate(zip(mine, cells, strict=True), 1):
        cell.execution_count = count
        cell.outputs = [o for o in (kept(output, count) for output in there.outputs) if o]
    nbformat.write(ours, notebook)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a batch run, such as runs/quick")
    args = parser.parse_args()
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        take_over(args.run / notebook.name, notebook)
        print(f"{notebook.name}  {notebook.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
