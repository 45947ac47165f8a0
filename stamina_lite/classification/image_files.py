"""Image files: threads read, crop and scale them ahead of the model that is trained on them.

Faster than torch's DataLoader with worker processes on the same cores (benchmarks/reading.py, results/reading.json):
decoding releases Python's lock, and nothing is sent between processes.
"""

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms
from tqdm.auto import tqdm

from ..errors import UserError
from ..images import to_8_bit
from ..runs.files import cache_folder

ENLARGED = 256 / 224  # test images are resized to this multiple of the size of the centre crop
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of training crops: share of the area, and width to height


@dataclass(frozen=True)
class ImageFiles:
    """Image files, loaded at `size` px: RandomResizedCrop and flip for training, Resize and CenterCrop for testing."""

    files: Sequence[Path]
    labels: Tensor
    size: int = 224

    def load(self, indices: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return next(self.stream([indices], generator))

    def stream(self, parts: Sequence[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Yield one part after another; while one is used the next is read, with a thread a core.

        Every image's crop has its own seed, so that it does not depend on the order of the threads.
        """
        seeds: list[int | None] = [None] * sum(map(len, parts))
        if generator is not None:
            seeds = torch.randint(2**62, (len(seeds),), generator=generator).tolist()
        waiting: deque[tuple[Tensor, Iterator[None]]] = deque()
        given = iter(seeds)
        threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="pictures")
        try:
            for indices in parts:
                x = torch.empty(len(indices), 3, self.size, self.size, pin_memory=torch.cuda.is_available())
                files = [self.files[k] for k in indices.tolist()]
                waiting.append((x, threads.map(self._fill, x, files, given)))
                if len(waiting) > 1:
                    yield ready(*waiting.popleft())
            while waiting:
                yield ready(*waiting.popleft())
        finally:
            threads.shutdown(cancel_futures=True)

    def _fill(self, x: Tensor, file: Path, seed: int | None) -> None:
        image = read(file)
        if seed is None:
            image = transforms.center_crop(transforms.resize(image, [resized_side(self.size)]), [self.size])
        else:
            image = cut(image, self.size, torch.Generator().manual_seed(seed))
        x.copy_(transforms.pil_to_tensor(image)).div_(255)

    def content(self) -> bytes:
        """The files' names: reading 30,000 files for a hash would take minutes."""
        return "\n".join("/".join(Path(file).parts[-2:]) for file in self.files).encode()

    def of(self, indices: Tensor) -> "ImageFiles":
        return ImageFiles([self.files[k] for k in indices.tolist()], self.labels[indices], self.size)


def resized_side(size: int) -> int:
    """The shorter side, in px, that a test image is resized to before its centre of `size` px is cropped."""
    return round(size * ENLARGED)


def ready(x: Tensor, filled: Iterator[None]) -> Tensor:
    """Wait for all images of a part; errors of the threads are raised here."""
    for _ in filled:
        pass
    return x


def check_readable(files: Sequence[Path]) -> None:
    """Decode every image once, so that a damaged one is found before training and not in its task, hours later.

    A note in the cache folder says that these files, with these sizes and times of change, were read.

    Raises:
        UserError: images cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        about = file.stat()
        digest.update(f"{file.resolve()} {about.st_size} {about.st_mtime_ns}\n".encode())
    note = cache_folder() / f"readable-{digest.hexdigest()[:32]}"
    if note.exists():
        return

    def damaged(file: Path) -> bool:
        try:
            read(file)
        except UserError:
            return True
        return False

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="pictures") as threads:
        found = tqdm(threads.map(damaged, files), "checking images", len(files), unit="image", leave=False)
        bad = [file for file, is_damaged in zip(files, found, strict=True) if is_damaged]
    if bad:
        more = f" and {len(bad) - 1} more images" if len(bad) > 1 else ""
        raise UserError(f"cannot read {bad[0]}{more}: replace them, or take them out of the split")
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def read(file: Path) -> Image.Image:
    """Read an image in RGB. Raises UserError if it cannot be read."""
    try:
        with Image.open(file) as image:
            grey = image.mode[0] in "IF"  # 16 bits or more, which Pillow's own conversion clips at 255
            return (to_8_bit(image) if grey else image).convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        raise UserError(f"cannot read {file}: replace it, or take it out of the split") from None


def cut(image: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    """torchvision's RandomResizedCrop and RandomHorizontalFlip, which take no generator themselves."""
    image = transforms.resized_crop(image, *crop_box(image.height, image.width, generator), [size, size])
    return transforms.horizontal_flip(image) if torch.rand(1, generator=generator) < 0.5 else image


def crop_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop, sampled as RandomResizedCrop does."""

    def between(low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high, generator=generator).item()

    for _ in range(10):
        area = height * width * between(*SCALE)
        ratio = math.exp(between(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(torch.randint(n + 1, (1,), generator=generator)) for n in (height - h, width - w))
            return top, left, h, w
    h, w = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))  # the centre of a narrow image
    return (height - h) // 2, (width - w) // 2, h, w
