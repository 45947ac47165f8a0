"""Classes, tasks and pictures of the classification half: the shipped renditions, and a tree like ImageNet-R."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from stamina_lite.classification import datasets, image_files
from stamina_lite.classification.datasets import (
    class_order,
    class_tasks,
    of_classes,
    renditions,
    resized_crop,
)
from stamina_lite.classification.public_sets import imagenet_r
from stamina_lite.errors import UserError

CLASSES = ["n03", "n01", "n02"]  # label 0, 1, 2: not in the order of their names


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Three classes of two pictures to train on and one to test with; a class's pictures have its own grey."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        names = [f"data/imagenet-r/{c}/art_{k}.jpg" for c in CLASSES for k in numbers]
        labels = [label for label in range(3) for _ in numbers]
        (tmp_path / f"imagenet-r_{split}.yaml").write_text(yaml.safe_dump({"data": names, "targets": labels}))
        for label, name in enumerate(CLASSES):
            (tmp_path / name).mkdir(exist_ok=True)
            for k in numbers:
                Image.new("RGB", (40, 30), (80 * label, 10 * k, 0)).save(tmp_path / name / f"art_{k}.jpg", quality=100)
    return tmp_path


def test_class_orders_are_those_of_the_public_code():
    assert class_order(200, 0) == list(range(200))
    assert class_order(200, 1)[:5] == [33, 146, 79, 19, 23] and class_order(200, 2)[:5] == [51, 94, 55, 35, 170]
    state = torch.random.get_rng_state()
    tasks = class_tasks(200, 20, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [len(t) for t in tasks] == [10] * 20 and sorted(sum(tasks, [])) == list(range(200))
    assert sum(tasks, []) == class_order(200, 1)
    with pytest.raises(UserError, match="200 classes make no 201 tasks: choose 1 to 200"):
        class_tasks(200, 201, 0)


def test_a_public_split_names_its_classes_by_label_not_by_name(tree):
    found = imagenet_r(tree, size=16)
    assert found.classes == CLASSES and found.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    x = found.test.load(torch.tensor([2, 0]))
    assert x.shape == (2, 3, 16, 16)
    assert x[:, 0].mean((1, 2)).tolist() == pytest.approx([160 / 255, 0], abs=0.01)
    assert of_classes(found.train, [2, 0]).tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda t: (t / "n01" / "art_1.jpg").unlink(),
            "1 of 6 pictures of imagenet-r_train.yaml are not in .*n01/art_1",
        ),
        (lambda t: shutil.rmtree(t / "n02"), "2 of 6 pictures .* are not in"),
        (lambda t: (t / "imagenet-r_test.yaml").unlink(), "imagenet-r_test.yaml is missing: python data_scripts"),
        (lambda t: (t / "imagenet-r_test.yaml").write_text("data: [a"), "imagenet-r_test.yaml is damaged"),
        (
            lambda t: (t / "imagenet-r_test.yaml").write_text("data: [data/x/n01/art_2.jpg]\ntargets: [1, 2]"),
            "has 1 pict",
        ),
        (lambda t: shutil.copy(t / "imagenet-r_train.yaml", t / "imagenet-r_test.yaml"), "to be trained on and tested"),
        (
            lambda t: (t / "imagenet-r_test.yaml").write_text("data: [data/x/n01/art_2.jpg]\ntargets: [1]"),
            "has no pictures in the test half",
        ),
        (
            lambda t: (t / "imagenet-r_test.yaml").write_text("data: [data/x/n01/art_2.jpg]\ntargets: [1.5]"),
            "imagenet-r_test.yaml is damaged",
        ),
        (
            lambda t: (t / "imagenet-r_test.yaml").write_text("data: [data/x/n01/art_2.jpg]\ntargets: [0]"),
            "class 0 is n03 and n01",
        ),
        (
            lambda t: (t / "imagenet-r_test.yaml").write_text("data: [data/x/n01/art_2.jpg]\ntargets: [7]"),
            "classes 0 to 7 are not all there",
        ),
    ],
)
def test_a_damaged_tree_is_refused_in_one_line(tree, harm, said):
    harm(tree)
    with pytest.raises(UserError, match=said) as error:
        imagenet_r(tree)
    assert "\n" not in str(error.value)


def test_damaged_images_are_found_before_training_and_good_ones_are_decoded_once(tree, monkeypatch):
    decoded, read = [], image_files.read
    monkeypatch.setattr(image_files, "read", lambda file: (decoded.append(file.name), read(file))[1])
    whole = (tree / "n02" / "art_1.jpg").read_bytes()
    (tree / "n02" / "art_1.jpg").write_bytes(whole[: len(whole) // 2])
    (tree / "n03" / "art_2.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="cannot read .*n02/art_1.jpg and 1 more images: replace them"):
        imagenet_r(tree)
    (tree / "n02" / "art_1.jpg").write_bytes(whole)
    (tree / "n03" / "art_2.jpg").write_bytes(whole)
    decoded.clear()
    imagenet_r(tree)
    assert len(decoded) == 9
    imagenet_r(tree, size=32)
    assert len(decoded) == 9  # they are known to be readable
    (tree / "n03" / "art_2.jpg").write_bytes(whole[:-40])
    with pytest.raises(UserError, match="cannot read .*n03/art_2.jpg: replace"):
        imagenet_r(tree)


def test_renditions_are_tested_with_artists_that_were_never_trained_on():
    about, found = datasets.metadata(), renditions()
    assert len(found.classes) == 200 and len(found.train.labels) + len(found.test.labels) > 12_000
    groups = {n: s["group"] for n, s in about["icon_sets"].items()}
    for name in about["classes"]:
        rows = [row for part in about["classes"][name].values() for row in part["rows"]]
        artists = {split: {groups[s] for s, _, where in rows if where == split} for split in ("train", "test")}
        assert len(artists["test"]) == 2 and not artists["train"] & artists["test"], name
    for half in (found.train, found.test):
        counts = half.labels.bincount()
        assert len(counts) == 200 and counts.min() >= 12
        assert half.images.shape[1:] == (3, 64, 64) and half.images.dtype == torch.uint8
    assert 66 <= (found.train.labels.bincount() + found.test.labels.bincount()).min()
    first = found.train.load(torch.arange(4))
    assert first.max() <= 1 and first.std((1, 2, 3)).min() > 0.02  # something is on every picture


def test_hundred_classes_are_the_same_pictures_of_half_the_classes():
    whole, hundred = renditions(), renditions("hundred")
    assert len(hundred.classes) == 100 and hundred.classes == [c for c in whole.classes if c in hundred.classes]
    label = whole.classes.index(hundred.classes[7])
    for half, of_hundred in ((whole.train, hundred.train), (whole.test, hundred.test)):
        assert torch.equal(half.images[half.labels == label], of_hundred.images[of_hundred.labels == 7])
    assert sorted(hundred.classes + renditions("others").classes) == sorted(whole.classes)
    accuracy = json.loads((Path(__file__).parents[1] / "results" / "hundred_classes.json").read_text())["accuracy"]
    assert min(accuracy[c] for c in hundred.classes) >= max(accuracy[c] for c in renditions("others").classes)


def test_share_alike_drawings_and_tuning_classes_are_apart():
    whole, free, tuning = renditions(), renditions(share_alike=False), renditions("tuning")
    assert free.classes == whole.classes and torch.equal(free.test.labels, whole.test.labels)
    assert len(whole.train.labels) - len(free.train.labels) == 200 * 12  # two sets, six pictures each
    assert len(tuning.classes) == 50 and not set(tuning.classes) & set(whole.classes)
    licences = {s["licence"] for s in datasets.metadata()["icon_sets"].values() if not s["share_alike"]}
    assert licences == {"Apache-2.0", "MIT", "CC-BY-4.0"}
    with pytest.raises(UserError, match="no part other"):
        renditions("other")


def test_sheets_are_read_row_by_row(tmp_path):
    sheet = np.zeros((8, 32, 3), np.uint8)
    for k in range(16):
        sheet[k // 8 * 4 :, k % 8 * 4 : k % 8 * 4 + 4] = k
    Image.fromarray(sheet).save(tmp_path / "a.webp", lossless=True)
    tiles = datasets.read_sheet(tmp_path / "a.webp", 11, 4, 8)
    assert tiles.float().mean((1, 2, 3)).tolist() == list(range(11))


def test_a_crop_of_a_whole_batch_keeps_or_flips_what_it_need_not_cut():
    x = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    same = resized_crop(x, torch.Generator().manual_seed(1), smallest=1.0)
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(x, same, strict=True)]
    flipped = [torch.allclose(a.flip(-1), b, atol=1e-5) for a, b in zip(x, same, strict=True)]
    assert all(k != f for k, f in zip(kept, flipped, strict=True)) and 0 < sum(kept) < 16
    cut = resized_crop(x, torch.Generator().manual_seed(1))
    assert cut.shape == x.shape and not torch.allclose(cut, same, atol=0.05)


def test_metadata_describes_every_sheet():
    about = datasets.metadata()
    assert json.dumps(about)  # plain JSON
    files = {*datasets.RENDITIONS.glob("*.webp"), *datasets.RENDITIONS.glob("share-alike/*.webp")}
    assert len(files) == sum(len(parts) for parts in about["classes"].values()) and len(about["classes"]) == 250
