"""Draw renditions, the mini ImageNet-R: 200 classes of twelve icon sets, each tested with artists not trained on.

    npm install --prefix build/icons PACKAGES     (printed where they are missing)
    python data_scripts/renditions.py             write stamina_lite/assets/renditions
    python data_scripts/renditions.py --check 3   draw three classes again and compare; exit code 1 on a difference
    python data_scripts/renditions.py --pretraining build/renditions-pretraining   the other classes, not shipped

A class is one WebP sheet of 64 px pictures, eight a row, and an entry of metadata.json: for every picture its icon set,
technique and split. Drawings of the two share-alike sets lie in share-alike/, a folder that may be deleted. A picture
follows from its class, its icon set and its own number alone.
"""

import argparse
import hashlib
import io
import json
import re
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from rendition_styles import STYLES, to_image
from rendition_tables import ALIKE, CLASSES, FEWEST, ICON_SETS, KINDS, NO_CLASS, TUNING
from tqdm.auto import tqdm

ROOT = Path(__file__).parents[1]
ICONS = ROOT / "build" / "icons" / "node_modules" / "@iconify-json"
OUT = ROOT / "stamina_lite" / "assets" / "renditions"
SIZE, DRAWN = 64, 128  # pictures, and what they are drawn at before they are made smaller
COLUMNS = 8
EACH = 6  # pictures of a drawing, each in another technique
QUALITY = 80
TEST_ARTISTS = 2  # of a class's artists, for its test pictures
TOOLS = ("resvg-py", "numpy", "pillow")


def key(name: str) -> str:
    """What the icon sets agree on of a name."""
    return re.sub("[^a-z0-9]", "", name)


@cache
def icons(name: str) -> dict:
    """The content of an icon set; its aliases resolved, by key."""
    content = json.loads((ICONS / name / "icons.json").read_text(encoding="utf-8"))
    size = {"left": 0, "top": 0, "width": content.get("width", 16), "height": content.get("height", 16)}
    found = {key(n): {**size, **icon} for n, icon in content["icons"].items()}
    for n, alias in content.get("aliases", {}).items():
        if key(alias["parent"]) in found and set(alias) == {"parent"}:  # no turned or flipped copies
            found.setdefault(key(n), found[key(alias["parent"])])
    return found


def drawing(icon_set: str, name: str) -> Image.Image:
    """An icon of a set, padded to a square: RGBA at DRAWN px."""
    import resvg_py

    icon = icons(icon_set)[key(name)]
    side = max(icon["width"], icon["height"])
    left, top = icon["left"] - (side - icon["width"]) / 2, icon["top"] - (side - icon["height"]) / 2
    body = icon["body"].replace("currentColor", "#222")
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {side} {side}">{body}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN, height=DRAWN, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def placed(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A drawing turned, scaled, shifted and sometimes flipped: (DRAWN, DRAWN, 4) floats in [0, 1]."""
    scale, angle = rng.uniform(0.7, 1.0), rng.uniform(-18, 18)
    shift = tuple(rng.uniform(-0.08, 0.08, 2) * DRAWN)
    if rng.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    small = image.convert("RGBa").resize((round(DRAWN * scale),) * 2, Image.LANCZOS)  # premultiplied: no dark fringes
    canvas = Image.new("RGBa", (DRAWN, DRAWN))
    canvas.paste(small, ((DRAWN - small.width) // 2,) * 2)
    turned = canvas.rotate(angle, Image.BICUBIC, translate=shift).convert("RGBA")
    return np.asarray(turned, dtype=float) / 255


def picture(name: str, icon_set: str, k: int) -> tuple[Image.Image, str]:
    """Picture k of a class by an artist, SIZE px, and its technique."""
    order = np.random.default_rng([*name.encode(), *icon_set.encode()]).permutation(list(STYLES))
    rng = np.random.default_rng([*name.encode(), *icon_set.encode(), k])
    style = str(order[k % len(order)])
    drawn = to_image(STYLES[style](placed(drawing(icon_set, name), rng), rng))
    return drawn.resize((SIZE, SIZE), Image.BOX if style == "pixel" else Image.LANCZOS), style


def artists(name: str) -> list[str]:
    """The icon sets that have drawn a class, in the table's order."""
    return [s for s in ICON_SETS if key(name) in icons(s)]


def test_groups(name: str) -> set[str]:
    """The artists of a class whose pictures are for testing; the two with share-alike licences never are, so that the
    set keeps its test pictures without them."""
    groups = sorted({ICON_SETS[s].group for s in artists(name) if not ICON_SETS[s].share_alike})
    rng = np.random.default_rng([*b"test", *name.encode()])
    return set(rng.choice(groups, TEST_ARTISTS, replace=False).tolist())


def class_sheets(name: str) -> dict[bool, tuple[Image.Image, list[list[str]]]]:
    """share-alike or not -> a class's sheet, and (icon set, technique, split) of every picture."""
    tests, sheets = test_groups(name), {}
    for share_alike in (False, True):
        rows, pictures = [], []
        for icon_set in artists(name):
            about = ICON_SETS[icon_set]
            if about.share_alike != share_alike:
                continue
            for k in range(EACH):
                image, style = picture(name, icon_set, k)
                pictures.append(image)
                rows.append([icon_set, style, "test" if about.group in tests else "train"])
        if rows:
            sheets[share_alike] = sheet(pictures), rows
    return sheets


def sheet(pictures: list[Image.Image]) -> Image.Image:
    """Pictures in rows of COLUMNS; what is left of the last row is black."""
    whole = Image.new("RGB", (COLUMNS * SIZE, -(-len(pictures) // COLUMNS) * SIZE))
    for k, image in enumerate(pictures):
        whole.paste(image, (k % COLUMNS * SIZE, k // COLUMNS * SIZE))
    return whole


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


def file_of(out: Path, name: str, share_alike: bool) -> Path:
    return (out / "share-alike" if share_alike else out) / f"{name}.webp"


def other_classes() -> list[str]:
    """What the backbone is trained on: other emoji of the same kinds, none that is as good as one of the classes."""
    used = {key(n) for n in (*CLASSES, *TUNING, *ALIKE)}
    kinds = json.loads((ICONS / "noto" / "metadata.json").read_text(encoding="utf-8"))["categories"]
    names = {key(n): n for kind in KINDS for n in kinds[kind]}
    return sorted(
        n
        for k, n in names.items()
        if k not in used and not any(word in n for word in NO_CLASS) and len(artists(n)) >= FEWEST
    )


def write(out: Path) -> None:
    about = {"size": SIZE, "columns": COLUMNS, "classes": {}, "tuning": TUNING}
    about["icon_sets"] = {n: vars(s) | {"share_alike": s.share_alike} for n, s in ICON_SETS.items()}
    (out / "share-alike").mkdir(parents=True, exist_ok=True)
    for name in tqdm([*CLASSES, *TUNING], unit="class"):
        entry = about["classes"][name] = {}
        for share_alike, (image, rows) in class_sheets(name).items():
            data = encoded(image)
            file_of(out, name, share_alike).write_bytes(data)
            part = "share-alike" if share_alike else "pictures"
            entry[part] = {"sha256": hashlib.sha256(data).hexdigest(), "rows": rows}
    about["drawn_with"] = versions()
    (out / "metadata.json").write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")


def check(out: Path, count: int) -> list[str]:
    """Classes whose pictures are not those that are stored: the mean of their difference is above a grey level."""
    wrong = []
    for name in [*CLASSES, *TUNING][:: max(1, len([*CLASSES, *TUNING]) // count)][:count]:
        for share_alike, (image, _) in class_sheets(name).items():
            stored = np.asarray(Image.open(file_of(out, name, share_alike)).convert("RGB"), dtype=float)
            again = np.asarray(Image.open(io.BytesIO(encoded(image))).convert("RGB"), dtype=float)
            if stored.shape != again.shape or np.abs(stored - again).mean() > 1:
                wrong.append(name)
    return wrong


def write_pretraining(out: Path) -> None:
    """images.npy (N, SIZE, SIZE, 3) uint8, and labels.json: the class of each, and every class's name."""
    names = other_classes()
    jobs = [
        (label, icon_set, k) for label, n in enumerate(names) for icon_set in artists(n) for k in range(len(STYLES))
    ]
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (len(jobs), SIZE, SIZE, 3))
    for row, (label, icon_set, k) in enumerate(tqdm(jobs, unit="picture")):
        images[row] = np.asarray(picture(names[label], icon_set, k)[0])
    images.flush()
    labels = {"names": names, "labels": [label for label, _, _ in jobs], "icon_sets": [s for _, s, _ in jobs]}
    (out / "labels.json").write_text(json.dumps(labels) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    return {name: version(name) for name in TOOLS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--check", type=int, metavar="N")
    parser.add_argument("--pretraining", type=Path, metavar="DIR")
    args = parser.parse_args()
    if missing := [n for n in ICON_SETS if not (ICONS / n / "icons.json").is_file()]:
        packages = " ".join(f"@iconify-json/{n}@{ICON_SETS[n].version}" for n in missing)
        print(f"renditions.py: icon sets are missing: npm install --prefix build/icons {packages}", file=sys.stderr)
        return 2
    if args.check:
        wrong = check(args.out, args.check)
        print(f"differ: {', '.join(wrong)}" if wrong else "drawn again: the same")
        return 1 if wrong else 0
    if args.pretraining:
        args.pretraining.mkdir(parents=True, exist_ok=True)
        write_pretraining(args.pretraining)
    else:
        write(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
