"""Real sets of concepts: chosen pictures as squares, a folder a concept, with lists and sources beside them.

A set NAME below OUT is what `stamina_lite.concepts(OUT/NAME)` reads: pictures to learn from in NAME/CONCEPT/, and
where there are more, pictures to measure with in NAME-references/CONCEPT/. They are JPEGs of quality 95 with full
colour: their sources are JPEGs, shrunk once more, and PNGs would take four times the space for what no eye sees.
NAME/sources.csv says where each came from. A set is built beside its place, as NAME.part, and moved when it is whole.
"""

import csv
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from downloads import DownloadError, check, digest
from PIL import Image
from tqdm.auto import tqdm

from stamina_lite.errors import UserError
from stamina_lite.images import read_image, to_pil
from stamina_lite.options import Parser, at_least

COUNT = 25  # concepts of a half of the papers' set
FEWEST = 15  # pictures a concept has at least [paper], and is learned from
MOST = FEWEST + 64  # the others are to measure with
LIST = ("concept", "id", "sha256")
SOURCES = ("id", "concept", "file", "url", "author", "license", "title", "source_sha256", "sha256")

Chosen = dict[str, dict[str, str]]  # concept -> its pictures' ids in order -> sha256 of the source file, or "" for any
Make = Callable[[str, Path], str | None]  # writes the square of a picture; the sha256 of its source, None if it is gone


class TooFew(UserError):
    """Concepts that have fewer than FEWEST pictures: `found` says how many."""

    def __init__(self, found: dict[str, int]):
        counts = ", ".join(f"{concept} {n}" for concept, n in found.items())
        super().__init__(f"{FEWEST} pictures a concept are needed, and there are fewer of {counts}")
        self.found = found


def square(file: Path, size: int) -> Image.Image:
    """A picture as a model sees it: its middle square, size px, by Pillow's LANCZOS. Raises UserError."""
    return to_pil(read_image(file, size)[None])[0]


def save(picture: Image.Image, to: Path) -> None:
    """Write a JPEG, whole or not at all."""
    part = to.with_name(to.name + ".part")
    try:
        picture.save(part, "JPEG", quality=95, subsampling=0)
        os.replace(part, to)
    finally:
        part.unlink(missing_ok=True)


def from_disk(read: Callable[[str], bytes], size: int, where: Path) -> Make:
    """What makes squares of a copy on disk. read: the bytes of the file of an id."""

    def make(id: str, to: Path) -> str:
        file = to.with_suffix(".source")
        file.write_bytes(read(id))
        try:
            save(square(file, size), to)
            return digest(file, "sha256")
        except UserError as error:
            raise UserError(f"picture {id} in {where} is not whole or no picture: get it again") from error
        finally:
            file.unlink()

    return make


def build(out: Path, name: str, chosen: Chosen, make: Make, about: Callable[[str], dict]) -> list[dict]:
    """The set OUT/NAME, whole or not at all; a row of SOURCES a picture. about: what SOURCES says of an id.

    A set that is there is left as it is if it is the same. Raises UserError if it is not, TooFew, and what `make`
    raises.
    """
    part = out / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    total = sum(min(len(ids), MOST) for ids in chosen.values())
    try:
        rows = []
        with tqdm(total=total, desc=name, unit="picture") as bar:
            for concept, ids in chosen.items():
                bar.set_postfix_str(f"concept {concept}")
                rows.append(concept_pictures(part, name, concept, ids, make, bar))
        found = {concept: len(few) for concept, few in zip(chosen, rows, strict=True) if len(few) < FEWEST}
        if found:
            raise TooFew(found)
        whole = [{**about(row["id"]), **row} for few in rows for row in few]
        write_table(part / name / "sources.csv", SOURCES, whole)
        publish(part, out, name, whole)
        return whole
    finally:
        shutil.rmtree(part, ignore_errors=True)


def concept_pictures(part: Path, name: str, concept: str, ids: dict[str, str], make: Make, bar: tqdm) -> list[dict]:
    """Write up to MOST pictures of a concept below part; their rows. What is gone is passed over, unless a list has it.

    One picture more than FEWEST is learned from too: nothing can be measured with one alone.
    """
    folder, sums = part / "made" / concept, {}
    folder.mkdir(parents=True)
    for id, wanted in ids.items():
        if len(sums) == MOST:
            break
        found = make(id, folder / f"{len(sums):02d}.jpg")
        if wanted and found is None:
            raise UserError(f"picture {id} of the list is gone: take its line out, or build without --list")
        if wanted and found != wanted:
            raise UserError(f"picture {id} is not the list's: its sha256 is {found}, expected {wanted}")
        if found is not None:
            sums[id] = found
            bar.update()
    train = FEWEST if len(sums) >= FEWEST + 2 else len(sums)
    rows = []
    for k, (id, source) in enumerate(sums.items()):
        place = f"{name}/{concept}/{k:02d}.jpg" if k < train else f"{name}-references/{concept}/{k - train:02d}.jpg"
        (part / place).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / f"{k:02d}.jpg", part / place)
        row = {"id": id, "concept": concept, "file": place, "source_sha256": source}
        rows.append({**row, "sha256": digest(part / place, "sha256")})
    return rows


def publish(part: Path, out: Path, name: str, rows: list[dict]) -> None:
    """Move a set to its place. The pictures to learn from come last: where they are, all is."""
    there, references = out / name, f"{name}-references"
    if there.exists():
        old, new = (folder / "sources.csv" for folder in (there, part / name))
        if not old.is_file() or old.read_bytes() != new.read_bytes():
            raise UserError(f"{there} is another set than this command makes: delete it, or give another --out")
        if not all(check(out / row["file"], sha256=row["sha256"]) for row in rows):
            raise UserError(f"pictures of {there} are missing or have been changed: delete it and build it anew")
        return
    if (out / references).exists():  # of a run that was killed between the two moves
        shutil.rmtree(out / references)
    if (part / references).exists():
        os.replace(part / references, out / references)
    os.replace(part / name, there)


def write_table(file: Path, columns: Iterable[str], rows: list[dict]) -> None:
    """A CSV file of these columns, whole or not at all; what a row lacks is left empty."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    try:
        with open(part, "w", encoding="utf-8", newline="") as stream:
            table = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def write_list(file: Path, rows: list[dict]) -> None:
    """A list of what a set was built from, for `read_list`."""
    write_table(file, LIST, [{**row, "sha256": row["source_sha256"]} for row in rows])


def read_table(file: Path, *columns: str) -> Iterator[list[str]]:
    """These columns of a CSV file, row by row. Raises UserError for a file that has not got them."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace", newline="") as stream:
            table = csv.DictReader(stream)
            lacking = [column for column in columns if column not in (table.fieldnames or ())]
            if lacking:
                raise UserError(f"{file} has no column {lacking[0]}, expected {','.join(columns)}: get it again")
            for row in table:
                found = [row[column] for column in columns]
                if None in found:
                    raise UserError(f"{file} is cut off at line {table.line_num}: get it again")
                yield found
    except csv.Error as error:
        raise UserError(f"{file} is no table ({error}): get it again") from None


def read_list(file: Path, kind: str) -> Chosen:
    """The pictures of a list by concept, KIND-01 and so on. Raises UserError for what cannot be one."""
    chosen, seen = {}, set()
    for concept, id, sha256 in read_table(file, *LIST):
        plain = re.fullmatch(rf"{kind}-\d\d+", concept) and re.fullmatch(r"\w+", id, re.ASCII)
        if not plain or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UserError(f"{file} has a line {concept},{id},{sha256}: expected {kind}-01, an id and a sha256")
        if id in seen:
            raise UserError(f"{file} has {id} twice: take one line out")
        seen.add(id)
        chosen.setdefault(concept, {})[id] = sha256
    if not chosen:
        raise UserError(f"{file} lists no pictures")
    for concept, ids in chosen.items():
        if not FEWEST <= len(ids) <= MOST:
            raise UserError(f"{file} lists {len(ids)} pictures of {concept}: expected {FEWEST} to {MOST}")
    return chosen


def largest(pictures: dict[int, list], what: str) -> list[int]:
    """The COUNT groups with the most pictures, of as many the lower number first. Raises UserError for too few."""
    enough = [group for group, those in pictures.items() if len(those) >= FEWEST]
    if len(enough) < COUNT:
        raise UserError(f"only {len(enough)} {what} have {FEWEST} pictures or more, {COUNT} are needed")
    return sorted(enough, key=lambda group: (-len(pictures[group]), group))[:COUNT]


def parser(text: str, source: str) -> Parser:
    """The options that both scripts have."""
    made = Parser(description=text.split("\n")[0])
    made.add_argument("--out", type=Path, default=Path("data/celeba-landmarks50"), metavar="DIR", help="(%(default)s)")
    made.add_argument("--from", dest="source", type=Path, metavar=source, help="a copy on disk")
    made.add_argument("--size", type=at_least(16), default=512, metavar="PX", help="of the squares (512)")
    made.add_argument("--list", type=Path, metavar="FILE", help="build the pictures of this list and no others")
    made.add_argument("--write-list", type=Path, metavar="FILE", help="write a list of what was chosen")
    return made


def run(script: str, work: Callable[[], str]) -> int:
    """Do the work, print what it says or its error in one line; the exit code."""
    try:
        print(work())
    except (DownloadError, UserError, OSError) as error:
        print(f"{script}:", *str(error).split(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{script}: interrupted; the same command goes on where this one was", file=sys.stderr)
        return 130
    return 0


def summary(out: Path, name: str, rows: list[dict]) -> str:
    """One line with the numbers of concepts and pictures of a finished set."""
    concepts = len({row["concept"] for row in rows})
    train = sum(row["file"].startswith(f"{name}/") for row in rows)
    return f"{out / name}: {concepts} concepts, {train} pictures to learn from, {len(rows) - train} to measure with"
