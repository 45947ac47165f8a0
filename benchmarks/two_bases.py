"""Two bases beside each other in time: a training step of each method, and a drawn picture. Ratios, measured in turn.

    python benchmarks/two_bases.py OLD_FOLDER mini --out results/two_bases.json

The bases take turns, so that both meet the same machine; the ratio is the median of the rounds' ratios.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from stamina_lite import concepts, load_base, make_method
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

METHODS = ("ti", "lora", "stamina")
STEPS, PICTURES = 12, 8


def seconds_a_step(model: TextToImage, method: str) -> float:
    stamps: list[float] = []
    rule = make_method(method, steps=STEPS, batch=8)
    model.learn(concepts("tune5")[0], rule, 0, 1, lambda step, numbers: stamps.append(time.perf_counter()))
    return statistics.median(b - a for a, b in zip(stamps[1:], stamps[2:], strict=False))


def seconds_a_picture(model: TextToImage) -> float:
    begun = time.perf_counter()
    model.generate(["a photo of a person"] * PICTURES, list(range(PICTURES)))
    return (time.perf_counter() - begun) / PICTURES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    models = [TextToImage(load_base(base)) for base in (args.old, args.new)]
    tasks = {f"step of {m}": lambda model, m=m: seconds_a_step(model, m) for m in METHODS}
    tasks["picture"] = seconds_a_picture
    rows = {}
    for name, measure in tasks.items():
        for model in models:
            measure(model)  # the first time everything is slower
        rounds = [[measure(model) for model in models] for _ in range(args.rounds)]
        old, new = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        rows[name] = {"old": round(old, 4), "new": round(new, 4), "ratio": round(ratio, 3)}
        print(f"{name:16s} old {old:.3f} s   new {new:.3f} s   ratio {ratio:.2f}", flush=True)
    if args.out:
        write_json(args.out, {"rounds": args.rounds, "rows": rows, **versions(torch.device("cpu"))})


if __name__ == "__main__":
    main()
