"""The real set's two halves built from small copies and from a local web that misbehaves, and learned by `bench`."""

import csv
import hashlib
import io
import json
import re
import resource
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import zip_longest
from pathlib import Path

import celeba_hq
import downloads
import google_landmarks
import numpy as np
import pytest
import real_sets
from PIL import Image

from stamina_lite import cli
from stamina_lite.data import UserError, concepts


def photo(seed: int) -> bytes:
    """A JPEG of 44 x 32 px: coarse blocks of colour, no two alike."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((44, 32), Image.Resampling.NEAREST).save(file, "JPEG", quality=90)
    return file.getvalue()


def middle(data: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.crop((6, 0, 38, 32)).resize((size, size), Image.Resampling.LANCZOS)).astype(int)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def rows_of(file: Path) -> list[dict]:
    with open(file, newline="", encoding="utf-8") as stream:
        return [*csv.DictReader(stream)]


def said(capsys, script, *argv) -> str:
    """The one line on stderr that a command ends with, below its bars; asserts exit code 2 and that no part is left."""
    capsys.readouterr()
    assert script.main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith(f"{script.__name__}.py: ")]
    assert len(lines) == 1 and err.endswith(lines[0] + "\n") and "Traceback" not in err
    out = Path(argv[argv.index("--out") + 1])
    assert not [*out.glob("*.part")] and not (out / script.NAME).exists()
    return lines[0]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Three concepts a half, and no pauses."""
    monkeypatch.setattr(real_sets, "COUNT", 3)
    monkeypatch.setattr(downloads, "PAUSE", 0.0)


PEOPLE = {12: 16, 7: 18, 5: 15, 9: 14, 3: 18}  # identity number: pictures


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """CelebAMask-HQ in small, its people mixed, and identities of pictures it has not got too."""
    root = tmp_path_factory.mktemp("celeba")
    order = [person for turn in range(18) for person, n in PEOPLE.items() if turn < n]
    lines, names = ["idx    orig_idx  orig_file"], ["200000.jpg 3"]
    (root / "CelebAMask-HQ/CelebA-HQ-img").mkdir(parents=True)
    for idx, person in enumerate(order):
        name = f"{7 * idx + 1:06d}.jpg"
        lines.append(f"{idx:<10d}{7 * idx:<10d}{name}")
        names.append(f"{name} {person}")
        (root / f"CelebAMask-HQ/CelebA-HQ-img/{idx}.jpg").write_bytes(photo(idx))
    (root / "CelebAMask-HQ" / celeba_hq.MAPPING).write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(names) + "\n")
    with zipfile.ZipFile(root / "CelebAMask-HQ.zip", "w") as archive:
        for file in sorted((root / "CelebAMask-HQ").rglob("*.*")):
            archive.write(file, file.relative_to(root))
        archive.writestr("../escaped.jpg", b"x")
    return root, {person: [str(k) for k, p in enumerate(order) if p == person] for person in PEOPLE}


@pytest.fixture
def celeba(original, tmp_path):
    """The same, to be spoilt: the command, and who is on which pictures."""
    copy = tmp_path / "celeba"
    shutil.copytree(original[0], copy)
    argv = ["--from", copy / "CelebAMask-HQ", "--identities", copy / "identity_CelebA.txt", "--size", "24"]
    return [*argv, "--out", tmp_path / "out"], copy, original[1]


def run(script, argv) -> None:
    assert script.main([str(a) for a in argv]) == 0


def test_the_people_with_most_pictures_are_built_in_order(celeba, tmp_path, capsys):
    argv, copy, people = celeba
    run(celeba_hq, argv)
    assert "celebs25: 3 concepts, 46 pictures to learn from, 6 to measure with" in capsys.readouterr().out
    expected = {"celeb-01": people[3], "celeb-02": people[7], "celeb-03": people[12]}  # 18, 18 and 16 pictures
    rows = rows_of(tmp_path / "out/celebs25/sources.csv")
    assert {c: [r["id"] for r in rows if r["concept"] == c] for c in expected} == expected
    for row in rows:
        source, built = (
            (copy / f"CelebAMask-HQ/CelebA-HQ-img/{row['id']}.jpg").read_bytes(),
            tmp_path / "out" / row["file"],
        )
        assert row["source_sha256"] == hashlib.sha256(source).hexdigest()
        assert row["sha256"] == hashlib.sha256(built.read_bytes()).hexdigest()
        pixels = np.asarray(Image.open(built)).astype(int)
        assert pixels.shape == (24, 24, 3) and np.abs(pixels - middle(source, 24)).mean() < 4
        assert np.abs(pixels - middle(photo(1000), 24)).mean() > 30
    found = concepts(tmp_path / "out" / "celebs25")
    assert [(c.token, len(c.images)) for c in found] == [("<celeb-01>", 15), ("<celeb-02>", 15), ("<celeb-03>", 16)]
    assert [len(c.references) for c in found[:2]] == [3, 3] and not {*found[0].images} & {*found[0].references}
    assert found[2].references == found[2].images  # one picture more is nothing to measure with: it is learned from
    assert len([*tmp_path.rglob("escaped.jpg")]) == 0


def test_zip_list_and_another_run_give_the_same(celeba, tmp_path, capsys):
    argv, copy, _ = celeba
    lists = tmp_path / "lists" / "celebs25.csv"
    run(celeba_hq, [*argv, "--write-list", lists])
    there = tree(tmp_path / "out")
    stamp = (tmp_path / "out/celebs25").stat().st_mtime_ns
    run(celeba_hq, argv)  # what is there is left as it is
    assert tree(tmp_path / "out") == there and (tmp_path / "out/celebs25").stat().st_mtime_ns == stamp
    argv[1], argv[-1] = copy / "CelebAMask-HQ.zip", tmp_path / "from-zip"
    run(celeba_hq, argv)
    run(celeba_hq, ["--from", copy / "CelebAMask-HQ", "--list", lists, "--size", "24", "--out", tmp_path / "from-list"])
    assert tree(tmp_path / "from-zip") == there == tree(tmp_path / "from-list") and len(there) == 53
    assert not [*tmp_path.rglob("escaped.jpg")] and not [*tmp_path.rglob("*.part")]
    fewer = lists.read_text().splitlines()
    lists.write_text("\n".join(fewer[:1] + fewer[19:37]) + "\n")
    run(celeba_hq, ["--from", copy / "CelebAMask-HQ", "--list", lists, "--size", "24", "--out", tmp_path / "one"])
    assert {r["concept"] for r in rows_of(tmp_path / "one/celebs25/sources.csv")} == {"celeb-02"}


def test_a_set_that_is_there_and_another_is_kept(celeba, tmp_path, capsys):
    argv, _, _ = celeba
    run(celeba_hq, argv)
    there = tree(tmp_path / "out")
    for change, told in (
        (lambda: None, "is another set than this command makes"),
        ((tmp_path / "out/celebs25/celeb-01/03.jpg").unlink, "are missing or have been changed"),
    ):
        change()
        size = "24" if "missing" in told else "32"
        assert celeba_hq.main([str(a) for a in [*argv, "--size", size]]) == 2
        assert told in capsys.readouterr().err
    del there["celebs25/celeb-01/03.jpg"]
    assert tree(tmp_path / "out") == there
    shutil.rmtree(tmp_path / "out/celebs25")  # as if killed between its two moves: references alone
    (tmp_path / "out/celebs25-references/celeb-01/99.jpg").write_bytes(photo(1))
    (tmp_path / "out/celebs25.part/made").mkdir(parents=True)
    run(celeba_hq, argv)
    assert {*tree(tmp_path / "out")} == {*there, "celebs25/celeb-01/03.jpg"}


NAMES = "identity_CelebA.txt"


def overwrite(name, change):
    return lambda copy: (copy / name).write_bytes(change((copy / name).read_bytes()))


@pytest.mark.parametrize(
    ("spoil", "more", "told"),
    [
        (lambda c: shutil.rmtree(c / "CelebAMask-HQ"), [], "has no folder CelebA-HQ-img: give CelebAMask-HQ or"),
        (lambda c: shutil.rmtree(c / "CelebAMask-HQ/CelebA-HQ-img"), [], "has no folder CelebA-HQ-img"),
        (lambda c: (c / "CelebAMask-HQ" / celeba_hq.MAPPING).unlink(), [], "mapping.txt is missing: the copy is not"),
        (overwrite("CelebAMask-HQ/" + celeba_hq.MAPPING, lambda b: b[3:]), [], "expected idx orig_idx orig_file"),
        (overwrite("CelebAMask-HQ/" + celeba_hq.MAPPING, lambda b: b[:-12]), [], "line 82: 0 0, expected idx orig_idx"),
        (overwrite(NAMES, lambda b: b[: b.index(b"\n", 600)]), [], "identity_CelebA.txt lacks "),
        (overwrite(NAMES, lambda b: b.replace(b" 12\n", b" twelve\n")), [], "expected a line as 000001.jpg 2880"),
        (overwrite(NAMES, lambda b: b.replace(b" 5\n", b" 6\n", 1).replace(b" 12\n", b" 99\n", 2)), [],
         "only 2 people have 15 pictures or more, 3 are needed"),
        (lambda c: (c / "CelebAMask-HQ/CelebA-HQ-img/1.jpg").unlink(), [], "1.jpg is missing: the copy is not whole"),
        (overwrite("CelebAMask-HQ/CelebA-HQ-img/1.jpg", lambda b: b[:500]), [], "picture 1 in "),
        (overwrite("CelebAMask-HQ/CelebA-HQ-img/1.jpg", lambda b: b"<html>"), [], "is not whole or no picture"),
        (lambda c: None, ["--identities", "none.txt"], "No such file or directory: 'none.txt'"),
        (lambda c: None, ["--from", "{copy}/identity_CelebA.txt"], "is no zip, or cut off"),
        (overwrite("CelebAMask-HQ.zip", lambda b: b[:-30]), ["--from", "{copy}/CelebAMask-HQ.zip"], "is no zip, or"),
        (overwrite("CelebAMask-HQ.zip", lambda b: b.replace(photo(4)[300:500], bytes(200))),
         ["--from", "{copy}/CelebAMask-HQ.zip"], "4.jpg in "),
        (lambda c: None, ["--list", "none.csv"], "No such file or directory: 'none.csv'"),
    ],
)  # fmt: skip
def test_copies_that_are_not_whole_are_refused_in_one_line(celeba, capsys, spoil, more, told):
    argv, copy, _ = celeba
    spoil(copy)
    argv += [a.replace("{copy}", str(copy)) for a in more]
    assert told in said(capsys, celeba_hq, *argv)


def test_who_has_fourteen_pictures_makes_room(celeba, tmp_path):
    argv, copy, people = celeba
    overwrite(NAMES, lambda b: b.replace(b" 12\n", b" 99\n", 2))(copy)
    run(celeba_hq, argv)
    rows = rows_of(tmp_path / "out/celebs25/sources.csv")
    assert [r["id"] for r in rows if r["concept"] == "celeb-03"] == people[5]


def test_what_was_not_given_is_asked_for(celeba, capsys):
    argv, _, _ = celeba
    assert "give --from" in said(capsys, celeba_hq, *argv[2:])
    assert "nothing says who is on the pictures: give --identities" in said(capsys, celeba_hq, *argv[:2], *argv[4:])


def test_lists_are_checked(celeba, tmp_path, capsys):
    argv, copy, _ = celeba
    file = tmp_path / "list.csv"
    run(celeba_hq, [*argv, "--write-list", file])
    shutil.rmtree(tmp_path / "out")
    header, *lines = file.read_text().splitlines()
    first = lines[0].split(",")
    for changed, told in (
        ([f"{first[0]},{first[1]},{'0' * 64}", *lines[1:]], f"its sha256 is {first[2]}, expected {'0' * 64}"),
        ([f"../../x,{first[1]},{first[2]}", *lines[1:]], "expected celeb-01, an id and a sha256"),
        ([f"celeb-01,../../x,{first[2]}", *lines[1:]], "expected celeb-01, an id and a sha256"),
        ([*lines, lines[3]], "twice"),
        (lines[:14], "lists 14 pictures of celeb-01: expected 15 to 79"),
        ([], "lists no pictures"),
        ([*lines[:-1], "celeb-03"], "is cut off at line"),
        ([f"{first[0]},99999,{first[2]}", *lines[1:]], "99999.jpg is missing"),
    ):
        file.write_text("\n".join([header, *changed]) + "\n")
        assert told in said(capsys, celeba_hq, *argv, "--list", file)
    file.write_text("\n".join(lines))
    assert "has no column concept" in said(capsys, celeba_hq, *argv, "--list", file)


@contextmanager
def full_disk(size: int):
    """The system refuses files above so many bytes, as it refuses any on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_no_half_of_a_set(celeba, tmp_path, capsys):
    argv, _, _ = celeba
    with full_disk(900):
        assert celeba_hq.main([str(a) for a in argv]) == 2
    assert "celeba_hq.py: [Errno 27] File too large\n" in capsys.readouterr().err
    assert tree(tmp_path / "out") == {}
    run(celeba_hq, argv)


# Google Landmarks: landmark -> category, pictures. 300 and 8 have most; 5 is no waterfall; 9 has too few pictures.
LANDMARKS = {
    300: ("Gullfoss_(south)", 19), 8: ("Niagara%20Falls", 19), 77: ("Cascada_de_Basaseachi", 16),
    41: ("Krimmler_Wasserf%C3%A4lle", 15), 5: ("Fallsburg", 30), 9: ("Angel_Falls", 14),
}  # fmt: skip


def picture_id(landmark: int, k: int) -> str:
    return hashlib.sha256(f"{landmark} {k}".encode()).hexdigest()[:16]


IDS = {landmark: sorted(picture_id(landmark, k) for k in range(n)) for landmark, (_, n) in LANDMARKS.items()}
PHOTOS = {id: photo(int(id, 16)) for ids in IDS.values() for id in ids}
CATEGORY = "http://commons.wikimedia.org/wiki/Category:"


class Web(BaseHTTPRequestHandler):
    """/metadata/… and /p/ID.jpg; `ways` says how an id is answered: moved, gone, page, breaks, busy, later, down."""

    asked: list = []  # (path, range, agent, time)
    ways: dict = {}
    home = Path()

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Range"), self.headers.get("User-Agent"), time.monotonic()))
        if self.path.startswith("/metadata/"):
            return self.serve((self.home / self.path.rpartition("/")[2]).read_bytes())
        id = self.path.rpartition("/")[2][:16]
        way, times = self.ways.get(id), sum(path == self.path for path, *_ in self.asked)
        if way == "moved" and not self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"/moved/{id}.jpg")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if way == "gone":
            return self.send_error(404)
        if way == "down":
            return self.send_error(500)
        if way == "later" or (way == "busy" and times < 3):
            self.send_response(429 if times % 2 else 503)
            self.send_header(
                "Retry-After", "3600" if way == "later" else ("0", "Wed, 21 Oct 2015 07:28:00 GMT")[times - 1]
            )
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.serve(b"<html>not here</html>" if way == "page" else PHOTOS[id], 400 if way == "breaks" else None)

    def serve(self, data: bytes, most: int | None = None):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][:most])

    def log_message(self, *args):
        pass


def write_csv(file: Path, header: str, rows) -> None:
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A web of landmarks and a command that builds from it."""
    Web.asked, Web.ways, Web.home = [], {}, tmp_path / "metadata"
    Web.home.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(google_landmarks, "METADATA", f"{base}/metadata/")
    write_csv(
        Web.home / "train_label_to_category.csv", "landmark_id,category",
        [(n, CATEGORY + category) for n, (category, _) in LANDMARKS.items()],
    )  # fmt: skip
    every = sorted((id, landmark) for landmark, ids in IDS.items() for id in ids)
    write_csv(Web.home / "train.csv", "id,url,landmark_id", [(id, f"{base}/p/{id}.jpg", n) for id, n in every])
    write_csv(
        Web.home / "train_attribution.csv", "id,url,author,license,title",
        [(id, f"{base}/File:{id}", 'Ann, "B"', "CC BY-SA 3.0", f"File:{id}.jpg") for id, _ in every],
    )  # fmt: skip
    yield ["--out", tmp_path / "out", "--size", "24", "--pause", "0"]
    server.shutdown()
    server.server_close()


def asked_for() -> list[str]:
    """Ids of the pictures that were asked for, in order."""
    return [path.rpartition("/")[2][:16] for path, *_ in Web.asked if "/metadata/" not in path]


def test_waterfalls_are_fetched_from_a_web_that_misbehaves(web, tmp_path, capsys):
    gone, page, moved, breaks, busy = IDS[8][:5]
    Web.ways = {gone: "gone", page: "page", moved: "moved", breaks: "breaks", busy: "busy"}
    run(google_landmarks, [*web, "--contact", "me@example.org"])
    told = capsys.readouterr().out
    assert "waterfalls25: 3 concepts, 46 pictures to learn from, 6 to measure with\n" in told
    rows = rows_of(tmp_path / "out/waterfalls25/sources.csv")
    built = {c: [r["id"] for r in rows if r["concept"] == c] for c in dict.fromkeys(r["concept"] for r in rows)}
    assert built == {"waterfall-01": IDS[8][2:], "waterfall-02": IDS[300], "waterfall-03": IDS[77]}
    for row in rows:
        file = tmp_path / "out" / row["file"]
        assert row["source_sha256"] == hashlib.sha256(PHOTOS[row["id"]]).hexdigest()  # whole, whatever the line did
        assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert np.abs(np.asarray(Image.open(file)).astype(int) - middle(PHOTOS[row["id"]], 24)).mean() < 4
        assert (row["author"], row["license"], row["title"]) == ('Ann, "B"', "CC BY-SA 3.0", f"File:{row['id']}.jpg")
        assert row["url"].endswith(f"/File:{row['id']}")
    assert {agent for _, _, agent, _ in Web.asked} == {google_landmarks.AGENT.format("me@example.org")}
    ranges = [r for path, r, *_ in Web.asked if breaks in path]
    assert ranges == [None, *(f"bytes={k}-" for k in range(400, len(PHOTOS[breaks]), 400))] and len(ranges) > 1
    times = {id: asked_for().count(id) for id in {*asked_for()}}
    assert times == {id: 1 for id in IDS[8] + IDS[300] + IDS[77]} | {moved: 2, breaks: len(ranges), busy: 3}
    found = concepts(tmp_path / "out" / "waterfalls25")
    assert [(len(c.images), len(c.references)) for c in found] == [(15, 2), (15, 4), (16, 16)]
    before, there = len(Web.asked), tree(tmp_path / "out")
    run(google_landmarks, [*web, "--write-list", tmp_path / "list.csv"])
    assert len(Web.asked) == before and tree(tmp_path / "out") == there  # nothing is asked for again
    run(google_landmarks, ["--out", tmp_path / "b", *web[2:], "--list", tmp_path / "list.csv"])
    assert tree(tmp_path / "b/waterfalls25") == tree(tmp_path / "out/waterfalls25")


@pytest.mark.parametrize(("way", "told"), [("down", "says 500"), ("later", "says 429 .*Retry-After: 3600")])
def test_a_run_that_was_stopped_goes_on(web, tmp_path, capsys, way, told):
    Web.ways = {IDS[300][4]: way}
    line = said(capsys, google_landmarks, *web)
    assert re.search(told, line) and f"--without {IDS[300][4]} takes the next picture" in line
    done = IDS[8] + IDS[300][:4]
    assert asked_for() == [*done, IDS[300][4]]
    fetched = tmp_path / "out/waterfalls25.fetched-24px"
    (fetched / f"{IDS[300][4]}.source.part").write_bytes(PHOTOS[IDS[300][4]][:300])  # as if killed in the middle of it
    Web.ways, Web.asked = {}, []
    run(google_landmarks, web)
    assert asked_for() == IDS[300][4:] + IDS[77] and [r for _, r, *_ in Web.asked if r] == ["bytes=300-"]
    rows = rows_of(tmp_path / "out/waterfalls25/sources.csv")
    assert all(r["source_sha256"] == hashlib.sha256(PHOTOS[r["id"]]).hexdigest() for r in rows) and len(rows) == 54


def test_a_waterfall_that_is_short_is_told_and_the_next_takes_its_place(web, tmp_path, capsys):
    Web.ways = {id: "gone" for id in IDS[77][3:5]}
    line = said(capsys, google_landmarks, *web)
    assert "15 pictures a concept are needed, and there are fewer of waterfall-03 14" in line and "--without 77" in line
    reasons = [f.read_text() for f in sorted((tmp_path / "out/waterfalls25.fetched-24px").glob("*.gone"))]
    assert len(reasons) == 2 and all("the server says 404" in reason for reason in reasons)
    Web.asked = []
    run(google_landmarks, [*web, "--without", "77", IDS[8][0]])
    assert asked_for() == IDS[41]
    rows = rows_of(tmp_path / "out/waterfalls25/sources.csv")
    assert [r["id"] for r in rows] == IDS[300] + IDS[8][1:] + IDS[41]
    shutil.rmtree(tmp_path / "out/waterfalls25")
    assert "--without 5: no waterfall" in said(capsys, google_landmarks, *web, "--without", "77", "5")
    assert "only 2 waterfalls have 15" in said(capsys, google_landmarks, *web, "--without", "77", "300")


def test_pictures_are_asked_for_at_leisure(web, monkeypatch):
    monkeypatch.setattr(real_sets, "COUNT", 1)
    run(google_landmarks, [*web[:-1], "0.03"])
    times = [when for path, _, _, when in Web.asked if "/p/" in path]
    assert len(times) == 19 and min(b - a for a, b in zip(times, times[1:], strict=False)) >= 0.03


def test_a_list_wants_its_own_pictures(web, tmp_path, capsys):
    run(google_landmarks, [*web, "--write-list", tmp_path / "list.csv"])
    web[1] = tmp_path / "other"
    argv = [*web, "--list", tmp_path / "list.csv"]
    id = IDS[300][2]
    whole = PHOTOS[id]
    try:
        PHOTOS[id] = photo(1)
        assert f"picture {id} is not the list's: its sha256 is" in said(capsys, google_landmarks, *argv)
    finally:
        PHOTOS[id] = whole
    for file in (tmp_path / "other/waterfalls25.fetched-24px").glob(f"{id}.*"):
        file.unlink()
    Web.ways = {id: "gone"}
    assert f"picture {id} of the list is gone" in said(capsys, google_landmarks, *argv)
    assert "--without is for a choice" in said(capsys, google_landmarks, *argv, "--without", "77")


def test_a_full_disk_ends_a_download_which_then_goes_on(web, tmp_path, capsys):
    """The first table, and then the first picture, is too large: it is tried once, and nothing is called gone."""
    for more in ([], ["--metadata", tmp_path / "metadata"]):
        Web.asked = []
        with full_disk(900):
            assert google_landmarks.main([str(a) for a in [*web, *more]]) == 2
        assert "google_landmarks.py: [Errno 27] File too large\n" in capsys.readouterr().err
        assert len(Web.asked) == 1 and not [*tmp_path.rglob("*.gone")]
    run(google_landmarks, web)
    assert [r for _, r, *_ in Web.asked if r] == ["bytes=900-"] * 2  # the table's and the picture's
    assert tree(tmp_path / "out/google-landmarks-metadata") == tree(tmp_path / "metadata")


def test_a_part_that_is_not_of_the_file_is_not_called_whole(web, tmp_path):
    file, part, id = tmp_path / "x.jpg", tmp_path / "x.jpg.part", IDS[8][0]
    address = google_landmarks.METADATA.replace("metadata/", f"p/{id}.jpg")
    for left, ranges in ((PHOTOS[id], 1), (PHOTOS[id] + b"more", 2)):
        part.write_bytes(left)
        Web.asked = []
        downloads.download(address, file, bar=False)
        assert file.read_bytes() == PHOTOS[id] and len(Web.asked) == ranges
        file.unlink()


@pytest.fixture
def train(web, tmp_path):
    """The extracted train tree."""
    for id, data in PHOTOS.items():
        file = tmp_path / "train" / id[0] / id[1] / id[2] / f"{id}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return [*web, "--from", tmp_path / "train", "--metadata", tmp_path / "metadata"]


def test_waterfalls_are_read_from_a_copy(train, tmp_path, capsys):
    run(google_landmarks, [*train, "--write-list", tmp_path / "list.csv"])
    assert Web.asked == []
    rows = rows_of(tmp_path / "out/waterfalls25/sources.csv")
    assert [r["id"] for r in rows] == IDS[8] + IDS[300] + IDS[77] and {*tree(tmp_path / "out")} == {
        "waterfalls25/sources.csv", *(r["file"] for r in rows)
    }  # fmt: skip
    (tmp_path / "metadata/train.csv").unlink()  # a list of a copy needs no addresses
    train[1] = tmp_path / "listed"
    run(google_landmarks, [*train, "--list", tmp_path / "list.csv"])
    assert tree(tmp_path / "listed") == tree(tmp_path / "out") and Web.asked == []


def test_copies_and_tables_that_do_not_fit_are_refused(train, tmp_path, capsys):
    first = IDS[8][0]
    file = tmp_path / "train" / first[0] / first[1] / first[2] / f"{first}.jpg"
    file.write_bytes(PHOTOS[first][:-300])
    assert f"picture {first} in " in said(capsys, google_landmarks, *train)
    file.unlink()
    line = said(capsys, google_landmarks, *train)
    assert f"{first}.jpg is missing, the copy is not whole; --without {first} takes the next" in line
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        assert "has no folders a/b/c" in said(capsys, google_landmarks, *train, "--from", tmp_path / folder)
    table = tmp_path / "metadata/train.csv"
    whole = table.read_text()
    for text, told in (
        (whole.replace("landmark_id", "label"), "has no column landmark_id, expected id,landmark_id"),
        (whole.replace(",300\n", ",three\n"), "landmark_id 'three'"),
        (whole.replace(first, f"../../{first}", 1), "has an id '../../"),
        (whole[: whole.rindex(",")], "is cut off at line"),
        ("", "has no column id"),
    ):
        table.write_text(text)
        assert told in said(capsys, google_landmarks, *train)


@pytest.mark.parametrize(
    ("category", "falls"),
    [
        ("Niagara_Falls", True), ("Gullfoss", True), ("V%C3%B8ringsfossen", True), ("Foss", True), ("Fossils", False),
        ("Cascade_de_Sillans", True), ("Krimmler_Wasserf%C3%A4lle", True), ("CASCATA_delle_Marmore", True),
        ("Fallsburg", False), ("Waterfalls_of_Oregon", True), ("Cascaded_pools", False), ("Autumn_fall", False),
        ("Cachoeira_da_Fuma%C3%A7a", True), ("Parachutes", False),
    ],
)  # fmt: skip
def test_words_for_waterfalls(category, falls):
    assert google_landmarks.is_waterfall(CATEGORY + category) is falls


@pytest.mark.parametrize(
    "text",
    ["file:///etc/hostname", "ftp://x.org/a.jpg", "None", "", "http://[x/a.jpg", "javascript:1", "/etc/hostname"],
)
def test_only_the_web_is_asked(text, tmp_path):
    assert google_landmarks.web_address(text) is None
    web = google_landmarks.Web(tmp_path, {"abc": text}, 24, 0.0, "x")
    assert web("abc", tmp_path / "to.jpg") is None and "is no address" in (tmp_path / "abc.gone").read_text()


def test_addresses_are_written_as_requests_can_have_them():
    assert google_landmarks.web_address("https://x.org/a b/é%20.jpg?c=d") == "https://x.org/a%20b/%C3%A9%20.jpg?c=d"


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Four people and three waterfalls, three pictures each, as the scripts lay them out."""
    data = tmp_path_factory.mktemp("real") / "data"
    for half, kind, count in (("celebs25", "celeb", 4), ("waterfalls25", "waterfall", 3)):
        for k in range(1, count + 1):
            for root in (half, f"{half}-references"):
                folder = data / root / f"{kind}-{k:02d}"
                folder.mkdir(parents=True)
                for n in range(2):
                    (folder / f"{n:02d}.jpg").write_bytes(photo(len(root) + 100 * k + n))
        (data / half / "sources.csv").write_text("id\n")
    return data


def test_the_real_set_is_ordered_like_the_embedded_ones(halves):
    def names(*more):
        return [c.name for c in concepts("celeba-landmarks50", *more, data=halves)]

    people, falls = [f"celeb-{k:02d}" for k in range(1, 5)], [f"waterfall-{k:02d}" for k in range(1, 4)]
    assert names() == [name for pair in zip_longest(people, falls) for name in pair if name]
    assert names("people first") == people + falls and names("waterfalls first") == falls + people
    assert names("waterfalls first", 4) == falls + people[:1]
    mixed = names("alternate", None, 3)
    kinds = ["celeb", "waterfall"] * 3 + ["celeb"]
    assert mixed != names() and sorted(mixed) == people + falls and [n.split("-")[0] for n in mixed] == kinds
    assert names("people first", None, 3) == sorted(mixed, key=lambda n: n[0] != "c")
    assert concepts(halves) == concepts("celeba-landmarks50", data=halves), "or named by its folder, as in notebooks"
    for concept in concepts("celeba-landmarks50", data=halves):
        assert len(concept.images) == len(concept.references) == 2
        assert {f.parents[1].name for f in concept.references} <= {"celebs25-references", "waterfalls25-references"}


def test_whole_halves_are_mixed_as_mini50_is(tmp_path):
    for half, kind in (("celebs25", "celeb"), ("waterfalls25", "waterfall")):
        for k in range(1, 26):
            (tmp_path / half / f"{kind}-{k:02d}").mkdir(parents=True)
            (tmp_path / half / f"{kind}-{k:02d}" / "00.jpg").write_bytes(photo(k))
    for order in ("alternate", "people first", "waterfalls first"):
        for shuffle in (0, 2):
            mini = [c.name.replace("falls", "waterfall") for c in concepts("mini50", order, None, shuffle)]
            real = [c.name for c in concepts("celeba-landmarks50", order, None, shuffle, tmp_path)]
            assert real == [name.replace("person", "celeb") for name in mini]


def test_bench_learns_the_real_set_from_its_folder(halves, tiny_folder, tmp_path, capsys):
    bench = ["bench", "celeba-landmarks50", "--method", "lora", "--base", tiny_folder, "--out", tmp_path / "run"]
    bench += ["--steps", "1", "--batch", "2", "--rank", "2", "--device", "cpu", "--concepts", "2", "--pictures", "2"]
    assert cli.main([str(a) for a in [*bench, "--data", halves, "--order", "waterfalls-first"]]) == 0
    assert json.loads((tmp_path / "run/results.json").read_text())["tasks"] == ["waterfall-01", "waterfall-02"]
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert about["set"] == "celeba-landmarks50" and about["order"] == "waterfalls-first"
    capsys.readouterr()
    bench[bench.index("--out") + 1] = tmp_path / "none"
    for more, told in (
        ([], "celeba-landmarks50 is read from a folder: give --data DIR"),
        (["--data", tmp_path], "celebs25 is missing: python data_scripts/celeba_hq.py builds it"),
        (["--data", halves, "--concepts", "8"], "8 concepts asked for, celeba-landmarks50 has 7"),
    ):
        assert cli.main([str(a) for a in [*bench, *more]]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="mini10 is no set that is read from a folder: leave --data out"):
        concepts("mini10", data=halves)
