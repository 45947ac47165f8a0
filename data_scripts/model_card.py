"""The base model's card: what it was trained on and for how long, its losses, its pictures, and what it cannot do.

    python data_scripts/model_card.py --out stamina_lite/assets/mini --hardware "2 cores" --hours 3

Reads the training log and draws the sheets from the folder that is shipped, in fp32, with the stock pipeline.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from named import FALLS, PEOPLE
from pretrain_diffusion import HELD_OUT, LOG, PROMPTS, draw_prompts, reconstruct, sheet

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# mini: the embedded base model

A Stable Diffusion at a size that two CPU cores can train: 64 px pictures, 16x16x{channels} latents, every part
a stock class. It draws cartoon people and waterfalls, alone or two in a picture, and knows no concept of `mini50` or
`tune5`: their heads, palettes and seeds were kept out of its training, and the words for their landmarks.

| part | class | parameters |
|---|---|---|
| VAE | AutoencoderKL | {vae:.2f} M |
| text encoder | CLIPTextModel, width 128, 3 layers | {text:.2f} M |
| U-Net | UNet2DConditionModel, {kv} K/V matrices of cross-attention | {unet:.2f} M |

**Data.** {pictures:,} pictures drawn by `data_scripts/base_set.py`, captions in a vocabulary of about 90 words
and {names} made-up names, which six subjects of ten have; one caption in ten emptied; {held_out} pictures held out.
The VAE and the first 18,485 steps saw that set as it was before, with strangers only and without the landmarks.
**Training.** `python data_scripts/pretrain_diffusion.py`: VAE {vae_steps:,} steps, its decoder {decoder_steps:,} more,
text encoder and U-Net {unet_steps:,} steps of 16, v-prediction, moving average of the weights.
{language}{hardware}, about {hours} hours. fp16 weights.
**Reconstruction.** {decibel:.2f} dB on the held-out pictures (fp16 weights, PSNR over all pixels).

![Losses](loss.png)

Every hundredth step's loss, and means of ten of them; losses before a curve's first step were not kept.

Two pictures of each of these prompts (20 steps, guidance 3, seed 0; not selected), row by row:

{prompts}

![Samples](samples.png)

Held-out pictures and their reconstructions:

![Reconstructions](reconstructions.png)

**Limits.** It knows its captions' words and nothing else; other words are spelled in bytes and ignored. Faces are
seldom whole, small details (glasses, a landmark, the streaks of a waterfall) often wrong, and two subjects sometimes
share their attributes. A name brings colours, hair, rock and water of the one it belongs to, and often the landmark's
place; it does not bring the face or the landmark's shape.
People are drawn from kits by several artists: see ATTRIBUTION.md of the repository.
"""


def draw_losses(log: dict, file: Path) -> None:
    """Loss of every stage against its steps."""
    stages = {k: [(r["step"], r.get("mse", r.get("loss"))) for r in log[k] if "mse" in r or "loss" in r] for k in log}
    stages = {k: rows for k, rows in stages.items() if rows}
    figure, axes = plt.subplots(1, len(stages), figsize=(3.6 * len(stages), 2.6), constrained_layout=True)
    for axis, (name, rows) in zip(np.atleast_1d(axes), stages.items(), strict=True):
        steps, losses = np.array(rows).T
        axis.plot(steps, losses, color="#0072B2", linewidth=0.8, alpha=0.35)
        if len(rows) >= 20:
            means = np.convolve(losses, np.full(10, 0.1), "valid")
            axis.plot(steps[9:], means, color="#0072B2", linewidth=1.6)
        axis.set(title=name, xlabel="Step", ylabel="Squared error", yscale="log")
    figure.savefig(file, dpi=100)


def millions(model: torch.nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("build/base"))
    parser.add_argument("--out", type=Path, default=Path("stamina_lite/assets/mini"))
    parser.add_argument("--hardware", required=True)
    parser.add_argument("--hours", required=True)
    args = parser.parse_args()
    log = json.loads((args.out / LOG).read_text())
    images = np.load(args.data / "images.npy", mmap_mode="r")
    pipe = StableDiffusionPipeline.from_pretrained(args.out, safety_checker=None).to("cpu", torch.float32)
    decibel, pictures = reconstruct(pipe.vae, torch.from_numpy(images[:HELD_OUT].copy()), "cpu")
    draw_losses(log, args.out / "loss.png")
    sheet(list(draw_prompts(pipe, PROMPTS, 2)), 8, args.out / "samples.png")
    sheet([*images[:16], *pictures[:16]], 16, args.out / "reconstructions.png")
    steps = {k: max((r["step"] for r in rows), default=0) for k, rows in log.items()}
    names = [name for name, _ in pipe.unet.named_modules()]
    anew = [f"{row['step']:,}" for row in log["unet"] if row.get("new_text")]
    language = f"Text encoder, keys and values were begun anew at step {' and '.join(anew)}.\n" if anew else ""
    card = CARD.format(
        channels=pipe.vae.config.latent_channels, vae=millions(pipe.vae), text=millions(pipe.text_encoder),
        unet=millions(pipe.unet), kv=sum(n.endswith(("attn2.to_k", "attn2.to_v")) for n in names),
        pictures=len(images), names=PEOPLE + FALLS, language=language, held_out=HELD_OUT,
        vae_steps=steps["vae"], decoder_steps=steps["decoder"],
        unet_steps=steps["unet"], hardware=args.hardware, hours=args.hours, decibel=decibel,
        prompts="\n".join(f"{k}. {p}" for k, p in enumerate(PROMPTS, 1)),
    )  # fmt: skip
    (args.out / "README.md").write_text(card)
    print(f"{decibel:.2f} dB; wrote {args.out}/README.md")


if __name__ == "__main__":
    main()
