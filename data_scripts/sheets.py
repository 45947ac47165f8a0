"""Contact sheets of the concepts, of the base set and of renditions, for looking: data_scripts/sheets/*.png.

    python data_scripts/sheets.py

A column is a concept, its first eight training pictures downwards. Of every class of renditions there are four pictures
in a row, three to train on and one to test with. Colours are reduced to 256 a sheet.
"""

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from scenes import base_picture

from stamina_lite.classification.datasets import ClassDataset, of_classes, renditions

CONCEPTS = Path("stamina_lite/assets/concepts")
SHEETS = Path("data_scripts/sheets")
LABEL = 14  # pixels: the line of names above the columns


def sheet(columns: list[list[Image.Image]], names: list[str]) -> Image.Image:
    """Pictures of one size, column by column under their names; an empty name leaves its space."""
    side = columns[0][0].width
    height = LABEL * any(names) + side * len(columns[0])
    canvas = Image.new("RGB", (side * len(columns), height), "white")
    draw = ImageDraw.Draw(canvas)
    for left, (column, name) in enumerate(zip(columns, names, strict=True)):
        draw.text((side * left + side / 2, 1), name, fill="black", anchor="ma")
        for row, picture in enumerate(column):
            canvas.paste(picture, (side * left, height - side * (len(column) - row)))
    return canvas.quantize(256, dither=Image.Dither.NONE)


def concept_sheet(names: list[str], folders: dict[str, dict]) -> Image.Image:
    """Eight training pictures of each concept."""
    columns = [[Image.open(CONCEPTS / folders[n]["train"]["folder"] / f"{k:02}.webp") for k in range(8)] for n in names]
    return sheet(columns, names)


def class_sheet(found: ClassDataset, columns: int = 8, side: int = 32) -> Image.Image:
    """Three training pictures and a test picture of every class, `columns` classes in a row; chosen at random."""
    draw, tiles = torch.Generator().manual_seed(0), []
    for label in range(len(found.classes)):
        for half, n in ((found.train, 3), (found.test, 1)):
            places = of_classes(half, [label])
            tiles += half.images[places[torch.randperm(len(places), generator=draw)[:n]]]
    rows = [Image.fromarray(torch.cat(tiles[k : k + 4 * columns], 2).permute(1, 2, 0).numpy()) for k in
            range(0, len(tiles), 4 * columns)]  # fmt: skip
    canvas = Image.new("RGB", (4 * columns * side, len(rows) * side))
    for k, row in enumerate(rows):
        canvas.paste(row.resize((row.width * side // row.height, side), Image.LANCZOS), (0, k * side))
    return canvas.quantize(256, dither=Image.Dither.NONE)


def main() -> None:
    manifest = json.loads((CONCEPTS / "manifest.json").read_text(encoding="utf-8"))
    SHEETS.mkdir(parents=True, exist_ok=True)
    for name in ("people25", "falls25", "tune5", "tune20"):
        concept_sheet(manifest["sets"][name], manifest["concepts"]).save(SHEETS / f"{name}.png", optimize=True)
    class_sheet(renditions()).save(SHEETS / "renditions.png", optimize=True)
    base = [[Image.fromarray(base_picture(12 * row + column)[0]) for row in range(4)] for column in range(12)]
    sheet(base, [""] * 12).save(SHEETS / "base48.png", optimize=True)


if __name__ == "__main__":
    main()
