"""Waterfalls of Google Landmarks, built from a local web that misbehaves and from a copy on disk."""

import csv
import hashlib
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import downloads
import google_landmarks
import numpy as np
import pytest
import real_sets
from PIL import Image
from real_pictures import full_disk, middle, photo, rows_of, run, said, tree

from stamina_lite.diffusion.concepts import concepts

pytestmark = pytest.mark.usefixtures("small_sets")
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
