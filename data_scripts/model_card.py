"""The base model's card: what it was trained on and for how long, its losses, its pictures, and what it cannot do.

    python data_scripts/model_card.py --out stamina_lite/assets/mini --hardware "2 cores" --hours 3 --whole 37

Reads the training log and draws the sheets from the folder that is shipped, with the stock pipeline. --whole: how many
of the forty people on faces.png have two eyes, a mouth and hair of the colour asked for, counted by eye.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from base_set import CHUNK, BaseSet
from diffusers import StableDiffusionPipeline
from named import FALLS, PEOPLE
from PIL import Image
from pretrain_diffusion import HELD_OUT, LOG, PROMPTS, draw_prompts, reconstruct, sheet

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# mini: the embedded base model

A Stable Diffusion at a size that two CPU cores can train: {size} px pictures, {latents}x{latents}x{channels} latents,
every part a stock class. It draws cartoon people and waterfalls, alone or two in a picture. It knows no concept of
`mini50`: their hair, rock palettes and seeds, and the words for their landmarks, were kept out of its training.

| part | class | parameters | stored as |
|---|---|---|---|
| VAE | AutoencoderKL | {vae:.2f} M | fp16 |
| text encoder | CLIPTextModel, width 128, 3 layers | {text:.2f} M | fp32 |
| U-Net | UNet2DConditionModel, {kv} K/V matrices of cross-attention | {unet:.2f} M | fp16 |

**Data.** {pictures:,} pictures drawn by `data_scripts/base_set.py`, captions of about 70 words and {names} made-up
names, which six subjects of ten have; one caption in ten emptied; {held_out} pictures held out.
**Training.** `python data_scripts/pretrain_diffusion.py`, v-prediction, min-SNR weights, moving average of the
weights. VAE and U-Net began with a wider world (seven drawing kits, larger differences in size and tilt): the VAE on
48,000 pictures in three minutes of one H100, text encoder and U-Net on 1.23 million samples in six. Then on this
world: {samples:.2f} million samples of text encoder and U-Net, {decoder_steps:,} steps of the VAE's decoder, on
{hardware}, about {hours} hours. Held-out loss {first:.3f} before and {last:.3f} after.
**Reconstruction.** {decibel:.2f} dB on the held-out pictures (PSNR over all pixels).
**Whole faces.** {whole} of the forty people below have two eyes, a mouth and hair of the colour asked for (counted by
eye).

![Forty people, of captions held out](faces.png)

![Losses](loss.png)

Every hundredth step's loss, and means of ten of them, since training on this world began.

Two pictures of each of these prompts (20 steps, guidance 3, seed 0; not selected), row by row:

{prompts}

![Samples](samples.png)

Held-out pictures and their reconstructions:

![Reconstructions](reconstructions.png)

**Limits.** It knows its captions' words and nothing else; other words are spelled in bytes and ignored. Small details
(the arms of glasses, a landmark's shape, the streaks of a waterfall) are often wrong, and two subjects sometimes share
their attributes. The wider world had shown the hair of nine of the ten people of `tune20`; this one never did.
People are drawn from kits by two artists: see ATTRIBUTION.md of the repository.
"""
FACES = 40


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
    parser.add_argument("--whole", required=True, help="faces of faces.png that are whole")
    args = parser.parse_args()
    log = json.loads((args.out / LOG).read_text(encoding="utf-8"))
    base = BaseSet(args.data)
    base.refresh()
    pipe = StableDiffusionPipeline.from_pretrained(args.out, safety_checker=None)
    decibel, pictures = reconstruct(pipe.vae, torch.from_numpy(base.images[:HELD_OUT].copy()), "cpu")
    pipe.vae.eval()
    draw_losses(log, args.out / "loss.png")
    save(list(draw_prompts(pipe, PROMPTS, 2)), 8, args.out / "samples.png")
    save(list(draw_prompts(pipe, people_held_out(base), 1)), 10, args.out / "faces.png")
    save([*base.images[:12], *pictures[:12]], 12, args.out / "reconstructions.png")
    losses = [row["held_out"] for row in log["unet"] if "held_out" in row]
    samples = [row["samples"] for row in log["unet"] if "samples" in row]
    names = [name for name, _ in pipe.unet.named_modules()]
    card = CARD.format(
        size=pipe.vae.config.sample_size, latents=pipe.unet.config.sample_size,
        channels=pipe.vae.config.latent_channels,
        vae=millions(pipe.vae), text=millions(pipe.text_encoder), unet=millions(pipe.unet),
        kv=sum(n.endswith(("attn2.to_k", "attn2.to_v")) for n in names), pictures=len(base.images),
        names=PEOPLE + FALLS, held_out=HELD_OUT, samples=(samples[-1] - samples[0]) / 1e6,
        first=losses[0], last=losses[-1], decoder_steps=max((row["step"] for row in log["decoder"]), default=0),
        hardware=args.hardware, hours=args.hours, decibel=decibel, whole=args.whole,
        prompts="\n".join(f"{k}. {p}" for k, p in enumerate(PROMPTS, 1)),
    )  # fmt: skip
    (args.out / "README.md").write_text(card, encoding="utf-8")
    print(f"{decibel:.2f} dB; wrote {args.out}/README.md")


def people_held_out(base: BaseSet) -> list[str]:
    """Captions of the first forty held-out pictures of a single person with attributes."""
    captions = [base.captions(k // CHUNK)[k % CHUNK] for k in range(HELD_OUT)]
    found = [c for c in captions if " person with " in c and " next to " not in c and " in front of " not in c]
    return found[:FACES]


def save(pictures: list, columns: int, file: Path) -> None:
    """A sheet of 256 colours, to keep the package small."""
    sheet(pictures, columns, file)
    Image.open(file).quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main()
