"""A tiny Stable Diffusion of the real classes, and concepts drawn on the spot: nothing here is a mock."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


def build_tiny_pipeline(folder, prediction: str = "epsilon", size: int = 32, widths: tuple = (16, 32)):
    """UNet of 32-64 channels with 8 K/V matrices, 16x16 latents of 32 px pictures; the folder it was written to.

    size: pixels a side; widths: of the VAE's blocks, each but the last of which halves it.
    """
    from base_models import make_tokenizer
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    words = "a photo of person waterfall with red blue hair on the picture image drawing an in front next to"
    tokenizer = make_tokenizer([words], folder / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=40, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=size // 2 ** (len(widths) - 1), block_out_channels=(32, 64), layers_per_block=1,
        cross_attention_dim=32, attention_head_dim=2,
        norm_num_groups=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * len(widths), sample_size=size,
        up_block_types=("UpDecoderBlock2D",) * len(widths), layers_per_block=1, norm_num_groups=8,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type=prediction),
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return build_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_folder):
    """A fresh tiny pipeline for every test, on the CPU."""
    from stamina_lite import load_base

    return load_base(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A user's folder of three concepts, four 40 px pictures each: coloured squares, told apart by colour and place."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in (("amber", (230, 160, 20)), ("berry", (150, 20, 80)), ("cyan-cup", (20, 170, 190))):
        (root / name).mkdir()
        for k in range(4):
            picture = np.full((40, 40, 3), 235, np.uint8)
            y, x = rng.integers(4, 16, 2)
            picture[y : y + 18, x : x + 18] = colour
            Image.fromarray(picture).save(root / name / f"{k}.png")
    return root


@pytest.fixture(scope="session")
def patches():
    """A set of six classes, each a pattern of 4x4 colours with noise, 32 px: 12 training, 6 test pictures a class."""
    from stamina_lite.classification.datasets import ClassDataset, TensorImages

    draw = torch.Generator().manual_seed(0)
    patterns = 255 * torch.rand(6, 3, 4, 4, generator=draw)

    def half(each: int) -> TensorImages:
        labels = torch.arange(6).repeat_interleave(each)
        images = torch.nn.functional.interpolate(patterns[labels], size=32)
        images = images + 20 * torch.randn(images.shape, generator=draw)
        return TensorImages(images.clamp(0, 255).byte(), labels)

    return ClassDataset("patches", [f"pattern {k}" for k in range(6)], half(12), half(6))


@pytest.fixture
def vit():
    """A stock timm ViT of five small blocks for 32 px pictures; always the same weights."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 5, "num_heads": 2, "num_classes": 0}
        made = timm.create_model("vit_tiny_patch16_224", **shape)
    made.pretrained_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "input_size": (3, 32, 32)}
    return made


@pytest.fixture
def small_sets(monkeypatch):
    """Real sets of three concepts a half, and no pauses."""
    monkeypatch.setattr("real_sets.COUNT", 3)
    monkeypatch.setattr("downloads.PAUSE", 0.0)
