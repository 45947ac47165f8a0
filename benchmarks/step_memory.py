"""What a training step holds in memory at its peak, counted without computing it, on the device "meta".

    python benchmarks/step_memory.py --out results/step_memory.json
    python benchmarks/step_memory.py --compute stamina --batches 1

The second holds the count of a method against a task that is computed, on a CPU in fp32.

Counted is every tensor from its making to its end: weights, what the backward pass needs, gradients, the optimizer's
two moments. Not counted is what a device holds beside tensors: its context, work space of kernels, gaps between blocks.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from memory_tracker import MemoryTracker
from stable_diffusion import SHAPES, build, make_models
from step_arithmetic import flash, inputs, task
from step_tables import memory_table
from stock_loops import LOOPS, make_loop
from torch import Tensor

from stamina_lite import concepts, make_method
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.runs.files import write_json
from stamina_lite.runs.versions import versions

METHODS = ("ti++", "lora", "c-lora", "stamina")
KINDS = "counted", "computed"


def peak(make: Callable[[], tuple[Callable[[], None], list[Tensor]]]) -> int:
    """Bytes at the peak of two steps of AdamW; make() gives what makes the gradients, and of what. All of it counts."""
    with MemoryTracker() as memory, flash():
        backward, trained = make()
        optimizer = torch.optim.AdamW(trained)
        memory.peak = memory.current  # building, weights are there in two precisions for a while
        for _ in range(2):
            optimizer.zero_grad()
            backward()
            optimizer.step()
        return memory.peak


def floor(shape: str, batch: int, dtype: torch.dtype, latent: int | None = None) -> int:
    """The frozen U-Net alone, forward, and backward to its words."""

    def make():
        unet = make_models(shape, "meta", latent)["unet"].requires_grad_(False)
        torch.nn.Module.to(unet, dtype)
        given = inputs(unet, batch, SHAPES[shape].text["max_position_embeddings"])
        return lambda: unet(*given).sample.float().square().mean().backward(), [given[-1]]

    return peak(make)


def ours(name: str, shape: str, batch: int, dtype: torch.dtype, latent=None, checkpointing: bool = False) -> int:
    """A step of one of our methods in a task that has a past, the whole pipeline in memory."""

    def make():
        pipe = build(shape, "meta", dtype, latent)
        unet, text = (model.requires_grad_(False) for model in (pipe.unet, pipe.text_encoder))
        if checkpointing:
            unet.enable_gradient_checkpointing()
        adaptation, words, trained = task(name, unet, text, batch)
        masks = [layer.adapter.mask for layer in adaptation.adapted if hasattr(layer.adapter, "mask")]
        x, t, _ = inputs(unet, batch, 1)

        def backward():
            for mask in masks:
                mask.noise = torch.empty(mask.shape, device="meta")
            with adaptation.cached():
                error = unet(x, t, words().to(dtype)).sample.float().square().mean()
                torch.stack([error, *adaptation.penalties()]).sum().backward()

        backward.pipe = pipe  # with all that a step does not use
        return backward, trained

    return peak(make)


def computed(name: str, shape: str, batch: int, latent: int | None = None) -> int:
    """The peak of a whole second task of one of our methods, learned on a CPU in fp32: what `ours` counts a step of."""
    first, second = concepts("mini50", count=2)
    with MemoryTracker() as memory:
        model = TextToImage(build(shape, torch.device("cpu"), latent=latent))
        model.learn(first, make_method(name, steps=1, batch=batch), 0, 1)
        memory.peak = memory.current
        model.learn(second, make_method(name, steps=2, batch=batch), 0, 2)
        return memory.peak


def stock(name: str, shape: str, batch: int, latent: int | None = None) -> int:
    """A step of a published loop, in fp32: its autocast knows no device "meta"."""

    def make():
        pipe = build(shape, "meta", latent=latent)
        size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        loop = make_loop(name, pipe, torch.empty(2 * batch, 3, size, size, device="meta"))
        return lambda: loop.loss().backward(), loop.trained

    return peak(make)


def count(shape: str, batches: list[int]) -> dict:
    """Bytes by row and kind: half or full precision, the batch, and whether gradients are checkpointed."""
    rows = {name: {} for name in ("floor", *METHODS, *LOOPS)}
    for batch in batches:
        for kind, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            rows["floor"][f"{kind}, batch {batch}"] = floor(shape, batch, dtype)
            for name in METHODS:
                rows[name][f"{kind}, batch {batch}"] = ours(name, shape, batch, dtype)
        for name in METHODS:
            checkpointed = ours(name, shape, batch, torch.bfloat16, checkpointing=True)
            rows[name][f"bf16, batch {batch}, checkpointing"] = checkpointed
        for name in LOOPS:
            rows[name][f"fp32, batch {batch}"] = stock(name, shape, batch)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="sd15", choices=SHAPES)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--compute", choices=METHODS, help="only this method, counted and computed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.compute:
        for batch in args.batches:
            peaks = ours(args.compute, args.shape, batch, torch.float32), computed(args.compute, args.shape, batch)
            sizes = " GiB, ".join(f"{kind} {size / 2**30:.3f}" for kind, size in zip(KINDS, peaks, strict=True))
            print(f"{args.compute}, batch {batch}: {sizes} GiB")
        return
    report = {"shape": args.shape, "rows": count(args.shape, args.batches)}
    report["versions"] = versions(torch.device("cpu"))["versions"]
    print(memory_table(report))
    if args.out:
        write_json(args.out, report)


if __name__ == "__main__":
    main()
