"""What a training step of the classification half costs, in time and memory, by method; ratios in one run.

    python benchmarks/vit_step.py --model vit_base_patch16_224 --batch 32 --device cuda --out results/vit_step.json
    python benchmarks/vit_step.py --batch 4 --steps 5                     on a CPU, without memory

Weights and pictures are random: time and memory do not depend on them. The ViT computes in bf16 on a GPU that is fast
at it, else in fp32. A method has learned one task before it is
timed, so that penalties, past prompts and directions are there. On a GPU memory is the peak of the second task.
"""

import argparse
import statistics
import time
from pathlib import Path

import timm
import torch

from stamina_lite.backbones import precision
from stamina_lite.checkpoint import write_json
from stamina_lite.class_methods import make_class_method
from stamina_lite.class_sets import Decoded, task_pictures
from stamina_lite.classification import Classifier
from stamina_lite.versions import versions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
METHODS = ("lora", "c-lora", "stamina", "ft", "lwf", "coda-p", "dualprompt", "sd-lora")


def measure(method: str, args) -> dict:
    """Median seconds of a step in the second of ten tasks, and the peak memory of that task in bytes (GPU only)."""
    torch.manual_seed(0)
    vit = timm.create_model(args.model, num_classes=0).to(args.device)
    size = vit.pretrained_cfg["input_size"][-1]
    n = args.batch * (args.steps + 3)
    pictures = Decoded(torch.randint(256, (n, 3, size, size), dtype=torch.uint8), torch.arange(n) % 2)
    rank = {"rank": args.rank} if method not in ("ft", "lwf", "coda-p", "dualprompt") else {}
    rule = make_class_method(method, epochs=1, batch=args.batch, **rank)
    model = Classifier(vit, 200, rule, tasks=10, seed=0, dtype=DTYPES[args.dtype])
    first = pictures.of(torch.arange(args.batch))
    model.learn(task_pictures(first, [0, 1]), 1)
    second, stamps = Decoded(pictures.images, pictures.labels + 2), []
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()

    def on_step(step, numbers):  # the loss was read, so a GPU has finished the step
        stamps.append(time.perf_counter())

    model.learn(task_pictures(second, [2, 3]), 2, on_step)
    row = {"seconds": statistics.median(b - a for a, b in zip(stamps[2:], stamps[3:], strict=False))}
    return row if args.device == "cpu" else row | {"peak_memory": torch.cuda.max_memory_allocated()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="that the ViT computes in")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.dtype = args.dtype or str(precision(args.device)).removeprefix("torch.")
    rows = {method: measure(method, args) for method in args.methods}
    for method, row in rows.items():
        told = f"{method:12s} {args.batch / row['seconds']:8.1f} pictures/s"
        if "lora" in rows:
            told += f"   {row['seconds'] / rows['lora']['seconds']:.2f} x LoRA's time"
        if "peak_memory" in row:
            told += f"   {row['peak_memory'] / 2**30:.2f} GiB"
            told += (
                f", {row['peak_memory'] / rows['ft']['peak_memory']:.2f} x full fine-tuning's" if "ft" in rows else ""
            )
        print(told, flush=True)
    if args.out:
        about = {"model": args.model, "batch": args.batch, "rank": args.rank, "steps": args.steps}
        about |= {"dtype": args.dtype, "rows": rows}
        write_json(args.out, about | versions(torch.device(args.device)))


if __name__ == "__main__":
    main()
