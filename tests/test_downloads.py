"""Downloads over a line that breaks, and archives that are damaged or hostile; ImageNet-R laid out from copies."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import downloads
import imagenet_r
import pytest
import yaml
from downloads import DownloadError, download, unpack
from PIL import Image

BYTES = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """/whole and /moved serve BYTES; /breaks stops after 3,000 bytes of every answer; /deaf ignores ranges."""

    asked: list = []

    def do_GET(self):
        Handler.asked.append((self.path, self.headers.get("Range")))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            return self.end_headers()
        if self.path == "/gone":
            return self.send_error(404)
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if self.path == "/deaf":
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BYTES) - start))
        self.end_headers()
        self.wfile.write(BYTES[start : start + 3000] if self.path == "/breaks" else BYTES[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    Handler.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("path", ["/whole", "/moved", "/breaks"])
def test_a_file_arrives_whole_whatever_the_line_does(url, path, tmp_path):
    file = tmp_path / "deep" / "x.bin"
    download(url + path, file, md5=md5(BYTES))
    assert file.read_bytes() == BYTES and [*file.parent.iterdir()] == [file]
    asked = len(Handler.asked)
    assert asked == {"/whole": 1, "/moved": 2, "/breaks": 4}[path]
    if path == "/breaks":
        assert [r for _, r in Handler.asked] == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    download(url + path, file, md5=md5(BYTES))
    assert len(Handler.asked) == asked  # what is there is not fetched again


@pytest.mark.parametrize("path", ["/whole", "/deaf"])
def test_a_part_from_an_earlier_try_is_gone_on_with(url, path, tmp_path):
    (tmp_path / "x.bin.part").write_bytes(BYTES[:5000])
    download(url + path, tmp_path / "x.bin", md5=md5(BYTES))
    assert (tmp_path / "x.bin").read_bytes() == BYTES and Handler.asked == [(path, "bytes=5000-")]


def test_a_server_that_says_no_and_wrong_bytes_leave_nothing(url, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        download(url + "/gone", tmp_path / "x.bin", md5=md5(BYTES))
    with pytest.raises(DownloadError, match="checksum is another"):
        download(url + "/whole", tmp_path / "x.bin", md5=md5(b"other"))
    assert [*tmp_path.iterdir()] == []


def test_a_server_that_is_not_there_is_tried_a_few_times(url, tmp_path, monkeypatch):
    tries = []
    monkeypatch.setattr(downloads.time, "sleep", tries.append)
    with pytest.raises(DownloadError, match="cannot be reached .* the same command goes on"):
        download("http://127.0.0.1:9/x", tmp_path / "x.bin", md5=md5(BYTES))
    assert len(tries) == downloads.TRIES


def archive(file, members: dict, **kinds):
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.size = kinds.get("kind", tarfile.REGTYPE), len(data)
            info.linkname = "/etc/passwd"
            tar.addfile(info, io.BytesIO(data))
    return file


def test_an_archive_is_unpacked_whole(tmp_path):
    unpack(archive(tmp_path / "a.tar", {"d/n1/a": b"one", "d/n2/b": b"two"}), tmp_path / "out")
    assert (tmp_path / "out/d/n1/a").read_bytes() == b"one" and (tmp_path / "out/d/n2/b").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"ok": b"x", "../escaped": b"x"}, tarfile.REGTYPE),
        ({"ok": b"x", "/tmp/escaped": b"x"}, tarfile.REGTYPE),
        ({"link": b""}, tarfile.SYMTYPE),
        ({"link": b""}, tarfile.LNKTYPE),
        ({"device": b""}, tarfile.CHRTYPE),
    ],
)
def test_a_hostile_archive_is_refused_before_anything_is_written(tmp_path, members, kind):
    with pytest.raises(DownloadError, match="a link or a path outside"):
        unpack(archive(tmp_path / "a.tar", members, kind=kind), tmp_path / "in" / "out")
    assert not (tmp_path / "in").exists() and not (tmp_path / "escaped").exists()


def test_a_truncated_archive_leaves_nothing(tmp_path):
    file = archive(tmp_path / "a.tar", {"d/a": b"x" * 5000, "d/b": b"y" * 5000})
    file.write_bytes(file.read_bytes()[:7000])
    with pytest.raises(DownloadError, match="cannot unpack"):
        unpack(file, tmp_path / "out")
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("how", ["cut between two files", "a header damaged"])
def test_an_archive_that_ends_too_early_leaves_nothing(tmp_path, how):
    """Python itself takes both for the end of the archive."""
    file = archive(tmp_path / "a.tar", {"d/a": b"x" * 400, "d/b": b"y" * 400})
    data = bytearray(file.read_bytes())
    if how.startswith("cut"):
        data = data[:1024]
    else:
        data[1024:1034] = b"\xff" * 10
    file.write_bytes(data)
    with pytest.raises(DownloadError, match="breaks off, or is damaged inside"):
        unpack(file, tmp_path / "out")
    assert [*tmp_path.iterdir()] == [file]


@pytest.fixture
def public(tmp_path, monkeypatch):
    """200 classes, a picture to train on and one to test with each; their archive, and what is expected of them."""
    out, copy = tmp_path / "data" / "imagenet-r", tmp_path / "copy" / "imagenet-r"
    out.mkdir(parents=True)
    names = [f"n{k:05d}" for k in range(200)]
    for split, k in (("train", 0), ("test", 1)):
        paths = [f"data/imagenet-r/{name}/art_{k}.jpg" for name in names]
        text = yaml.safe_dump({"data": paths, "targets": list(range(200))})
        (out / f"imagenet-r_{split}.yaml").write_text(text)
        monkeypatch.setitem(imagenet_r.SHA1, f"imagenet-r_{split}.yaml", hashlib.sha1(text.encode()).hexdigest())
        monkeypatch.setitem(imagenet_r.IMAGENET_R, split, 200)
        for name in names:
            (copy / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(copy / name / f"art_{k}.jpg")
    monkeypatch.setattr(imagenet_r, "TEST_PICTURES", {0: [20] * 10, 1: [20] * 10})
    with tarfile.open(tmp_path / "imagenet-r.tar", "w") as tar:
        tar.add(copy, "imagenet-r")
    monkeypatch.setattr(imagenet_r, "MD5", md5((tmp_path / "imagenet-r.tar").read_bytes()))
    return out


@pytest.mark.parametrize("source", ["copy/imagenet-r", "imagenet-r.tar"])
def test_imagenet_r_is_laid_out_from_a_copy(public, tmp_path, source, capsys):
    for _ in range(2):  # the second time all is there
        assert imagenet_r.main(["--out", str(public), "--from", str(tmp_path / source)]) == 0
    assert "200 pictures to train on, 200 to test with" in capsys.readouterr().out
    assert len([*public.glob("n*/art_*.jpg")]) == 400 and not (public.parent / "imagenet-r.unpacked").exists()


def test_what_a_broken_off_run_has_left_is_made_whole(public, tmp_path, capsys):
    """Half a class in place, a folder half unpacked, and later one picture of all missing."""
    for place in (public / "n00003", public.parent / "imagenet-r.unpacked" / "imagenet-r" / "n00004"):
        place.mkdir(parents=True)
        (place / "art_0.jpg").write_bytes(b"half")
    argv = ["--out", str(public), "--from", str(tmp_path / "imagenet-r.tar")]
    assert imagenet_r.main(argv) == 0
    assert len({file.read_bytes() for file in public.glob("n*/art_*.jpg")}) == 1
    (public / "n00007" / "art_1.jpg").unlink()
    assert imagenet_r.main(argv) == 0 and (public / "n00007" / "art_1.jpg").is_file()


def test_an_archive_or_a_copy_that_is_not_the_published_one_is_refused(public, tmp_path, capsys):
    tar = tmp_path / "imagenet-r.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "other.tar").write_bytes(data)
    (tmp_path / "copy" / "imagenet-r" / "n00009" / "art_0.jpg").unlink()
    (tmp_path / "copy" / "imagenet-r" / "n00009" / "art_0.jpg").symlink_to("/etc/hostname")
    for source, said in (("other.tar", "its MD5 is another"), ("copy/imagenet-r", "n00009 is or holds a link")):
        assert imagenet_r.main(["--out", str(public), "--from", str(tmp_path / source)]) == 2
        message = capsys.readouterr().err
        assert said in message and message.count("\n") == 1


def test_what_is_not_the_public_set_is_refused(public, tmp_path, capsys, monkeypatch):
    def said(*more):
        assert imagenet_r.main(["--out", str(public), *more]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "copy holds no class folders" in said("--from", str(tmp_path / "copy"))
    assert "is not there: leave --from out" in said("--from", str(tmp_path / "none.tar"))
    copy = tmp_path / "copy" / "imagenet-r"
    good, torn = ((copy / "n00003" / "art_1.jpg").read_bytes()[:end] for end in (None, -20))
    (copy / "n00003" / "art_1.jpg").write_bytes(torn)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert "imagenet-r/n00003/art_1.jpg: replace them" in said("--from", str(copy))
    (public / "n00003" / "art_1.jpg").write_bytes(good)
    assert imagenet_r.main(["--out", str(public), "--from", str(copy)]) == 0
    monkeypatch.setattr(imagenet_r, "TEST_PICTURES", {0: [20] * 9 + [21]})
    assert "seed 0: test pictures of the tasks are" in said()
    monkeypatch.setitem(imagenet_r.IMAGENET_R, "train", 201)
    assert "expected {'train': 201, 'test': 200} of 200" in said()
    (public / "imagenet-r_test.yaml").write_text("data: []\n")
    assert "is another split than the public one" in said()
