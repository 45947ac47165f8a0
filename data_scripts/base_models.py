"""The embedded base model's parts: stock diffusers and transformers classes at a size two CPU cores can train.

128 px pictures become 16x16x8 latents. Every level of the U-Net has cross-attention, because its keys and values are
all that a concept may change.
"""

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = 40  # positions of the text encoder; the longest caption of the base set has 31 words
WIDTH = 128  # width of the text features the cross-attention reads
# Deviation of a new text encoder's rows. At CLIP's 0.02 its layers soon outweigh the rows by far, the last norm leaves
# next to nothing of word and place, and keys and values have little to tell 40 positions apart by.
EMBEDDING = 0.3


def make_vae(channels: int = 8) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


def make_unet(channels: int = 8) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=EMBEDDING)
    return model


def make_scheduler() -> DDIMScheduler:
    """Cosine schedule down to no signal at all, so that flat backgrounds get the colour the prompt asks for."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def make_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """A real CLIP tokenizer: every word of the captions is one token, any other text is spelled in bytes."""
    words = sorted({word for caption in captions for word in caption.replace(",", " ,").split()})
    merges = learn_merges(words)
    letters = list(byte_letters())
    pieces = [*letters, *(b + "</w>" for b in letters), *("".join(m) for m in merges)]
    vocabulary = {piece: k for k, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": WORDS, "do_lower_case": True, **special}, indent=2
        )
    )
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    spelled = [word for word in words if len(tokenizer.tokenize(word)) != 1]
    if spelled:
        raise AssertionError(f"words that are not one token: {spelled}")
    return tokenizer


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding carried on until every word is one piece; of equally frequent pairs the first by alphabet."""
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in words]
    counts, where = Counter(), defaultdict(set)
    for k, spelling in enumerate(spellings):
        for pair in pairwise(spelling):
            counts[pair] += 1
            where[pair].add(k)
    merges = []
    while counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for k in where.pop(best):
            counts.subtract(pairwise(spellings[k]))
            spellings[k] = merged(spellings[k], best)
            for pair in pairwise(spellings[k]):
                counts[pair] += 1
                where[pair].add(k)
        counts = +counts  # without pairs that are no more
    return merges


def merged(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    out = []
    for piece in spelling:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def byte_letters() -> list[str]:
    """The 256 printable characters that stand for the bytes in CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [256 + k for k in range(256 - len(plain))]
    return [chr(k) for k in [*plain, *shifted]]


@torch.no_grad()
def latents_of(vae: AutoencoderKL, images: torch.Tensor, batch: int = 5) -> torch.Tensor:
    """Mean latents of (n, H, W, 3) uint8 pictures, unscaled: (n, C, H/8, W/8)."""
    parts = [vae.encode(pixels(part)).latent_dist.mean.float() for part in images.split(batch)]
    return torch.cat(parts)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W) float in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)
