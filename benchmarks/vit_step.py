"""What a training step of the classification half costs, in time and memory, by method; ratios in one run.

    python benchmarks/vit_step.py --out results/vit_step.json
    python benchmarks/vit_step.py --batch 8 --steps 4 --methods lora stamina      shorter, for a CPU

Weights and pictures are random: time and memory do not depend on them. A method has learned one task before it is
timed, so that penalties, past prompts and directions are there. `plain` is a bare loop that trains every weight. The
ViT computes in bf16 on a GPU that is fast at it, else in fp32. Memory is the peak of a task: a GPU's own, on a CPU of
all tensors, counted in a task of its own.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from memory_tracker import MemoryTracker
from step_tables import vit_table

from stamina_lite.classification.backbones import precision
from stamina_lite.classification.datasets import TensorImages, task_images
from stamina_lite.classification.model import Classifier
from stamina_lite.methods.registry import make_class_method
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
METHODS = ("plain", "lora", "c-lora", "stamina", "coda-p", "dualprompt", "ft", "lwf", "sd-lora")
CLASSES = 200
Task = Callable[[int, Callable], None]  # learns so many steps, and tells of every one


def random_pictures(vit, n: int) -> TensorImages:
    """n pictures of two classes."""
    size = vit.pretrained_cfg["input_size"][-1]
    return TensorImages(torch.randint(256, (n, 3, size, size), dtype=torch.uint8), torch.arange(n) % 2)


def ours(method: str, args) -> Task:
    """The second of ten tasks of a method; the first is learned."""
    vit = timm.create_model(args.model, num_classes=0).to(args.device)
    rank = {} if method in ("ft", "lwf", "coda-p", "dualprompt") else {"rank": args.rank}
    rule = make_class_method(method, epochs=1, batch=args.batch, **rank)
    model = Classifier(vit, CLASSES, rule, tasks=10, seed=0, dtype=DTYPES[args.dtype])
    model.learn(task_images(random_pictures(vit, args.batch), [0, 1]), 1)

    def task(steps: int, on_step: Callable) -> None:
        found = random_pictures(vit, steps * args.batch)
        model.learn(task_images(TensorImages(found.images, found.labels + 2), [2, 3]), 2, on_step)

    return task


def plain(args) -> Task:
    """Fine-tuning of every weight without anything of ours."""
    vit = timm.create_model(args.model, num_classes=CLASSES).to(args.device).eval()
    optimizer = torch.optim.AdamW(vit.parameters(), fused=True)

    def task(steps: int, on_step: Callable) -> None:
        found = random_pictures(vit, steps * args.batch)
        for step, places in enumerate(torch.arange(steps * args.batch).split(args.batch)):
            x, labels = found.load(places).to(args.device), found.labels[places].to(args.device)
            optimizer.zero_grad()
            with torch.autocast(torch.device(args.device).type, DTYPES[args.dtype], enabled=args.dtype != "float32"):
                loss = F.cross_entropy(vit(x), labels)
            loss.backward()
            optimizer.step()
            on_step(step, {"loss": loss.item()})

    return task


def measure(method: str, args) -> dict:
    """Median seconds of a step, and bytes at the peak."""
    torch.manual_seed(0)
    make = (lambda: plain(args)) if method == "plain" else (lambda: ours(method, args))
    on_gpu, stamps = torch.device(args.device).type == "cuda", []

    def stamp(step, numbers):  # the loss was read, so a GPU has finished the step
        stamps.append(time.perf_counter())

    if not on_gpu:
        with MemoryTracker() as memory:
            task = make()
            memory.peak = memory.current
            task(2, lambda step, numbers: None)
            peak = memory.peak
    task = make()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    task(args.steps + 3, stamp)
    if on_gpu:
        peak = torch.cuda.max_memory_allocated()
    return {"seconds": statistics.median(b - a for a, b in zip(stamps[2:], stamps[3:], strict=False)), "peak": peak}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="that the ViT computes in")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    args.dtype = args.dtype or str(precision(args.device)).removeprefix("torch.")
    report = {key: getattr(args, key) for key in ("model", "batch", "rank", "steps", "dtype")}
    report |= versions(torch.device(args.device)) | {"rows": {}}
    for method in args.methods:
        report["rows"][method] = measure(method, args)
        if args.out:
            write_json(args.out, report)
    print(vit_table(report))


if __name__ == "__main__":
    main()
