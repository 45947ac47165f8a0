"""A user's own pictures, from the bytes that a browser uploads to a concept."""

import datetime
import io
import shutil
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from real_pictures import photo

from stamina_lite import UserError, concepts
from stamina_lite.diffusion.own_pictures import MANY, prepare_pictures, store_uploads


def encoded(picture: Image.Image, kind: str = "png") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def uploaded(**files: bytes) -> tuple:
    """The value of a real upload widget that holds these files."""
    widget = ipywidgets.FileUpload(multiple=True)
    now = datetime.datetime.now(datetime.UTC)
    entries = [
        {"name": name, "type": "", "size": len(data), "content": memoryview(data), "last_modified": now}
        for name, data in files.items()
    ]
    widget.value = tuple(entries)
    return widget.value


def test_uploads_become_a_concept(tmp_path):
    uploads = uploaded(**{"IMG 1.jpg": photo(1), "../b.png": photo(2), "c.webp": encoded(Image.new("RGB", (40, 40)))})
    files = store_uploads(uploads, tmp_path / "uploads")
    assert [file.name for file in files] == ["000-IMG-1.jpg", "001-b.png", "002-c.webp"]
    assert files[0].read_bytes() == photo(1)
    assert prepare_pictures(files, tmp_path / "my-cup", 32) == ["3 pictures are used"]
    (concept,) = concepts(tmp_path / "my-cup")
    assert concept.token == "<my-cup>" and concept.load(32).shape == (3, 3, 32, 32)
    assert concept.load(32)[0].std() > 0.1  # the photo, and not an empty square


def test_nothing_uploaded_is_no_file(tmp_path):
    assert store_uploads(ipywidgets.FileUpload().value, tmp_path / "uploads") == []


def test_what_is_no_picture_is_named_and_left_out(tmp_path):
    damaged = photo(1)[:200]
    files = store_uploads(
        uploaded(**{"a.jpg": photo(1), "letter.pdf": b"%PDF-1.7", "cut.jpg": damaged}), tmp_path / "uploads"
    )
    notes = prepare_pictures(files, tmp_path / "cup", 16)
    assert any(note.startswith("001-letter.pdf: not used") for note in notes)
    assert any(note.startswith("002-cut.jpg: not used") for note in notes)
    assert notes[-1].startswith("1 picture is used: the model cannot tell")
    assert str(tmp_path) not in "".join(notes)
    with pytest.raises(UserError, match="none of these files"):
        prepare_pictures(files[1:], tmp_path / "cup", 16)
    assert len(list((tmp_path / "cup").iterdir())) == 1  # the earlier squares are kept


def test_a_tiny_picture_is_used_and_a_note_says_that_it_is_blurred(tmp_path):
    files = store_uploads(uploaded(**{"icon.png": encoded(Image.new("RGB", (12, 9), "red"))}), tmp_path / "uploads")
    notes = prepare_pictures(files, tmp_path / "icon", 16)
    assert notes[0] == "000-icon.png: used, but blurred: its 12 x 9 px are enlarged to 16 x 16" and len(notes) == 2


def test_the_only_file_is_refused_with_its_reason(tmp_path):
    (tmp_path / "huge.png").write_bytes(encoded(Image.new("L", (20_000, 10_000))))
    with pytest.raises(UserError, match=r"^huge.png: not used, it has more than 179 million pixels: make it smaller"):
        prepare_pictures([tmp_path / "huge.png"], tmp_path / "squares", 16)
    (tmp_path / "letter.jpg").write_text("Dear Ann")
    with pytest.raises(UserError, match=r"^letter.jpg: not used, it is not a picture that can be read: choose another"):
        prepare_pictures([tmp_path / "letter.jpg"], tmp_path / "squares", 16)


def test_a_notebook_shows_one_line_in_place_of_a_traceback(tmp_path, capsys):
    shell = InteractiveShell()
    shell.run_cell("from stamina_lite.diffusion.own_pictures import prepare_pictures\nprepare_pictures([], 'a', 16)")
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == ["none of these files is a picture that can be read: choose .png, .jpg or .webp files"]


def test_a_hundred_megapixels_are_used_and_two_hundred_are_not(tmp_path, recwarn):
    for name, shape in (("large.png", (10_000, 10_000)), ("huge.png", (20_000, 10_000))):
        (tmp_path / name).write_bytes(encoded(Image.new("L", shape, 90)))
    notes = prepare_pictures(tmp_path.glob("*.png"), tmp_path / "squares", 16)
    assert any(note.startswith("large.png: used; of its 100 megapixels 16 x 16 px") for note in notes)
    assert any(note.startswith("huge.png: not used") and "million pixels" in note for note in notes)
    assert np.asarray(Image.open(tmp_path / "squares" / "000.png")).tolist() == np.full((16, 16, 3), 90).tolist()
    assert not recwarn.list


def test_of_five_hundred_pictures_some_are_used_from_all_over(tmp_path):
    shades = [k // 2 for k in range(500)]
    for k, shade in enumerate(shades):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / f"{k:03d}.png")
    notes = prepare_pictures(tmp_path.iterdir(), tmp_path / "squares", 8)
    assert notes == [f"{MANY} of 500 pictures are used, evenly chosen: more than {MANY} teach a concept little"]
    used = [Image.open(file).getpixel((0, 0))[0] for file in sorted((tmp_path / "squares").iterdir())]
    assert len(used) == MANY and used[0] == 0 and used[-1] > 240 and used == sorted(used)


def test_squares_of_an_earlier_call_are_removed(tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo(1))
    shutil.copy(tmp_path / "a.jpg", tmp_path / "b.jpg")
    prepare_pictures(tmp_path.glob("*.jpg"), tmp_path / "cup", 16)
    prepare_pictures([tmp_path / "a.jpg"], tmp_path / "cup", 16)
    assert [file.name for file in (tmp_path / "cup").iterdir()] == ["000.png"]
    assert isinstance(concepts(tmp_path / "cup")[0].images[0], Path)
