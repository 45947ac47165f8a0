"""Draw the base set: pictures and captions the base model is trained on. Generated, not shipped.

    python data_scripts/base_set.py --out build/base --count 60000

Writes images.npy (count, size, size, 3) uint8 and captions/00000.json ..., a file for every hundred pictures, which
appears when they are drawn: so training can begin on the first of them. A killed call goes on where it was. Picture k
depends on k alone, whatever the number of processes.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scenes import base_picture
from tqdm.auto import tqdm

CHUNK = 100  # pictures a captions file
COUNT, SIZE = 60_000, 128


def numbers(chunk: int, count: int) -> np.ndarray:
    """Numbers of the chunk's pictures."""
    return np.arange(chunk * CHUNK, min(count, (chunk + 1) * CHUNK))


def draw_chunk(out: Path, count: int, size: int, chunk: int) -> None:
    """The captions file is written last, so where it is, the pictures are."""
    images, captions = np.load(out / "images.npy", mmap_mode="r+"), []
    for k in numbers(chunk, count):
        images[k], caption = base_picture(int(k), size)
        captions.append(caption)
    images.flush()
    part = out / "captions" / f"{chunk:05}.part"
    part.write_text(json.dumps(captions), encoding="utf-8")
    os.replace(part, part.with_suffix(".json"))


def draw_base_set(out: Path, count: int = COUNT, size: int = SIZE, workers: int = 2) -> None:
    (out / "captions").mkdir(parents=True, exist_ok=True)
    if not (out / "images.npy").exists():
        np.lib.format.open_memmap(out / "images.npy.part", "w+", np.uint8, (count, size, size, 3)).flush()
        os.replace(out / "images.npy.part", out / "images.npy")
    check_shape(out, count, size)
    missing = [c for c in range(-(-count // CHUNK)) if not (out / "captions" / f"{c:05}.json").exists()]
    with ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(partial(draw_chunk, out, count, size), missing)
        for _ in tqdm(drawn, total=len(missing), desc="base set", unit="hundred pictures"):
            pass


def check_shape(folder: Path, count: int, size: int) -> None:
    """Raises SystemExit if the folder's set has another number or size of pictures."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    if images.shape != (count, size, size, 3):
        raise SystemExit(
            f"{folder} holds {len(images)} pictures of {images.shape[1]} px, not {count} of {size} px: "
            "name another folder, or ask for as many"
        )


def start_drawing(out: Path, count: int, size: int, workers: int) -> subprocess.Popen:
    """Draw in another process, at a low priority, while this one goes on."""
    command = [sys.executable, __file__, "--out", out, "--count", count, "--size", size, "--workers", workers]
    return subprocess.Popen(["nice", "-n", "10", *map(str, command)], stdout=subprocess.DEVNULL, start_new_session=True)


def stop_drawing(drawing: subprocess.Popen) -> None:
    """End the process and its workers; what they drew is kept."""
    if drawing.poll() is None:
        os.killpg(drawing.pid, signal.SIGTERM)
        drawing.wait()


class BaseSet:
    """The pictures that have been drawn so far. images: (count, size, size, 3) uint8, not all of them drawn yet."""

    @classmethod
    def begun(cls, folder: Path, count: int, size: int, drawing: subprocess.Popen, fewest: int) -> "BaseSet":
        """Wait until the first `fewest` of its `count` pictures have been drawn."""
        while not (folder / "images.npy").exists():
            if drawing.poll():
                raise SystemExit("the base set could not be drawn: see the message above")
            time.sleep(0.2)
        check_shape(folder, count, size)
        base = cls(folder)
        first = set(range(-(-min(fewest, len(base.images)) // CHUNK)))
        while not (base.refresh(), first <= base.chunks)[1]:
            if drawing.poll():
                raise SystemExit("the base set could not be drawn: see the message above")
            time.sleep(0.2)
        return base

    def __init__(self, folder: Path):
        self.folder, self.chunks = folder, set()
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.ready = np.empty(0, int)  # numbers of the pictures that are there

    def refresh(self) -> list[int]:
        """Look what has come: the new chunks."""
        found = {int(file.stem) for file in (self.folder / "captions").glob("*.json")}
        new = sorted(found - self.chunks)
        self.chunks |= found
        if new:
            self.ready = np.concatenate([self.ready, *map(self.numbers, new)])
        return new

    def numbers(self, chunk: int) -> np.ndarray:
        return numbers(chunk, len(self.images))

    def captions(self, chunk: int) -> list[str]:
        return json.loads((self.folder / "captions" / f"{chunk:05}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    draw_base_set(args.out, args.count, args.size, args.workers)
