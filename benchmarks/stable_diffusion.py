"""Stable Diffusion 1.5 in its exact shapes, with random weights and without the hub: every part a stock class.

    python benchmarks/stable_diffusion.py FOLDER [--shape sd15] [--dtype bfloat16]     writes it as a diffusers folder

What a step takes in time and memory does not depend on what the weights say, so this serves where those of the real
model cannot be had. The shape `tiny` has the same parts in small.
"""

import argparse
import itertools
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "data_scripts"))
import base_models  # noqa: E402

WORDS = "a photo of person waterfall picture an image drawing the in front next to"  # tokens of their own
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """Sizes of the three models, by the names of their classes' own options."""

    unet: dict
    vae: dict
    text: dict


SHAPES = {
    "sd15": Shape(
        unet={
            "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
            "cross_attention_dim": 768, "attention_head_dim": 8, "norm_num_groups": 32,
            "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        },
        vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
        text={
            "vocab_size": 49_408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "max_position_embeddings": 77,
        },
    ),
    "tiny": Shape(
        unet={
            "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1,
            "cross_attention_dim": 32, "attention_head_dim": 2, "norm_num_groups": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        vae={"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8},
        text={
            "vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 40,
        },
    ),
}  # fmt: skip


def make_models(shape: str, device="cpu", latent: int | None = None) -> dict[str, torch.nn.Module]:
    """U-Net, VAE and text encoder with random weights; latent: side of the latents, where not the shape's own."""
    sizes = SHAPES[shape]
    unet = {**sizes.unet, "sample_size": latent or sizes.unet["sample_size"]}
    levels = len(sizes.vae["block_out_channels"])
    entries = sizes.text["vocab_size"]
    special = {"bos_token_id": entries - 2, "eos_token_id": entries - 1, "pad_token_id": entries - 1}
    torch.manual_seed(0)
    with torch.device(device):
        return {
            "unet": UNet2DConditionModel(**unet),
            "vae": AutoencoderKL(
                **sizes.vae,
                latent_channels=4,
                sample_size=unet["sample_size"] * 2 ** (levels - 1),
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes.text, **special, hidden_act="quick_gelu")),
        }


def build(shape: str, device="cpu", dtype=torch.float32, latent: int | None = None) -> StableDiffusionPipeline:
    """The pipeline, always with the same weights; on the device "meta" it has shapes only."""
    models = make_models(shape, device, latent)
    for model in models.values():
        torch.nn.Module.to(model, dtype)  # diffusers' own `to` warns whatever the model is
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        **models, tokenizer=make_tokenizer(shape), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def make_tokenizer(shape: str) -> CLIPTokenizer:
    """A real CLIP tokenizer of the shape's size: WORDS are whole, the rest of it are invented words of two letters."""
    sizes = SHAPES[shape].text
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base_models.make_tokenizer([WORDS], folder)
        pieces = [*json.loads((folder / "vocab.json").read_text(encoding="utf-8"))]
        *pieces, start, end = pieces  # the two special tokens come last, as in CLIP's own vocabulary
        letters = base_models.byte_letters()
        known, missing = {*pieces}, sizes["vocab_size"] - len(pieces) - 2
        pairs = ((a, b + "</w>") for a, b in itertools.product(letters, letters))
        invented = [*itertools.islice((pair for pair in pairs if "".join(pair) not in known), missing)]
        pieces += [*map("".join, invented), start, end]
        vocabulary = {piece: k for k, piece in enumerate(pieces)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        with open(folder / "merges.txt", "a", encoding="utf-8") as merges:
            merges.writelines(f"{a} {b}\n" for a, b in invented)
        return CLIPTokenizer.from_pretrained(folder, model_max_length=sizes["max_position_embeddings"])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="sd15", choices=SHAPES)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    args = parser.parse_args(argv)
    build(args.shape, dtype=DTYPES[args.dtype]).save_pretrained(args.folder)


if __name__ == "__main__":
    main()
