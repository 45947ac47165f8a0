"""How fast pictures are read and cut to train on: one thread, a thread a core, and torch's DataLoader beside them.

    python benchmarks/reading.py --out results/reading.json

Pictures are as large as ImageNet-R's are in the mean, 500 x 400 JPEGs, of enlarged drawings and noise. Every way reads
all of them once in batches of 128, in turns; a DataLoader's processes are started before the clock is.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_pil_image

from stamina_lite.classification.datasets import renditions
from stamina_lite.classification.image_files import ImageFiles, read
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

BATCH = 128


class Stock(torch.utils.data.Dataset):
    """The same work as a data set of torch's."""

    def __init__(self, files):
        self.files = files
        self.change = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, place):
        return pil_to_tensor(self.change(read(self.files[place]))).float() / 255


def draw(folder: Path, n: int) -> list[Path]:
    """n JPEGs of the shipped renditions, enlarged and with noise on top."""
    files, noise = [folder / f"{k}.jpg" for k in range(n)], torch.Generator().manual_seed(0)
    images = renditions().train.images[:: len(renditions().train.images) // n]
    for image, file in zip(images, files, strict=False):
        large = resize(image, [400, 500]).float() + 12 * torch.randn(3, 400, 500, generator=noise)
        to_pil_image(large.clamp(0, 255).byte()).save(file, quality=90)
    return files


def threads(files: list[Path]) -> float:
    """Seconds."""
    pictures, started = ImageFiles(files, torch.zeros(len(files))), time.perf_counter()
    for _ in pictures.stream(torch.arange(len(files)).split(BATCH), torch.Generator().manual_seed(0)):
        pass
    return time.perf_counter() - started


def one_thread(files: list[Path]) -> float:
    count, os.cpu_count = os.cpu_count, lambda: 1
    try:
        return threads(files)
    finally:
        os.cpu_count = count


def loader(files: list[Path]) -> float:
    stock = DataLoader(Stock(files), BATCH, num_workers=os.cpu_count() or 1, persistent_workers=True)
    next(iter(stock))
    started = time.perf_counter()
    for _ in stock:
        pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = {"one thread": one_thread, f"{os.cpu_count()} threads": threads, "DataLoader": loader}
    with tempfile.TemporaryDirectory() as folder:
        files = draw(Path(folder), args.pictures)
        seconds = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                seconds[name].append(way(files))
        size = statistics.mean(file.stat().st_size for file in files)
    rows = {name: len(files) / statistics.median(taken) for name, taken in seconds.items()}
    for name, row in rows.items():
        print(f"{name:12s} {row:7.0f} pictures/s   {row / rows['one thread']:.2f} x one thread's")
    if args.out:
        write_json(args.out, {"pictures_per_second": rows, "bytes": size, **versions(torch.device("cpu"))})


if __name__ == "__main__":
    main()
