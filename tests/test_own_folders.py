"""Folders as people have them: images by content, folders of systems, runs inside, broken links."""

import subprocess
import sys
import warnings

import pytest
from PIL import Image

from stamina_lite import concepts
from stamina_lite.errors import UserError, UserNotice


def save(file, kind="PNG"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), (255, 0, 0)).save(file, kind)
    return file


def names(concept):
    return [file.name for file in concept.images]


def left_out(caught):
    return [str(w.message) for w in caught if w.category is UserNotice]


def test_images_are_found_by_content_whatever_their_names(tmp_path):
    files = {"a.jfif": "JPEG", "b.jpe": "JPEG", "c.jp2": "JPEG2000", "d.ppm": "PPM", "e.tga": "TGA", "f.gif": "GIF"}
    files |= {"g": "PNG", "h.PNG": "PNG", "i.dat": "WEBP"}
    for name, kind in files.items():
        save(tmp_path / "amber" / name, kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (found,) = concepts(tmp_path)
    assert names(found) == sorted(files) and left_out(caught) == []
    pixels = found.load(8)
    assert pixels.shape == (9, 3, 8, 8) and (pixels[:, 0] > 0.9).all() and (pixels[:, 1:] < -0.9).all()


def test_what_is_left_out_is_said_once_in_one_line(tmp_path):
    save(tmp_path / "amber" / "a.png")
    for k in range(5):
        (tmp_path / "amber" / f"note{k}.txt").write_text("amber at the sea", encoding="utf-8")
    (tmp_path / "amber" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    save(tmp_path / "amber" / "monday" / "b.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (found,) = concepts(tmp_path)
    said = left_out(caught)
    assert names(found) == ["a.png"] and len(said) == 3 and all("\n" not in line for line in said)
    assert "note0.txt, note1.txt, note2.txt and 2 more (no images" in said[0]
    assert "gone.jpg (links to files that do not exist)" in said[1] and "monday (sub-folders with images" in said[2]


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", ".ipynb_checkpoints"])
def test_folders_of_systems_are_no_concepts(tmp_path, name):
    save(tmp_path / "amber" / "a.png")
    save(tmp_path / name / "a.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [c.name for c in concepts(tmp_path)] == ["amber"]
    assert len(left_out(caught)) == (0 if name.startswith(".") else 1)


def test_empty_folders_and_runs_are_no_concepts(tmp_path):
    save(tmp_path / "amber" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "tasks").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    save(tmp_path / "run" / "images" / "a.png")
    with pytest.warns(UserNotice) as caught:
        assert [c.name for c in concepts(tmp_path)] == ["amber"]
    assert ["run (runs of" in line or "empty (empty" in line for line in left_out(caught)] == [True, True]


def test_a_folder_without_any_image_is_refused(tmp_path):
    save(tmp_path / "amber" / "a.png")
    (tmp_path / "milo").mkdir()
    (tmp_path / "milo" / "a.txt").write_text("no picture", encoding="utf-8")
    with pytest.warns(UserNotice), pytest.raises(UserError, match="no images in .*milo: expected .png"):
        concepts(tmp_path)
    (tmp_path / "milo" / "b.heic").write_bytes(b"....ftypheic")
    with pytest.raises(UserError, match="b.heic and its like .1. cannot be read: save them as JPEG"):
        concepts(tmp_path)


def test_the_command_line_says_what_is_left_out_in_one_line(tmp_path):
    save(tmp_path / "amber" / "a.png")
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "stamina_lite.cli", "learn", str(tmp_path), "--method", "lora"]
    command += ["--out", str(tmp_path / "run"), "--base", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True)
    first, *_ = done.stderr.splitlines()
    assert done.returncode == 2 and first == f"stamina-lite: not used in {tmp_path}: empty (empty folders)"
