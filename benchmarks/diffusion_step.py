"""What a step of learning a concept costs at the size of Stable Diffusion 1.5, beside a floor and published scripts.

    python benchmarks/diffusion_step.py --out results/diffusion_step.json               on a GPU
    python benchmarks/diffusion_step.py --shape tiny --steps 5                          anywhere
    python benchmarks/diffusion_step.py --latent 16 --batches 1 --steps 1 --parts floor ours --methods lora stamina

The last one takes 8 GB of memory and some minutes of a CPU.

Weights are random. Rows of one run compare with one another, and with the floor: forward and backward of the frozen
U-Net to its words, which no method that trains a token can do without. What is predicted is counted and printed before
anything is measured (step_arithmetic.py, step_memory.py); the published scripts are written out in stock_loops.py.

On a GPU frozen weights are bfloat16, elsewhere float32. Memory is measured on a GPU alone. The file is written anew
after every part.
"""

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import step_arithmetic as arithmetic
import step_memory as memory
import torch
from stable_diffusion import DTYPES, SHAPES, build, make_models
from step_arithmetic import Machine, Work, measure_machine, synchronize
from stock_loops import CROSS_KV, LOOPS, make_loop

from stamina_lite import ContinualLearner, concepts, make_method
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.runs.devices import peak_memory
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

METHODS = memory.METHODS
PARTS = ("floor", "ours", "stock", "folded", "concepts")
WARM_UP = 3  # steps before those that count
RANK = 16  # of our adapters by default, of all others here
DRAWN = 10  # steps of a picture, and at most so many pictures of each model


class Watch:
    """Takes the time and, on a GPU, the memory of steps; called after each of them.

    The first WARM_UP calls do not count. `memory` is the peak of the steps after them, `whole` of everything.
    """

    def __init__(self, device: torch.device, steps: int):
        self.device, self.last, self.stamps = device, WARM_UP + steps, []
        self.memory = self.whole = None
        self.reset()
        self.whole = None  # what was before is not ours

    def reset(self) -> None:
        if self.device.type == "cuda":
            self.whole = max(self.whole or 0, torch.cuda.max_memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)

    def __call__(self, *_) -> None:
        synchronize(self.device)
        self.stamps.append(time.perf_counter())
        if len(self.stamps) == WARM_UP:
            self.reset()
        elif len(self.stamps) == self.last:
            self.memory = peak_memory(self.device) if self.device.type == "cuda" else None
            self.reset()

    def row(self, batch: int) -> dict:
        took = [b - a for a, b in zip(self.stamps[WARM_UP - 1 :], self.stamps[WARM_UP:], strict=False)]
        seconds = statistics.median(took)
        return {"seconds": seconds, "pictures_per_second": batch / seconds, "peak_memory": self.memory}


def watched(step: Callable[[], object], batch: int, args) -> dict:
    """The row of a step that is called again and again."""
    watch = Watch(args.device, args.steps)
    for _ in range(WARM_UP + args.steps):
        step()
        watch()
    return watch.row(batch)


def clear() -> None:
    """Leave nothing of the last row on the device."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def make_pipe(args):
    return build(args.shape, args.device, args.dtype, args.latent)


def floor_step(unet, batch: int, positions: int) -> tuple[Callable[[], None], torch.Tensor]:
    """A step of the floor, and the words whose gradient it makes."""
    x, t, words = arithmetic.inputs(unet, batch, positions)

    def step() -> None:
        words.grad = None
        unet(x, t, words).sample.float().square().mean().backward()

    return step, words


def measure_floor(batch: int, args) -> dict:
    """The faster of eager and compiled, and the seconds of both; in its memory are no VAE and no text encoder."""
    unet = make_models(args.shape, args.device, args.latent)["unet"].requires_grad_(False)
    torch.nn.Module.to(unet, args.dtype, memory_format=torch.channels_last)
    positions = SHAPES[args.shape].text["max_position_embeddings"]
    rows = {"eager": watched(floor_step(unet, batch, positions)[0], batch, args)}
    if args.compile:
        unet.compile(dynamic=False)
        rows["compiled"] = watched(floor_step(unet, batch, positions)[0], batch, args)
    best = min(rows, key=lambda kind: rows[kind]["seconds"])
    return rows[best] | {"kind": best, **{f"seconds_{kind}": row["seconds"] for kind, row in rows.items()}}


def measure_ours(name: str, batch: int, args) -> dict:
    """Steps of a method's second task; `task_memory` is the peak of that task from its pictures to its fold."""
    model = TextToImage(make_pipe(args))
    if args.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    first, second = concepts("mini50", count=2)
    model.learn(first, make_method(name, steps=1, batch=batch, rank=RANK), 0, 1)
    watch = Watch(args.device, args.steps)
    learned = model.learn(second, make_method(name, steps=WARM_UP + args.steps, batch=batch, rank=RANK), 0, 2, watch)
    watch.reset()
    return watch.row(batch) | {"task_memory": watch.whole, "trained": learned.trained}


def measure_stock(name: str, batch: int, args) -> dict:
    pipe = make_pipe(args)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    images = concepts("mini50")[0].load(size)[[k % 16 for k in range(2 * batch)]]
    loop = make_loop(name, pipe, images)
    return watched(loop.step, batch, args) | {"trained": sum(p.numel() for p in loop.trained)}


def measure_folded(args) -> dict:
    """Seconds a picture of a model that learned three concepts and of one that did not, drawn in turn."""
    models = {"base": TextToImage(make_pipe(args)), "folded": TextToImage(make_pipe(args))}
    for task, concept in enumerate(concepts("mini50", count=3), 1):
        models["folded"].learn(concept, make_method("stamina", steps=2, batch=1, rank=RANK), 0, task)
    seconds = {name: [] for name in models}
    for k in range(1 + min(DRAWN, args.steps)):
        for name in models if k % 2 else reversed(models):
            pipe = models[name].pipe
            pipe.set_progress_bar_config(disable=True)
            started = time.perf_counter()
            pipe("a photo of a person", num_inference_steps=DRAWN, output_type="pt")
            synchronize(args.device)
            seconds[name].append(time.perf_counter() - started)
    base, folded = (statistics.median(seconds[name][1:]) for name in models)
    return {"base_seconds": base, "folded_seconds": folded, "ratio": folded / base}


def measure_concepts(args) -> dict:
    """What a concept costs early and late in a sequence: tasks of two steps, saved as a run saves them.

    Early is the second task, as the first pays for what is done once, late the last; of seconds the fewest of ten tasks
    from there on or up to there, as a busy machine only adds some. On a CPU memory is the peak of the process so far.
    """
    tasks = []
    with tempfile.TemporaryDirectory() as folder:
        learner = ContinualLearner(make_pipe(args), "stamina", out=folder, steps=2, batch=1, rank=RANK)
        for concept in concepts("mini50", count=args.concepts):
            if args.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(args.device)
            started = time.perf_counter()
            learner.learn(concept, progress=False)
            seconds = time.perf_counter() - started
            *older, newest = sorted((Path(folder) / "tasks").iterdir())
            saved = sum(file.stat().st_size for file in newest.iterdir())
            tasks.append({"seconds": seconds, "peak_memory": peak_memory(args.device), "bytes": saved})
            for task in older:  # a run needs its newest task alone to go on
                shutil.rmtree(task)
    least = {"early": min(t["seconds"] for t in tasks[1:11]), "late": min(t["seconds"] for t in tasks[-10:])}
    ends = {what: {"early": tasks[1][what], "late": tasks[-1][what]} for what in ("peak_memory", "bytes")}
    rows = {"seconds": least, **ends}
    return {"tasks": tasks, **{what: row | {"ratio": row["late"] / row["early"]} for what, row in rows.items()}}


def predict(args, machine: Machine) -> dict:
    """Predicted rows for every batch: work, seconds, ratio to the floor, and bytes at the peak; those of the published
    loops are counted in fp32 only.
    """
    predicted = {}
    for batch in args.batches:
        size = args.shape, batch, args.dtype, args.latent
        base = arithmetic.floor(*size)
        rows = {"floor": predicted_row(base, base, machine, memory.floor(*size))}
        for name in args.methods if "ours" in args.parts else ():
            work = base + arithmetic.added(name, args.shape, batch, args.dtype)
            rows[name] = predicted_row(work, base, machine, memory.ours(name, *size, args.gradient_checkpointing))
        for name in LOOPS if "stock" in args.parts else ():
            peak_memory = memory.stock(name, args.shape, batch, args.latent) if args.dtype == torch.float32 else None
            rows[name] = predicted_row(arithmetic.stock(name, *size), base, machine, peak_memory)
        predicted[batch] = rows
    return predicted


def predicted_row(work: Work, base: Work, machine: Machine, peak_memory: int | None) -> dict:
    seconds = machine.seconds(work)
    return {**asdict(work), "seconds": seconds, "ratio": seconds / machine.seconds(base), "peak_memory": peak_memory}


def measured(args, rows: dict, keep: Callable[[], None]) -> None:
    """Fill rows, {batch: {name: row}}, round after round; of several rounds the fastest of a row counts, as what else a
    machine does only adds to it.
    """
    for _ in range(args.rounds):
        for batch in args.batches:
            todo = {"floor": lambda b: measure_floor(b, args)} if "floor" in args.parts else {}
            if "ours" in args.parts:
                todo |= {m: lambda b, m=m: measure_ours(m, b, args) for m in args.methods}
            if "stock" in args.parts:
                todo |= {name: lambda b, name=name: measure_stock(name, b, args) for name in LOOPS}
            found = rows.setdefault(batch, {})
            for name, measure in todo.items():
                row = measure(batch)
                if name not in found or row["seconds"] < found[name]["seconds"]:
                    found[name] = row
                for other in found.values() if "floor" in found else ():
                    other["ratio"] = other["seconds"] / found["floor"]["seconds"]
                print_row(batch, name, row)
                clear()
                keep()


def print_row(batch: int, name: str, row: dict) -> None:
    """A line of a measured or a predicted row."""
    line = f"batch {batch}  {name:27s} {1000 * row['seconds']:10.2f} ms"
    line += f" {row['ratio']:6.2f} x floor" if "ratio" in row else ""
    if "launches" in row:
        line += f"   {row['flops'] / 1e9:8.1f} GFLOP {row['moved'] / 1e9:6.2f} GB {row['launches']:5.0f} launches"
        line += f" {row['drawn'] / 1e6:5.1f} M drawn"
    else:
        line += f" {row['pictures_per_second']:8.2f} pictures/s"
    line += f" {row['peak_memory'] / 2**30:6.2f} GiB" if row["peak_memory"] else ""
    print(line, flush=True)


def project(rows: dict) -> dict:
    """Hours of 50 concepts of 500 steps each, by row, at the largest batch that was measured."""
    batch = max(rows)
    hours = {name: 50 * 500 * row["seconds"] / 3600 for name, row in rows[batch].items() if name != "floor"}
    return {"batch": batch, "concepts": 50, "steps": 500, "hours": hours}


def counts(shape: str) -> dict:
    """Weights of the models and of what is adapted, and what an adapter of rank RANK trains."""
    models = make_models(shape, "meta")
    linear = [m.weight.shape for name, m in models["unet"].named_modules() if name.endswith(CROSS_KV)]
    return {
        **{name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "matrices": len(linear),
        "adapted": sum(s.numel() for s in linear),
        "adapter": sum(min(RANK, *s) * sum(s) for s in linear),
    }


def parsed(argv: list[str] | None) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="sd15", choices=SHAPES)
    parser.add_argument("--device", default="cuda" if gpu else "cpu", type=torch.device)
    parser.add_argument("--dtype", choices=DTYPES, help="of what is frozen: bfloat16 on a GPU, else float32")
    parser.add_argument("--latent", type=int, help="side of the latents, where not the shape's own (sd15: 64)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=20, help=f"that count, after {WARM_UP} that do not")
    parser.add_argument("--rounds", type=int, default=1, help="rows are measured so often, and the fastest counts")
    parser.add_argument("--concepts", type=int, default=50, help="tasks of the part of that name, 2 to 50")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="the floor too; on a GPU by default")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="our methods: less memory, more time")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if not 2 <= args.concepts <= 50 or min(args.steps, args.rounds, *args.batches) < 1:
        parser.error("--concepts are 2 to 50; --steps, --rounds and --batches are at least 1")
    on_gpu = args.device.type == "cuda"
    args.compile = on_gpu if args.compile is None else args.compile
    args.dtype = DTYPES[args.dtype or ("bfloat16" if on_gpu else "float32")]
    return args


def main(argv: list[str] | None = None) -> None:
    args = parsed(argv)
    machine = measure_machine(args.device, args.dtype)
    asked = {k: v for k, v in vars(args).items() if k not in ("device", "dtype", "out")}
    report = {
        **asked,
        "dtype": str(args.dtype),
        "rank": RANK,
        "counts": counts(args.shape),
        "machine": {k: v for k, v in vars(machine).items() if k != "device"},
        "predicted": {},
        "rows": {},
        **versions(args.device),
    }

    def keep() -> None:
        if args.out:
            write_json(args.out, report)

    print("counted:", report["counts"])
    print("the machine:", report["machine"])
    if {"floor", "ours", "stock"} & {*args.parts}:
        print("\npredicted")
        report["predicted"] = predict(args, machine)
        for batch, rows in report["predicted"].items():
            for name, row in rows.items():
                print_row(batch, name, row)
        print("\nmeasured", flush=True)
        measured(args, report["rows"], keep)
    if {"ours", "stock"} & {*args.parts}:
        report["projection"] = project(report["rows"])
        print("\nhours of 50 concepts x 500 steps:", {k: round(v, 2) for k, v in report["projection"]["hours"].items()})
    if "folded" in args.parts:
        report["folded"] = measure_folded(args)
        print("\nfolded beside base, a picture:", report["folded"])
        clear()
        keep()
    if "concepts" in args.parts:
        report["concepts"] = measure_concepts(args)
        print("\nconcepts early and late:", {k: v for k, v in report["concepts"].items() if k != "tasks"})
    keep()


if __name__ == "__main__":
    main()
