"""Every dataset of classes by its name; any other name is a folder of images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import UserError
from .datasets import PARTS, ClassDataset, renditions
from .image_folder import image_folder
from .public_sets import DOMAINS, cifar100, cub, domainnet, imagenet_a, imagenet_r

EMBEDDED: dict[str, Callable[..., ClassDataset]] = {name: partial(renditions, part) for part, name in PARTS.items()}
FROM_DISK: dict[str, Callable[..., ClassDataset]] = {  # read from a folder, at a size
    "imagenet-r": imagenet_r,
    "imagenet-a": imagenet_a,
    "cifar100": cifar100,
    "cub200": cub,
    "domainnet": domainnet,
    **{f"domainnet-{domain}": partial(domainnet, domain=domain) for domain in DOMAINS},
}
CLASS_SETS = EMBEDDED | FROM_DISK


def class_set(
    name: str, folder: Path | None = None, classes: int | None = None, size: int = 224, test_share: float | None = None
) -> ClassDataset:
    """A dataset of CLASS_SETS, or a folder of images.

    Args:
        name: a name of CLASS_SETS, or a path (`image_folder`).
        folder: where a public dataset was unpacked.
        classes: only the first so many.
        size: px that images on disk are loaded at.
        test_share: of a folder without train/ and test/: the share of each class's images that is for testing.

    Raises:
        UserError: the dataset is missing or damaged, or has fewer classes.
    """
    if name in FROM_DISK and folder is None:
        script = f", filled by data_scripts/{name.replace('-', '_')}.py" if name == "imagenet-r" else ""
        raise UserError(f"{name} is read from a folder: give --data DIR{script}")
    if name not in FROM_DISK and folder is not None:
        raise UserError(f"--data is for {', '.join(FROM_DISK)}, and {name} is none of them: leave --data out")
    if name in CLASS_SETS and test_share is not None:
        raise UserError(f"{name} has test pictures of its own: leave --test-share out")
    if folder is not None:
        found = FROM_DISK[name](folder, size)
    else:
        found = CLASS_SETS[name]() if name in CLASS_SETS else image_folder(name, size, test_share)
    return found.first(classes) if classes else found


def is_class_folder(path: str) -> bool:
    """Whether a path is a folder with train/ and test/, which no folder of concepts has."""
    return all((Path(path) / half).is_dir() for half in ("train", "test"))
