"""Lay out ImageNet-R with the split of the CODA-Prompt code, as `bench imagenet-r --data` reads it.

    python data_scripts/imagenet_r.py --out data/imagenet-r                          fetches archive (2.2 GB) and split
    python data_scripts/imagenet_r.py --out data/imagenet-r --from imagenet-r.tar    from an archive on disk
    python data_scripts/imagenet_r.py --out data/imagenet-r --from COPY/imagenet-r   from a folder of class folders

The split files may be laid into --out beforehand; otherwise they are fetched. All is checked at the end: 24,000 and
6,000 pictures of 200 classes, and how many test pictures every task of twenty classes has for three seeds.
ImageNet-R: Hendrycks et al., "The Many Faces of Robustness", ICCV 2021; its pictures have many owners and are for
research only.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from downloads import DownloadError, check, download, unpack

from stamina_lite.classification.datasets import ClassDataset, class_tasks, of_classes
from stamina_lite.classification.public_sets import IMAGENET_R, imagenet_r
from stamina_lite.errors import UserError

ARCHIVE = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar"
MD5 = "a61312130a589d0ca1a8fca1f2bd3337"
SPLIT = (
    "https://raw.githubusercontent.com/GT-RIPL/CODA-Prompt/6417d4f68754be68b697c7ca2323ee61e791e1a3/dataloaders/splits/"
)
SHA1 = {
    "imagenet-r_train.yaml": "b12f6139e8bb6d9fc6480a3e245e403ac5f9aa4d",
    "imagenet-r_test.yaml": "19f4a291446a669f5522be37702d610ca752a000",
}
TEST_PICTURES = {  # of the ten tasks of twenty classes, by seed
    0: [543, 716, 553, 686, 620, 631, 557, 636, 587, 471],
    1: [584, 593, 753, 535, 586, 726, 588, 520, 552, 563],
    2: [687, 723, 596, 546, 543, 638, 588, 512, 529, 638],
}


def lay_out(out: Path, source: Path | None) -> None:
    """Pictures and split files below out. Raises DownloadError."""
    out.mkdir(parents=True, exist_ok=True)
    for name, sha1 in SHA1.items():
        if (out / name).exists() and not check(out / name, sha1=sha1):
            raise DownloadError(f"{out / name} is another split than the public one: delete it, it will be fetched")
        download(SPLIT + name, out / name, sha1=sha1)
    if whole(out):
        return
    if source and source.is_dir():
        folders = sorted(source.glob("n*/"))
        if not folders:
            raise DownloadError(f"{source} holds no class folders n…: give the folder of ImageNet-R itself")
        for folder in folders:
            if any(file.is_symlink() for file in (folder, *folder.rglob("*"))):
                raise DownloadError(f"{folder} is or holds a link: give a folder that holds the pictures themselves")
            shutil.copytree(folder, out / folder.name, dirs_exist_ok=True)
        return
    archive = source or out.parent / "imagenet-r.tar"
    if source is None:
        download(ARCHIVE, archive, md5=MD5)
    elif not archive.is_file():
        raise DownloadError(f"{archive} is not there: leave --from out to fetch it")
    elif not check(archive, md5=MD5):
        raise DownloadError(
            f"{archive} is not the published archive (its MD5 is another): leave --from out to fetch it"
        )
    unpacked = out.parent / "imagenet-r.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was broken off
    unpack(archive, unpacked)
    for folder in (unpacked / "imagenet-r").glob("n*/"):
        shutil.rmtree(out / folder.name, ignore_errors=True)
        os.replace(folder, out / folder.name)
    shutil.rmtree(unpacked)


def whole(out: Path) -> bool:
    """Whether every picture of the split is there already."""
    try:
        imagenet_r(out)
    except UserError:
        return False
    return True


def verify(found: ClassDataset) -> None:
    """Raises UserError where counts are not those of the public split."""
    counts = {split: len(getattr(found, split).labels) for split in IMAGENET_R}
    if counts != IMAGENET_R or len(found.classes) != 200:
        raise UserError(f"{counts} pictures of {len(found.classes)} classes: expected {IMAGENET_R} of 200")
    for seed, wanted in TEST_PICTURES.items():
        tasks = [len(of_classes(found.test, classes)) for classes in class_tasks(200, 10, seed)]
        if tasks != wanted:
            raise UserError(f"seed {seed}: test pictures of the tasks are {tasks}, expected {wanted}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data/imagenet-r"))
    parser.add_argument("--from", dest="source", type=Path, metavar="TAR|DIR")
    args = parser.parse_args(argv)
    try:
        lay_out(args.out, args.source)
        found = imagenet_r(args.out)
        verify(found)
    except (DownloadError, UserError, OSError, shutil.Error) as error:
        print("imagenet_r.py:", *str(error).split(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("imagenet_r.py: interrupted; the same command goes on where this one was", file=sys.stderr)
        return 130
    print(f"{args.out}: {len(found.train.labels)} pictures to train on, {len(found.test.labels)} to test with")
    return 0


if __name__ == "__main__":
    sys.exit(main())
