"""Any folder of images, one sub-folder for each class, as a dataset."""

import hashlib
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import UserError, UserNotice
from ..images import SUFFIXES
from .datasets import ClassDataset
from .image_files import ImageFiles, check_readable


def image_folder(folder: Path | str, size: int = 224, test_share: float | None = None, seed: int = 0) -> ClassDataset:
    """The images of a folder: FOLDER/train/CLASS/... and FOLDER/test/CLASS/..., or FOLDER/CLASS/... and a share.

    A class is named by its folder; classes are in the order of their names. Images may be in deeper folders.

    Args:
        size: px that images are loaded at.
        test_share: the share of each class's images that is for testing, at least one and not all of them.
        seed: decides which. An image's place follows from the seed, its class and its name alone.

    Raises:
        UserError: there is no folder or no image, fewer than two classes, a class without images for training or
            testing, or an image that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one with train/CLASS and test/CLASS, or a dataset's name")
    if all((folder / half).is_dir() for half in ("train", "test")):
        if test_share is not None:
            raise UserError(f"{folder} has a test folder: leave --test-share out")
        train, test = (class_files(folder / half) for half in ("train", "test"))
        for name in sorted(test.keys() - train.keys()):
            raise UserError(f"{folder}/test/{name} has no folder in {folder}/train: add one, or remove the class")
    elif test_share is None:
        raise UserError(f"{folder} has no train and test folder: give --test-share, such as 0.2, to divide it")
    else:
        train, test = divided(class_files(folder), test_share, seed)
    return dataset_of(folder.resolve().name, sorted(train), train, test, size)


def class_files(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class, by its name in Unicode's composed form. Hidden folders are no classes."""
    found: dict[str, list[Path]] = {}
    others: list[str] = []
    with os.scandir(folder) as entries:
        children = sorted((entry.name, entry.path) for entry in entries if entry.is_dir() and entry.name[0] != ".")
    for child, path in children:
        files = found.setdefault(unicodedata.normalize("NFC", child), [])
        for home, _, names in os.walk(path, followlinks=True):
            for name in names:
                is_image = os.path.splitext(name)[1].lower() in SUFFIXES
                if name[0] != ".":
                    files.append(Path(home, name)) if is_image else others.append(os.path.join(home, name))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        warnings.warn(f"not used: {min(others)}{more} (no image files)", UserNotice, stacklevel=3)
    return {name: sorted(files) for name, files in found.items()}


def divided(
    files: dict[str, list[Path]], share: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The images of every class for training and for testing. Those with the smallest hashes are for testing."""

    def rank(name: str, file: Path) -> bytes:
        return hashlib.sha256(f"{seed}/{name}/{file.name}".encode("utf-8", "surrogateescape")).digest()

    train, test = {}, {}
    for name, images in files.items():
        if len(images) == 1:
            raise UserError(f"{name} has one picture: a class needs two, one to train on and one to test with")
        ranked = [file for _, file in sorted((rank(name, file), file) for file in images)]
        n = max(1, min(round(share * len(images)), len(images) - 1))
        test[name], train[name] = sorted(ranked[:n]), sorted(ranked[n:])
    return train, test


def dataset_of(
    name: str, classes: Sequence[str], train: dict[str, list[Path]], test: dict[str, list[Path]], size: int
) -> ClassDataset:
    """A dataset of files by class, which are checked.

    Raises:
        UserError: fewer than two classes, one without images for training or testing, or an unreadable image.
    """
    if len(classes) < 2:
        raise UserError(f"{name} has {len(classes)} class{'es' * (not classes)}: a classifier needs two")
    for half, files in (("train on", train), ("test with", test)):
        bare = [kind for kind in classes if not files.get(kind)]
        if bare:
            more = f" and {len(bare) - 1} more classes have" if len(bare) > 1 else " has"
            raise UserError(f"{name}: {bare[0]}{more} no pictures to {half}: add some, or remove the class")
    halves = []
    for files in (train, test):
        labels = torch.tensor([label for label, kind in enumerate(classes) for _ in files[kind]])
        halves.append(ImageFiles([file for kind in classes for file in files[kind]], labels, size))
    check_readable([*halves[0].files, *halves[1].files])
    say_shared(halves[0].files, halves[1].files)
    return ClassDataset(name, [*classes], halves[0], halves[1])


def say_shared(train: Sequence[Path], test: Sequence[Path]) -> None:
    """Warn in one line of test files with the same bytes as a training file."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in train:
        by_size[file.stat().st_size].append(file)
    suspects = [(file, by_size[size]) for file in test if (size := file.stat().st_size) in by_size]
    known: dict[int, set[bytes]] = {}
    shared = []
    for file, others in suspects:
        size = others[0].stat().st_size
        if size not in known:
            known[size] = {digest(other) for other in others}
        if digest(file) in known[size]:
            shared.append(file)
    if shared:
        warnings.warn(
            f"{len(shared)} of {len(test)} test pictures are training pictures too, {shared[0]} among them: "
            "the accuracy will be too high",
            UserNotice,
            stacklevel=4,
        )


def digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
