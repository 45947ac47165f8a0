"""Datasets of the literature, read from copies on disk. Nothing is downloaded or unpickled.

Terms of use and splits are those of their authors; docs/classes.md lists where each is published.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .datasets import ClassDataset, TensorImages
from .image_files import ImageFiles, check_readable
from .image_folder import dataset_of, image_folder

IMAGENET_R = {"train": 24_000, "test": 6_000}  # pictures in the public split
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")  # of DomainNet
CIFAR_ROW = 2 + 3 * 32 * 32  # bytes of an image: coarse label, fine label, planes of red, green and blue


def cifar100(folder: Path | str, size: int = 224) -> ClassDataset:
    """CIFAR-100 (Krizhevsky 2009): cifar-100-binary as published, or a folder of images (`image_folder`).

    Labels are the fine ones, in the order of fine_label_names.txt. Images of 32 px are loaded at `size` px.

    Raises:
        UserError: a file is missing or damaged, or the folder has the Python version, which is a pickle.
    """
    folder = Path(folder)
    if (folder / "train").is_dir():
        return replace(image_folder(folder, size), name="cifar100")
    if not (folder / "train.bin").is_file():
        pickled = " (it has pickles, which are not read)" if (folder / "meta").is_file() else ""
        raise UserError(f"{folder} has no train.bin{pickled}: unpack cifar-100-binary.tar.gz, and give that folder")
    classes = read_lines(folder / "fine_label_names.txt")
    halves = []
    for half in ("train", "test"):
        data = np.fromfile(folder / f"{half}.bin", np.uint8) if (folder / f"{half}.bin").is_file() else np.empty(0)
        if not len(data) or len(data) % CIFAR_ROW or data[1::CIFAR_ROW].max() >= len(classes):
            raise UserError(f"{folder}/{half}.bin is missing or damaged: unpack cifar-100-binary.tar.gz again")
        rows = torch.from_numpy(data).view(-1, CIFAR_ROW)
        halves.append(TensorImages(rows[:, 2:].reshape(-1, 3, 32, 32), rows[:, 1].long(), size))
    return ClassDataset("cifar100", classes, halves[0], halves[1])


def cub(folder: Path | str, size: int = 224) -> ClassDataset:
    """CUB-200-2011 (Wah et al. 2011): CUB_200_2011 as published, with its own split.

    Raises:
        UserError: a list or an image is missing or damaged.
    """
    folder = Path(folder)
    paths = read_pairs(folder / "images.txt")
    labels = read_pairs(folder / "image_class_labels.txt")
    is_train = read_pairs(folder / "train_test_split.txt")
    names = read_pairs(folder / "classes.txt")
    if not paths.keys() == labels.keys() == is_train.keys() or not {*labels.values()} <= names.keys():
        raise UserError(f"{folder}: the lists of images, classes and split do not match: unpack CUB_200_2011 again")
    halves: dict[str, dict[str, list[Path]]] = {"1": {}, "0": {}}
    for key, path in paths.items():
        halves[is_train[key]].setdefault(names[labels[key]], []).append(folder / "images" / path)
    check_there([file for half in halves.values() for files in half.values() for file in files], folder)
    return dataset_of("cub200", [*names.values()], halves["1"], halves["0"], size)


def imagenet_a(folder: Path | str, size: int = 224) -> ClassDataset:
    """ImageNet-A (Hendrycks et al. 2021), classes named by their WordNet ids n....

    As published it is one folder for each class and has no split: a fifth of each class's images is for testing
    (`image_folder`, seed 0) [ours]. A copy with train/ and test/ is read as it is divided.

    Raises:
        UserError: the folder has no such classes, or an image cannot be read.
    """
    folder = Path(folder)
    is_divided = (folder / "train").is_dir()
    if not any((folder / "train" if is_divided else folder).glob("n*/")):
        raise UserError(f"{folder} has no class folders n...: unpack imagenet-a.tar, and give that folder")
    return replace(image_folder(folder, size, None if is_divided else 0.2), name="imagenet-a")


def domainnet(folder: Path | str, size: int = 224, domain: str | None = None) -> ClassDataset:
    """DomainNet (Peng et al. 2019), cleaned version: DOMAIN_train.txt, DOMAIN_test.txt and the images that they list.

    Args:
        domain: one of DOMAINS; by default all whose lists are there. A class is the same in every domain.

    Raises:
        UserError: a list or an image is missing or damaged.
    """
    folder = Path(folder)
    domains = [domain] if domain else [name for name in DOMAINS if (folder / f"{name}_train.txt").is_file()]
    if not domains:
        raise UserError(f"{folder} has no list DOMAIN_train.txt: fetch the lists and images of DomainNet")
    halves: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    named: dict[int, str] = {}
    for half, found in halves.items():
        for name in domains:
            file = folder / f"{name}_{half}.txt"
            for line in read_lines(file):
                path, _, label = line.rpartition(" ")
                if not path or not label.isdecimal():
                    raise UserError(f"{file} is damaged (a line is no path and label): fetch it again")
                kind = named.setdefault(int(label), Path(path).parent.name)
                if kind != Path(path).parent.name:
                    raise UserError(f"{file}: class {label} is {kind} and {Path(path).parent.name}: fetch it again")
                found.setdefault(kind, []).append(folder / path)
    check_there([file for half in halves.values() for files in half.values() for file in files], folder)
    classes = [named[label] for label in sorted(named)]
    return dataset_of(f"domainnet-{domain}" if domain else "domainnet", classes, halves["train"], halves["test"], size)


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError if it cannot be read or has none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        lines = []
    if not lines:
        raise UserError(f"{file} is missing or damaged: fetch it again")
    return lines


def read_pairs(file: Path) -> dict[str, str]:
    """A list of lines "id value" as {id: value}. Raises UserError if it cannot be read."""
    pairs = [line.split(maxsplit=1) for line in read_lines(file)]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{file} is damaged (a line is no id and value): fetch it again")
    return {key: value for key, value in pairs}


def check_there(files: Iterable[Path], folder: Path) -> None:
    """Raise UserError if images that a list names are not on disk."""
    files = [*files]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} pictures are not in {folder}, {missing[0].relative_to(folder)} among "
            "them: unpack the images there"
        )


def imagenet_r(folder: Path | str, size: int = 224) -> ClassDataset:
    """ImageNet-R with the split of the CODA-Prompt code: folder/imagenet-r_train.yaml, _test.yaml and class folders.

    Raises:
        UserError: a file or an image is missing or damaged, an image is in both halves, or labels and folders do not
            match.
    """
    folder = Path(folder)
    halves = {split: read_split(folder, split, size) for split in IMAGENET_R}
    both = {*halves["train"].files} & {*halves["test"].files}
    if both:
        raise UserError(f"{min(both)} is to be trained on and tested: fetch the split files again")
    named: dict[int, str] = {}
    for half in halves.values():
        for file, label in zip(half.files, half.labels.tolist(), strict=True):
            if named.setdefault(label, file.parent.name) != file.parent.name:
                raise UserError(f"class {label} is {named[label]} and {file.parent.name}: fetch the split files again")
    if sorted(named) != [*range(len(named))]:
        raise UserError(f"{folder}: classes 0 to {max(named)} are not all there: fetch the split files again")
    for split, half in halves.items():
        bare = {*named} - {*half.labels.tolist()}
        if bare:
            raise UserError(f"{named[min(bare)]} has no pictures in the {split} half: fetch the split files again")
    check_readable([*halves["train"].files, *halves["test"].files])
    return ClassDataset("imagenet-r", [named[k] for k in range(len(named))], **halves)


def read_split(folder: Path, split: str, size: int) -> ImageFiles:
    """One half of the public split; its paths data/imagenet-r/CLASS/NAME.jpg are looked up in `folder`."""
    import yaml

    file = folder / f"imagenet-r_{split}.yaml"
    if not file.is_file():
        raise UserError(f"{file} is missing: python data_scripts/imagenet_r.py --out {folder}")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        names = [Path(*Path(name).parts[-2:]) for name in content["data"]]
        targets = content["targets"]
        if not all(type(target) is int for target in targets):
            raise TypeError("targets are whole numbers")
        labels = torch.tensor(targets)
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise UserError(f"{file} is damaged: python data_scripts/imagenet_r.py --out {folder}") from None
    if len(names) != len(labels) or not names:
        raise UserError(f"{file} has {len(names)} pictures and {len(labels)} classes: fetch it again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} pictures of {file.name} are not in {folder}, {missing[0]} among them: "
            f"python data_scripts/imagenet_r.py --out {folder}"
        )
    return ImageFiles([folder / name for name in names], labels, size)
