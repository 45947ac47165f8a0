"""How much faster a training step is than a plain loop's, and where its time goes. Ratios in one run.

    python benchmarks/training_step.py [--base mini] [--steps 20] [--out results/training_step.json]

The plain loop encodes its pictures every step and keeps the gradients of the whole U-Net and text encoder, as a first
script would; it trains the same K, V and token at the same batch.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from stamina_lite import concepts, load_base, make_method
from stamina_lite.diffusion.captions import TEMPLATES
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.diffusion.training_noise import target
from stamina_lite.runs.versions import versions


def ours(base: str, method: str, steps: int) -> float:
    """Median seconds of a step of a method, without its start and fold."""
    model, stamps = TextToImage(load_base(base)), []

    def on_step(step, numbers):
        stamps.append(time.perf_counter())

    model.learn(concepts("tune5")[0], make_method(method, steps=steps + 3, batch=8), 0, 1, on_step)
    return statistics.median(b - a for a, b in zip(stamps[2:], stamps[3:], strict=False))


def plain(base: str, steps: int) -> float:
    """Median seconds of a step of the plain loop."""
    pipe = load_base(base)
    unet, vae, text, scheduler = pipe.unet.train(), pipe.vae, pipe.text_encoder, pipe.scheduler
    images = concepts("tune5")[0].load(unet.config.sample_size * pipe.vae_scale_factor).to(unet.device)
    trained = [p for n, p in unet.named_parameters() if ".attn2.to_k" in n or ".attn2.to_v" in n]
    optimizer = torch.optim.AdamW([*trained, text.get_input_embeddings().weight], 1e-4)
    seconds = []
    for _ in range(steps + 3):
        started = time.perf_counter()
        x = images[torch.randint(len(images), (8,))]
        x = vae.encode(x).latent_dist.sample() * vae.config.scaling_factor
        noise, t = torch.randn_like(x), torch.randint(1000, (8,), device=x.device)
        ids = pipe.tokenizer([TEMPLATES[0].format("person")] * 8, padding="max_length", return_tensors="pt").input_ids
        words = text(ids.to(x.device))[0]
        loss = F.mse_loss(unet(scheduler.add_noise(x, noise, t), t, words).sample, target(scheduler, x, noise, t))
        unet.zero_grad()
        text.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[3:])


def profile(base: str) -> list[dict]:
    """The ten operators that take most of the time of ten STAMINA steps, in % of all."""
    model = TextToImage(load_base(base))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
        model.learn(concepts("tune5")[0], make_method("stamina", steps=10, batch=8), 0, 1)
    events = sorted(prof.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    return [{"operator": e.key, "percent": round(100 * e.self_cpu_time_total / total, 1)} for e in events[:10]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="mini")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    loop = plain(args.base, args.steps)
    rows = {"plain loop": {"seconds": loop, "faster": 1.0}}
    for method in ("ti", "lora", "c-lora", "stamina"):
        seconds = ours(args.base, method, args.steps)
        rows[method] = {"seconds": seconds, "faster": loop / seconds}
    for name, row in rows.items():
        print(f"{name:12s} {1 / row['seconds']:6.2f} steps/s   {row['faster']:.2f} x the plain loop")
    report = {"command": "python benchmarks/training_step.py", "batch": 8, "rows": rows, "profile": profile(args.base)}
    for row in report["profile"]:
        print(f"{row['percent']:5.1f} %  {row['operator']}")
    if args.out:
        args.out.write_text(json.dumps({**report, **versions(torch.device("cpu"))}, indent=1) + "\n")


if __name__ == "__main__":
    main()
