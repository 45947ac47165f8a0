"""A user's folder of classes: its division, its order, its mistakes, and its size."""

import shutil
import time
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

from stamina_lite.classification import image_folder as module
from stamina_lite.classification.datasets import class_tasks, equal_sizes, increments, listed_order
from stamina_lite.classification.image_folder import image_folder
from stamina_lite.errors import UserError, UserNotice

NAMES = ["grün", "red cup", "zebra"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tree(tmp_path):
    """Three classes of ten pictures; no two are the same."""
    for label, name in enumerate(NAMES):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for k in range(10):
            Image.new("RGB", (20, 16), (80 * label, 20 * k, 7)).save(folder / f"{k}.png")
    return tmp_path / "photos"


def halves(tree, **options):
    found = image_folder(tree, 16, **options)
    return [{file.relative_to(tree).as_posix() for file in half.files} for half in (found.train, found.test)]


def move_to_halves(tree):
    for k, half in enumerate(("train", "test")):
        for name in NAMES:
            (tree / half / name).mkdir(parents=True)
            for n in range(8) if k == 0 else (8, 9):
                shutil.copy(tree / name / f"{n}.png", tree / half / name / f"{n}.png")
    for name in NAMES:
        shutil.rmtree(tree / name)


def test_a_share_of_every_class_is_for_testing(tree):
    train, test = halves(tree, test_share=0.2)
    assert not train & test and len(train | test) == 30
    assert [sum(file.startswith(f"{name}/") for file in test) for name in NAMES] == [2, 2, 2]
    assert halves(tree, test_share=0.2) == [train, test] != halves(tree, test_share=0.2, seed=1)
    assert [len(half) for half in halves(tree, test_share=0.01)] == [27, 3]
    assert [len(half) for half in halves(tree, test_share=0.99)] == [3, 27]


def test_the_division_does_not_depend_on_the_order_of_the_disk(tree, monkeypatch):
    before, walk = halves(tree, test_share=0.2), module.os.walk
    monkeypatch.setattr(
        module.os, "walk", lambda *a, **k: ((h, d, sorted(names, reverse=True)) for h, d, names in walk(*a, **k))
    )
    assert halves(tree, test_share=0.2) == before
    (tree / "zebra" / "10.png").write_bytes((tree / "zebra" / "1.png").read_bytes() + b" ")
    assert len(halves(tree, test_share=0.2)[1] ^ before[1]) <= 2  # a new picture moves one other at most


def test_train_and_test_folders_are_read_as_they_are(tree):
    move_to_halves(tree)
    found = image_folder(tree, 16)
    assert found.classes == NAMES and found.name == "photos" and len(found.train.labels) == 24
    assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    x = found.test.load(found.test.labels.new_tensor([0, 2, 5]))
    assert x.shape == (3, 3, 16, 16) and x[:, 0].mean((1, 2)).tolist() == pytest.approx([0, 80 / 255, 160 / 255])
    with pytest.raises(UserError, match="photos has a test folder: leave --test-share out"):
        image_folder(tree, 16, test_share=0.2)


def test_a_name_is_the_same_in_both_forms_of_unicode(tree):
    move_to_halves(tree)
    (tree / "test" / "grün").rename(tree / "test" / unicodedata.normalize("NFD", "grün"))
    assert image_folder(tree, 16).classes == NAMES


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda t: [shutil.rmtree(t / name) for name in NAMES[1:]], "photos has 1 class: a classifier needs two"),
        (lambda t: [shutil.rmtree(t / name) for name in NAMES], "photos has 0 classes: a classifier needs two"),
        (lambda t: [(t / "zebra" / f"{k}.png").unlink() for k in range(9)], "zebra has one picture: a class needs two"),
        (lambda t: [(t / "zebra" / f"{k}.png").unlink() for k in range(10)], "zebra has no pictures to train on"),
        (lambda t: (t / "zebra" / "3.png").write_bytes(b"none"), "cannot read .*zebra/3.png: replace them"),
        (lambda t: shutil.rmtree(t), "photos is no folder: give one with train/CLASS"),
    ],
)
def test_a_folder_that_makes_no_classes_is_refused_in_one_line(tree, harm, says):
    harm(tree)
    with pytest.raises(UserError, match=says) as error:
        image_folder(tree, 16, test_share=0.2)
    assert "\n" not in str(error.value)


def test_halves_that_do_not_match_are_refused(tree):
    with pytest.raises(UserError, match="has no train and test folder: give --test-share"):
        image_folder(tree, 16)
    move_to_halves(tree)
    shutil.rmtree(tree / "test" / "zebra")
    with pytest.raises(UserError, match="zebra has no pictures to test with"):
        image_folder(tree, 16)
    (tree / "test" / "yak").mkdir()
    with pytest.raises(UserError, match="test/yak has no folder in .*train: add one"):
        image_folder(tree, 16)


def test_test_pictures_that_are_trained_on_are_named(tree):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_folder(tree, 16, test_share=0.2)
    _, test = halves(tree, test_share=0.2)
    copied = min(test)
    shutil.copy(tree / copied, tree / "zebra" / "copy.png")
    (tree / "zebra" / "notes.txt").write_text("not a picture")
    with pytest.warns(UserNotice) as told:
        train, test = halves(tree, test_share=0.2)
    assert "zebra/copy.png" in train
    assert [str(w.message).split(":")[0] for w in told] == [
        "not used",
        f"1 of 6 test pictures are training pictures too, {tree / copied} among them",
    ]


def test_ten_thousand_classes_are_found_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "check_readable", lambda files: None)  # decoding is the disk's and Pillow's time
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    for k in range(10_000):
        folder = tmp_path / "many" / f"class {k:05d}"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(content + b"a%d" % k)
        (folder / "b.png").write_bytes(content + b"bb%d" % k)
    started = time.process_time()
    found = image_folder(tmp_path / "many", 16, test_share=0.5)
    tasks = class_tasks(len(found.classes), increments(10_000, 5_000, 100), 1)
    assert found.hash() and time.process_time() - started < 15
    assert len(found.train.labels) == len(found.test.labels) == 10_000 and len(tasks) == 51


def test_tasks_need_not_be_of_one_size():
    assert equal_sizes(10, 4) == [3, 3, 2, 2] and equal_sizes(200, 20) == [10] * 20
    assert increments(200, 100, 10) == [100] + [10] * 10
    assert increments(10, 4, 4) == [4, 4, 2] and increments(10, 10, 3) == [10]
    tasks = class_tasks(10, [5, 3, 2], seed=1)
    assert [len(task) for task in tasks] == [5, 3, 2] and sum(tasks, []) == sum(class_tasks(10, 5, seed=1), [])
    assert class_tasks(4, 2, seed=1, order=[3, 1, 2, 0]) == [[3, 1], [2, 0]]
    with pytest.raises(UserError, match="tasks of 5, 3 classes are not the 10 there are"):
        class_tasks(10, [5, 3], seed=0)
    with pytest.raises(UserError, match="a first task of 11 classes is more than the 10"):
        increments(10, 11, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("zebra\nyak\n", "names yak, which is no class"),
        ("zebra\nzebra\n", "names zebra, which is no class that is left"),
        ("zebra\nred cup\n", r"does not name grün \(1 missing\)"),
        (None, "cannot read .*order.txt"),
    ],
)
def test_an_order_names_every_class_once(tmp_path, text, says):
    file = tmp_path / "order.txt"
    file.write_text(f"zebra\n\n  red cup \n{unicodedata.normalize('NFD', 'grün')}\n", encoding="utf-8")
    assert listed_order(file, NAMES) == [2, 1, 0]
    file.unlink() if text is None else file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        listed_order(file, NAMES)
