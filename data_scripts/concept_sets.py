"""Draw the concepts to be learned, mini50 (25 people, 25 waterfalls), and tune5 and tune20 (others), with a manifest.

    python data_scripts/concept_sets.py              write all into stamina_lite/assets/concepts
    python data_scripts/concept_sets.py --check      draw all again and compare with it; exit code 1 on a difference
    python data_scripts/concept_sets.py --check 2    the first two pictures of every folder only

Per concept: mini50/NAME/00.webp ... 15.webp to train on, and apart from them, so that an image folder reader of
mini50 never meets them, mini50-references/NAME/00.webp ... 63.webp to measure with (of the tuning sets 24). All are
lossless: in lossy WebP, even of quality 95, references are 0.1 further in MMD² from pictures that are not lossy.
A picture follows from its concept's name and its own number alone, so the files are the same whatever is drawn first.
"""

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import people
import waterfalls
from people import Person
from PIL import Image
from tqdm.auto import tqdm
from waterfall_tables import RESERVED_ROCKS
from waterfalls import Falls

Identity = Person | Falls

SIZE = 128  # pixels a side
# Kind of folder -> suffix of the set's folder, numbers of the pictures' seeds.
FOLDERS = {"train": ("", range(16)), "references": ("-references", range(1000, 1064))}
FEWER = {"tune5": 24, "tune20": 24}  # references, where they are not 64: to keep the package small
VIEW = ("expression", "background", "time", "season", "fog")  # people have the first two, waterfalls the others
TOOLS = ("dicebear-core", "dicebear-styles", "resvg-py", "numpy", "pillow")


def sets() -> dict[str, list[Identity]]:
    """The drawn sets, person and waterfall alternating."""
    return {
        "mini50": alternated(people.concept_people(), waterfalls.concept_falls()),
        "tune5": alternated(people.tune5_people(), waterfalls.tune5_falls()),
        "tune20": alternated(people.tune20_people(), waterfalls.tune20_falls()),
    }


def alternated(first: list, second: list) -> list:
    """One of each in turn; what is left over of the longer list comes last."""
    pairs = [item for pair in zip(first, second, strict=False) for item in pair]
    return pairs + first[len(second) :] + second[len(first) :]


def views() -> dict[str, list[str]]:
    """Every set's concept names in its default order; people25, falls25, mini25 and mini10 are parts of mini50."""
    names = {name: [identity.name for identity in members] for name, members in sets().items()}
    persons, falls = ([n for n in names["mini50"] if n.startswith(kind)] for kind in ("person", "falls"))
    few = alternated(persons[::5], falls[::5])  # every style of person and every kind of waterfall
    half = alternated(persons[::2], falls[::2])[:25]  # thirteen people, twelve waterfalls
    return {"people25": persons, "falls25": falls, "mini25": half, "mini10": few} | names


def draw(identity: Identity, seed: int) -> tuple[np.ndarray, dict, str]:
    """One picture: (SIZE, SIZE, 3) uint8, its view, its caption."""
    artist = people if isinstance(identity, Person) else waterfalls
    pixels, view = artist.picture(identity, np.random.default_rng([*identity.name.encode(), seed]), SIZE)
    return pixels, view, artist.caption(identity, view)


def encode(pixels: np.ndarray) -> bytes:
    """A WebP file without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "webp", lossless=True, method=6)
    return file.getvalue()


def pictures(limit: int | None = None) -> Iterator[tuple[Identity, str, str, bytes, dict]]:
    """Every picture as (identity, "train" or "references", path below the output folder, file content, metadata row).

    limit: so many pictures of every folder.
    """
    for name, members in sets().items():
        for identity in tqdm(members, desc=name, unit="concept"):
            for purpose, (suffix, seeds) in FOLDERS.items():
                some = seeds[: FEWER.get(name)] if purpose == "references" else seeds
                for number, seed in list(enumerate(some))[:limit]:
                    pixels, view, caption = draw(identity, seed)
                    file_name = f"{identity.name}/{number:02}.webp"
                    row = {"file_name": file_name, "concept": identity.name, "caption": caption}
                    row |= {word: view.get(word) for word in VIEW}
                    yield identity, purpose, f"{name}{suffix}/{file_name}", encode(pixels), row


def description(identity: Identity) -> dict:
    """The manifest's entry of a concept, still without its pictures.

    prompt is as much of the identity as words may tell, so the best that a prompt without the concept's token can do.
    reserved is what the base set never shows.
    """
    if isinstance(identity, Person):
        prompt = people.phrase(identity)
        reserved = {"style": identity.style, "head": identity.options["hairVariant"]}
    else:
        prompt = waterfalls.phrase(identity)
        reserved = {"landmark": identity.landmark, "seed": identity.seed}
        reserved |= {"rock": identity.rock} if identity.rock in RESERVED_ROCKS else {}
    kind = "person" if isinstance(identity, Person) else "waterfall"
    return {"kind": kind, "prompt": prompt, "reserved": reserved, "identity": asdict(identity)}


def write(out: Path) -> None:
    """Draw everything: pictures, a metadata.jsonl for the training pictures of each set, the manifest."""
    concepts, rows = {}, {}
    for identity, purpose, path, content, row in pictures():
        entry = concepts.setdefault(identity.name, description(identity))
        digests = entry.setdefault(purpose, {"folder": str(Path(path).parent), "sha256": []})["sha256"]
        digests.append(hashlib.sha256(content).hexdigest())
        if purpose == "train":
            rows.setdefault(Path(path).parts[0], []).append(json.dumps(row))
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)
    for folder, lines in rows.items():
        (out / folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest = {"sets": views(), "drawn_with": versions(), "concepts": concepts}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    return {tool: version(tool) for tool in TOOLS}


def check(out: Path, limit: int | None) -> list[str]:
    """Draw again; what differs from the files and from the manifest, as paths."""
    recorded = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["concepts"]
    different = []
    for identity, purpose, path, content, _ in pictures(limit):
        digest = recorded[identity.name][purpose]["sha256"][int(Path(path).stem)]
        if not digest == hashlib.sha256(content).hexdigest() == hashlib.sha256((out / path).read_bytes()).hexdigest():
            different.append(path)
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("stamina_lite/assets/concepts"))
    parser.add_argument(
        "--check", type=int, nargs="?", const=sys.maxsize, metavar="N", help="compare only, N pictures a folder"
    )
    args = parser.parse_args()
    if args.check is None:
        write(args.out)
        return 0
    different = check(args.out, args.check)
    print("\n".join(different) or "every picture drawn again is the one that lies there")
    drawn_with = json.loads((args.out / "manifest.json").read_text(encoding="utf-8"))["drawn_with"]
    if different and drawn_with != versions():
        print(f"drawn with {drawn_with}, here {versions()}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
