"""Draw the base set once: pictures and captions the base model is trained on. Generated, not shipped.

    python data_scripts/base_set.py --out build/base --count 24000

Writes images.npy (count, 64, 64, 3) uint8 and captions.json; a second call with the same count does nothing.
Picture k depends on k alone, so the set is the same whatever the number of processes.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scenes import base_picture
from tqdm.auto import tqdm


def draw_base_set(out: Path, count: int, workers: int = 2) -> None:
    if (out / "captions.json").exists() and len(json.loads((out / "captions.json").read_text())) == count:
        return
    out.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (count, 64, 64, 3))
    captions = []
    with ProcessPoolExecutor(workers) as pool:
        pictures = pool.map(base_picture, range(count), chunksize=50)
        for k, (image, caption) in enumerate(tqdm(pictures, total=count, desc="base set", unit="picture")):
            images[k] = image
            captions.append(caption)
    images.flush()
    (out / "captions.json").write_text(json.dumps(captions, indent=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/base"))
    parser.add_argument("--count", type=int, default=24000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    draw_base_set(args.out, args.count, args.workers)
