"""Build `celebs25`, 25 people of CelebA-HQ with at least 15 pictures each, from a copy on disk.

    python data_scripts/celeba_hq.py --from CelebAMask-HQ.zip --identities identity_CelebA.txt
    python data_scripts/celeba_hq.py --from CelebAMask-HQ --list celebs25.csv      a list that --write-list made

Nothing is fetched: the terms (non-commercial research, no copies to others) ask you to agree to them first.

- The pictures: CelebAMask-HQ, https://github.com/switchablenorms/CelebAMask-HQ (Lee et al., CVPR 2020; CelebA-HQ:
  Karras et al., ICLR 2018), a zip with CelebA-HQ-img/0.jpg to 29999.jpg and CelebA-HQ-to-CelebA-mapping.txt. --from
  takes the zip, which is read without unpacking it, or its folder.
- Who is on them: identity_CelebA.txt of CelebA (Liu et al., ICCV 2015), which its authors send on request:
  http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html

The people with most pictures are chosen, of as many the lower identity number first; their pictures in order of idx.
The rule is ours. Pictures beyond the first 15 are to measure with.
"""

import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import real_sets
from real_sets import Chosen, build, from_disk, largest, read_list, summary, write_list

from stamina_lite.errors import UserError

NAME = "celebs25"
PICTURES, MAPPING = "CelebA-HQ-img", "CelebA-HQ-to-CelebA-mapping.txt"
WHERE = "https://github.com/switchablenorms/CelebAMask-HQ has it, for non-commercial research"
ASK = "give --identities FILE, CelebA's identity_CelebA.txt: http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
LICENCE = "CelebAMask-HQ: non-commercial research, not to be passed on"


def copy_on_disk(source: Path) -> Callable[[str], bytes]:
    """What reads a file of CelebAMask-HQ, by its path in there, from its folder or zip. Raises UserError."""
    if source.is_file():
        return zipped(source)
    if not (source / PICTURES).is_dir():
        raise UserError(f"{source} has no folder {PICTURES}: give CelebAMask-HQ or its zip; {WHERE}")

    def read(path: str) -> bytes:
        if not (source / path).is_file():
            raise UserError(f"{source / path} is missing: the copy is not whole")
        return (source / path).read_bytes()

    return read


def zipped(source: Path) -> Callable[[str], bytes]:
    """The same from the zip. Members are read into memory one by one: no path in there is ever written to."""
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile:
        raise UserError(f"{source} is no zip, or cut off: give CelebAMask-HQ.zip or its folder; {WHERE}") from None
    members = {name for name in archive.namelist() if f"{PICTURES}/" in name}
    if not members:
        raise UserError(f"{source} has no folder {PICTURES}: give CelebAMask-HQ.zip; {WHERE}")
    above = min(members).partition(f"{PICTURES}/")[0]

    def read(path: str) -> bytes:
        try:
            return archive.read(above + path)
        except KeyError:
            raise UserError(f"{above + path} is missing in {source}: the copy is not whole") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{above + path} in {source} cannot be read ({error}): get it again") from None

    return read


def read_mapping(data: bytes) -> dict[int, str]:
    """idx -> name of the picture in CelebA. Raises UserError where it is another table."""
    header, *lines = data.decode(errors="replace").splitlines() or [""]
    if header.split() != ["idx", "orig_idx", "orig_file"]:
        raise UserError(f"{MAPPING} begins with {header[:80]!r}: expected idx orig_idx orig_file")
    found = {}
    for k, row in enumerate(map(str.split, lines), 2):
        if row and not (len(row) == 3 and row[0].isdecimal()):
            raise UserError(f"{MAPPING}, line {k}: {' '.join(row)[:80]}, expected idx orig_idx orig_file")
        if row:
            found[int(row[0])] = row[2]
    return found


def read_identities(file: Path) -> dict[str, int]:
    """Name of a picture in CelebA -> number of who is on it. Raises UserError where it is another table."""
    found = {}
    with open(file, encoding="utf-8-sig", errors="replace") as stream:
        for k, line in enumerate(stream, 1):
            row = line.split()
            if row and not (len(row) == 2 and row[1].isdecimal()):
                raise UserError(f"{file}, line {k}: {' '.join(row)[:80]}, expected a line as 000001.jpg 2880; {ASK}")
            if row:
                found[row[0]] = int(row[1])
    return found


def choose(mapping: dict[int, str], identities: dict[str, int], file: Path) -> Chosen:
    """The pictures of the people with most of them. Raises UserError where names are missing or there are too few."""
    missing = [name for name in mapping.values() if name not in identities]
    if missing:
        raise UserError(f"{file} lacks {len(missing)} pictures of the mapping, {missing[0]} first: it is not whole")
    people: dict[int, list[str]] = {}
    for idx in sorted(mapping):
        people.setdefault(identities[mapping[idx]], []).append(str(idx))
    return {
        f"celeb-{k:02d}": dict.fromkeys(people[person], "") for k, person in enumerate(largest(people, "people"), 1)
    }


def main(argv: list[str] | None = None) -> int:
    parser = real_sets.parser(__doc__, "ZIP|DIR")
    parser.add_argument("--identities", type=Path, metavar="FILE", help="identity_CelebA.txt; not with --list")
    args = parser.parse_args(argv)

    def work() -> str:
        if args.source is None:
            raise UserError(f"give --from, a copy of CelebAMask-HQ: it cannot be fetched by a script; {WHERE}")
        if args.list is None and args.identities is None:
            raise UserError(f"nothing says who is on the pictures: {ASK}")
        read = copy_on_disk(args.source)
        if args.list:
            chosen = read_list(args.list, "celeb")
        else:
            chosen = choose(read_mapping(read(MAPPING)), read_identities(args.identities), args.identities)
        make = from_disk(lambda id: read(f"{PICTURES}/{id}.jpg"), args.size, args.source)
        rows = build(args.out, NAME, chosen, make, lambda id: {"license": LICENCE})
        if args.write_list:
            write_list(args.write_list, rows)
        return summary(args.out, NAME, rows)

    return real_sets.run("celeba_hq.py", work)


if __name__ == "__main__":
    sys.exit(main())
