"""Build `waterfalls25`, 25 waterfalls of Google Landmarks v2 with at least 15 pictures each.

    python data_scripts/google_landmarks.py --contact you@example.org     metadata (GBs), then the chosen pictures alone
    python data_scripts/google_landmarks.py --from train                  from the data set's own tar files, extracted
    python data_scripts/google_landmarks.py --list waterfalls25.csv        a list that --write-list made

Weyand et al., "Google Landmarks Dataset v2", CVPR 2020: photos of Wikimedia Commons under Creative Commons licences,
most of which ask you to name the author: waterfalls25/sources.csv does. Addresses and columns are those of an early
README of the data set (https://github.com/cvdfoundation/google-landmark), train_label_to_category.csv is recalled; none
could be tried when this was written. A killed run goes on: metadata lie in OUT/google-landmarks-metadata, the pictures'
squares in OUT/waterfalls25.fetched-512px. A copy on disk is what the data set's 500 tar files hold, of 1 GB each
(https://s3.amazonaws.com/google-landmark/train/images_000.tar to images_499.tar): a/b/c/abc….jpg. Its files need not be
byte for byte those of the web, so a list is for one of the two ways.

A waterfall is a landmark whose category says so (WORDS, ENDINGS). Those with most pictures are chosen, of as many the
lower landmark id first, and their pictures in order of id; one that is gone from the web is passed over for the next.
The rule is ours, and coarse: towns called Falls pass too. Look at what came, and leave landmarks or pictures --without.
"""

import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import real_sets
from downloads import DownloadError, Refused, digest, download
from real_sets import (
    Chosen,
    TooFew,
    build,
    from_disk,
    largest,
    read_list,
    read_table,
    save,
    square,
    summary,
    write_list,
)
from tqdm.auto import tqdm

from stamina_lite.errors import UserError

NAME = "waterfalls25"
METADATA = "https://s3.amazonaws.com/google-landmark/metadata/"
CATEGORIES, PICTURES, ATTRIBUTION = "train_label_to_category.csv", "train.csv", "train_attribution.csv"
WORDS = set(  # as whole words of a category's name: English, French, Italian, Spanish, Portuguese, German
    "waterfall waterfalls falls cascade cascades chute chutes cascata cascate cascada cascadas cachoeira cachoeiras "
    "wasserfall wasserfälle".split()
)
ENDINGS = ("foss", "fossen")  # of a word: Icelandic and Norwegian, as in Gullfoss, Vøringsfossen
AGENT = "stamina-lite/0.1 (data_scripts/google_landmarks.py, builds a research data set; {})"
ASK_AGAIN = (401, 403, 408, 425, 429)  # of 4xx: these say nothing of the picture, the others that it is not to be had


def is_waterfall(category: str) -> bool:
    """Whether the address or name of a Commons category has a word for a waterfall."""
    name = unquote(category).rpartition("Category:")[2].casefold()
    words = re.findall(r"[^\W\d_]+", name)
    return any(word in WORDS or word.endswith(ENDINGS) for word in words)


def table(file: Path, *columns: str):
    """The rows of a large table, with a bar."""
    return tqdm(read_table(file, *columns), desc=file.name, unit=" rows", unit_scale=True)


def whole_number(text: str, file: Path) -> int:
    if not text.isdecimal():
        raise UserError(f"{file} has a landmark_id {text[:40]!r}: expected a whole number")
    return int(text)


def choose(metadata: Path, without: set[str]) -> tuple[Chosen, dict[str, int]]:
    """The pictures of the waterfalls with most of them, and the landmark of each concept. Raises UserError."""
    categories, pictures = metadata / CATEGORIES, metadata / PICTURES
    falls = {
        whole_number(n, categories) for n, name in table(categories, "landmark_id", "category") if is_waterfall(name)
    }
    found: dict[int, list[str]] = {}
    unknown = set(without)
    for id, landmark in table(pictures, "id", "landmark_id"):
        if whole_number(landmark, pictures) not in falls:
            continue
        if not re.fullmatch(r"\w{3,}", id, re.ASCII):  # it becomes a file's name
            raise UserError(f"{pictures} has an id {id[:40]!r}: expected letters and digits")
        if id in without or landmark in without:
            unknown -= {id, landmark}
        else:
            found.setdefault(int(landmark), []).append(id)
    if unknown:
        raise UserError(f"--without {min(unknown)}: no waterfall and no picture of one has this id")
    landmarks = {f"waterfall-{k:02d}": landmark for k, landmark in enumerate(largest(found, "waterfalls"), 1)}
    chosen = {concept: dict.fromkeys(sorted(found[landmark]), "") for concept, landmark in landmarks.items()}
    return chosen, landmarks


def columns_of(file: Path, ids: set[str], *columns: str) -> dict[str, dict]:
    """What a table says of these ids: id -> {column: text}."""
    found = {}
    for id, *values in table(file, "id", *columns):
        if id in ids:
            found[id] = dict(zip(columns, values, strict=True))
    return found


class Web:
    """Squares of pictures on the web, each fetched once and kept in `folder`.

    ID.SHA256.jpg is a square and the checksum of what it was made from, ID.gone says why there is none. A picture is
    gone where the server says so or sends something else; all other trouble is an error, so that the choice does not
    hang on the weather.
    """

    def __init__(self, folder: Path, urls: dict[str, str], size: int, pause: float, contact: str):
        self.folder, self.urls, self.size, self.pause = folder, urls, size, pause
        self.headers = {"User-Agent": AGENT.format(contact)}
        self.last = 0.0  # when the last picture came
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, id: str, to: Path) -> str | None:
        gone = self.folder / f"{id}.gone"
        if not gone.exists() and not self.kept(id):
            reason = self.fetch(id)
            if reason:
                part = gone.with_suffix(".part")
                part.write_text(reason + "\n", encoding="utf-8")
                os.replace(part, gone)
        if gone.exists():
            return None
        (file,) = self.kept(id)
        shutil.copyfile(file, to)
        return file.name.split(".")[1]

    def kept(self, id: str) -> list[Path]:
        return [*self.folder.glob(f"{id}.*.jpg")]

    def fetch(self, id: str) -> str | None:
        """Keep the square of a picture, or say why there is none."""
        url = web_address(self.urls.get(id, ""))
        if url is None:
            return f"{self.urls.get(id, '')!r} is no address"
        raw = self.folder / f"{id}.source"
        time.sleep(max(0.0, self.last + self.pause - time.monotonic()))
        try:
            download(url, raw, self.headers, bar=False)
            picture, sha256 = square(raw, self.size), digest(raw, "sha256")
        except DownloadError as error:
            if isinstance(error, Refused) and error.code < 500 and error.code not in ASK_AGAIN:
                return str(error)
            raise DownloadError(f"{error}; --without {id} takes the next picture") from None
        except UserError:
            return f"{url}: what comes is no picture"
        finally:
            self.last = time.monotonic()
            raw.unlink(missing_ok=True)
        save(picture, self.folder / f"{id}.{sha256}.jpg")
        return None


def web_address(text: str) -> str | None:
    """An address of the web as a request can have it, None for anything else (a table may say file:///…)."""
    try:
        parts = urlsplit(text)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.hostname.isascii()
    except ValueError:
        return None
    return quote(text, safe="%/:?#[]@!$&'()*+,;=~") if plain else None


def copied(source: Path, size: int):
    """What makes squares of the extracted train tree. Raises UserError."""
    if not any(source.glob("?/?/?")):
        raise UserError(f"{source} has no folders a/b/c: give the folder the train tar files were extracted into")

    def read(id: str) -> bytes:
        file = source.joinpath(*id[:3], f"{id}.jpg")
        if not file.is_file():
            raise UserError(f"{file} is missing, the copy is not whole; --without {id} takes the next picture")
        return file.read_bytes()

    return from_disk(read, size, source)


def make_set(args) -> str:
    """The whole work; what was made, in a line."""
    listed = read_list(args.list, "waterfall") if args.list else None
    if listed and args.without:
        raise UserError("--without is for a choice: of a list, take lines out")
    make = copied(args.source, args.size) if args.source else None
    needed = {ATTRIBUTION: True, CATEGORIES: not listed, PICTURES: not (listed and make)}
    for name in (name for name, wanted in needed.items() if wanted):
        download(METADATA + name, args.metadata / name, {"User-Agent": AGENT.format(args.contact)})
    chosen, landmarks = (listed, {}) if listed else choose(args.metadata, set(args.without))
    ids = {id for those in chosen.values() for id in those}
    said = columns_of(args.metadata / ATTRIBUTION, ids, "url", "author", "license", "title")
    fetched = args.out / f"{NAME}.fetched-{args.size}px"
    if make is None:
        urls = columns_of(args.metadata / PICTURES, ids, "url")
        make = Web(fetched, {id: row["url"] for id, row in urls.items()}, args.size, args.pause, args.contact)
    try:
        rows = build(args.out, NAME, chosen, make, lambda id: said.get(id, {}))
    except TooFew as error:
        which = " ".join(str(landmarks[concept]) for concept in error.found)
        raise UserError(f"{error}: {fetched}/*.gone say why; --without {which} takes the next landmarks") from None
    if args.write_list:
        write_list(args.write_list, rows)
    nameless = sum(not said.get(row["id"], {}).get("author") for row in rows)
    note = f"; {nameless} have no author in {ATTRIBUTION}: do not pass these on" if nameless else ""
    return summary(args.out, NAME, rows) + note


def seconds(text: str) -> float:
    """An argparse type: a number from 0."""
    if not 0 <= float(text) < float("inf"):
        raise ValueError
    return float(text)


def header(text: str) -> str:
    """An argparse type: what a request's header can have."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError
    return text


def main(argv: list[str] | None = None) -> int:
    parser = real_sets.parser(__doc__, "DIR")
    parser.add_argument("--metadata", type=Path, metavar="DIR", help="its CSV files (OUT/google-landmarks-metadata)")
    parser.add_argument("--without", nargs="+", default=[], metavar="ID", help="landmarks and pictures to pass over")
    parser.add_argument("--pause", type=seconds, default=1.0, metavar="SECONDS", help="between two pictures (1)")
    parser.add_argument("--contact", type=header, default="no contact given", help="Wikimedia asks for a mail address")
    args = parser.parse_args(argv)
    args.metadata = args.metadata or args.out / "google-landmarks-metadata"
    return real_sets.run("google_landmarks.py", lambda: make_set(args))


if __name__ == "__main__":
    sys.exit(main())
