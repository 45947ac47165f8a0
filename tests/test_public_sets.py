"""Public sets from small trees of the layouts in which they are published."""

import numpy as np
import pytest
import torch
from PIL import Image

from stamina_lite.classification.public_sets import CIFAR_ROW, cifar100, cub, domainnet, imagenet_a
from stamina_lite.classification.sets import CLASS_SETS, FROM_DISK, class_set
from stamina_lite.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def picture(file, *colour):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 24), colour).save(file, quality=100)


@pytest.fixture
def binary(tmp_path):
    """cifar-100-binary: four pictures to train on, two to test with, three classes. Red is the label, blue a ramp."""
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\ncloud\n")
    for half, labels in (("train", [2, 0, 1, 0]), ("test", [1, 2])):
        rows = np.zeros((len(labels), CIFAR_ROW), np.uint8)
        rows[:, 0], rows[:, 1] = 9, labels  # a coarse label, which is not read
        rows[:, 2 : 2 + 1024] = np.array(labels, np.uint8)[:, None] * 100
        rows[:, 2 + 2048 :] = np.arange(1024) // 32 * 8  # a ramp from row to row
        (tmp_path / f"{half}.bin").write_bytes(rows.tobytes())
    return tmp_path


def test_cifar_is_read_from_its_binary_version(binary):
    found = cifar100(binary, size=64)
    assert found.classes == ["apple", "bear", "cloud"] and found.train.labels.tolist() == [2, 0, 1, 0]
    x = found.train.load(torch.arange(4))
    assert x.shape == (4, 3, 64, 64)
    assert x[:, 0].mean((1, 2)).tolist() == pytest.approx([200 / 255, 0, 100 / 255, 0], abs=1e-6)
    assert not x[:, 1].any() and x[0, 2, 60].mean() > 0.9 > 0.1 > x[0, 2, 3].mean()
    assert x[0, 2].std(1).max() < 1e-6  # rows, not columns
    assert cifar100(binary, size=32).test.load(torch.arange(2)).shape == (2, 3, 32, 32)


def test_cifar_as_pickles_or_damaged_is_refused(binary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("python")
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"\x80\x02}q\x01.")
    with pytest.raises(
        UserError, match=r"no train.bin \(it has pickles, which are not read\): unpack cifar-100-binary"
    ):
        cifar100(folder)
    whole = (binary / "test.bin").read_bytes()
    for content in (whole[:-1], b"", whole[:1] + b"\x07" + whole[2:]):
        (binary / "test.bin").write_bytes(content)
        with pytest.raises(UserError, match="test.bin is missing or damaged"):
            cifar100(binary)


def test_cifar_is_read_from_a_folder_of_images(tmp_path):
    for half in ("train", "test"):
        for label, name in enumerate(("apple", "bear")):
            picture(tmp_path / half / name / f"{half}.png", 100 * label, len(half), 0)
    found = cifar100(tmp_path, 16)
    assert found.classes == ["apple", "bear"] and found.name == "cifar100"


@pytest.fixture
def birds(tmp_path):
    """CUB_200_2011: two classes of three pictures."""
    lists = {"images": [], "image_class_labels": [], "train_test_split": []}
    for k in range(6):
        label, path = k // 3 + 1, f"{k // 3 + 1:03d}.Bird_{k // 3}/Bird_{k}.jpg"
        picture(tmp_path / "images" / path, 120 * (label - 1), 30 * k, 0)
        for name, value in zip(lists, (path, label, int(k % 3 > 0)), strict=True):
            lists[name].append(f"{k + 1} {value}")
    lists["classes"] = ["1 001.Bird_0", "2 002.Bird_1"]
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_cub_is_divided_as_its_lists_say(birds):
    found = cub(birds, 16)
    assert found.classes == ["001.Bird_0", "002.Bird_1"] and found.name == "cub200"
    assert [file.name for file in found.test.files] == ["Bird_0.jpg", "Bird_3.jpg"]
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    assert found.test.load(torch.arange(2))[:, 0].mean((1, 2)).tolist() == pytest.approx([0, 120 / 255], abs=0.01)


def test_cub_with_lists_that_do_not_match_is_refused(birds):
    (birds / "images" / "001.Bird_0" / "Bird_1.jpg").unlink()
    with pytest.raises(UserError, match="1 of 6 pictures are not in .*, images/001.Bird_0/Bird_1.jpg among them"):
        cub(birds)
    (birds / "train_test_split.txt").write_text("1 1\n2 0\n")
    with pytest.raises(UserError, match="the lists of images, classes and split do not match"):
        cub(birds)
    (birds / "classes.txt").write_text("1\n")
    with pytest.raises(UserError, match="classes.txt is damaged"):
        cub(birds)
    (birds / "images.txt").unlink()
    with pytest.raises(UserError, match="images.txt is missing"):
        cub(birds)


def test_imagenet_a_is_divided_by_us_unless_it_is_already(tmp_path):
    for label, name in enumerate(("n01498041", "n01531178")):
        for k in range(10):
            picture(tmp_path / "imagenet-a" / name / f"{k}.jpg", 90 * label, 20 * k, 0)
    (tmp_path / "imagenet-a" / "README.txt").write_text("n01498041 stingray\n")
    found = imagenet_a(tmp_path / "imagenet-a", 16)
    assert found.classes == ["n01498041", "n01531178"] and found.name == "imagenet-a"
    assert found.train.labels.bincount().tolist() == [8, 8] and found.test.labels.bincount().tolist() == [2, 2]
    for half, file in (("train", "1.jpg"), ("test", "2.jpg")):
        for label, name in enumerate(found.classes):
            picture(tmp_path / "divided" / half / name / file, 90 * label, len(half), 0)
    assert [file.name for file in imagenet_a(tmp_path / "divided", 16).test.files] == ["2.jpg", "2.jpg"]
    with pytest.raises(UserError, match="has no class folders n..."):
        imagenet_a(tmp_path)


def test_domainnet_is_read_by_its_lists_one_domain_or_all(tmp_path):
    for domain in ("clipart", "sketch"):
        for half, names in (("train", ("a", "b")), ("test", ("c",))):
            lines = []
            for label, kind in ((1, "axe"), (0, "zebra")):
                for name in names:
                    picture(tmp_path / domain / kind / f"{name}.jpg", 100 * label, ord(name), ord(domain[0]))
                    lines.append(f"{domain}/{kind}/{name}.jpg {label}")
            (tmp_path / f"{domain}_{half}.txt").write_text("\n".join(lines))
    one, both = domainnet(tmp_path, 16, "sketch"), domainnet(tmp_path, 16)
    assert one.classes == both.classes == ["zebra", "axe"]  # by label, not by name
    assert one.name == "domainnet-sketch" and len(one.train.labels) == 4 and len(both.train.labels) == 8
    assert {file.parts[-3] for file in one.train.files} == {"sketch"}
    assert class_set("domainnet-sketch", tmp_path, size=16).hash() == one.hash() != both.hash()
    (tmp_path / "sketch_test.txt").write_text("sketch/axe/c.jpg 0\n")
    with pytest.raises(UserError, match="sketch_test.txt: class 0 is zebra and axe"):
        domainnet(tmp_path, 16)
    (tmp_path / "sketch_test.txt").write_text("sketch/axe/c.jpg\n")
    with pytest.raises(UserError, match="sketch_test.txt is damaged"):
        domainnet(tmp_path, 16)
    with pytest.raises(UserError, match="real_train.txt is missing"):
        domainnet(tmp_path, 16, "real")


@pytest.mark.parametrize("name", FROM_DISK)
def test_a_public_set_asks_for_its_folder(name, tmp_path):
    with pytest.raises(UserError, match=f"{name} is read from a folder: give --data DIR"):
        class_set(name)
    with pytest.raises(UserError, match="missing|has no"):
        class_set(name, tmp_path)
    assert name in CLASS_SETS
