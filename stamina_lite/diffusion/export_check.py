"""Verification of an export: what stock code has loaded is compared with our model."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.layers import AdaptedWeight
from ..core.seeds import Stream, seeded
from ..runs.verified import TOLERANCE, Verified, check_difference


@dataclass(frozen=True)
class Components:
    """The components of a pipeline that are compared, in fp32: half precision would only show rounding errors."""

    unet: Any
    text_encoder: Any
    tokenizer: Any


def to_fp32(pipe, layers: Iterable[AdaptedWeight] = ()) -> Components:
    """Convert a pipeline's components to fp32; those that are fp32 already are not copied.

    Args:
        layers: adapted weights of the U-Net, whose fp32 values replace the rounded ones in the copy.
    """

    def convert(model):
        return model if model.dtype == torch.float32 else copy.deepcopy(model).float()

    unet = convert(pipe.unet)
    for layer in layers if unet is not pipe.unet else ():
        unet.get_submodule(layer.name).weight.data.copy_(layer.current)
    return Components(unet, convert(pipe.text_encoder), pipe.tokenizer)


@torch.no_grad()
def answers(pipe, prompts: list[str], words: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute outputs of the text encoder and of the U-Net for fixed noise.

    Args:
        pipe: a pipeline or `Components`.
        words: hidden states (n, positions, width) to use in place of the text encoder's outputs for the prompts.

    Returns:
        The hidden states (n, positions, width), and the U-Net's outputs (n, C, h, w).
    """
    unet, text_encoder = pipe.unet, pipe.text_encoder
    if words is None:
        ids = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        words = text_encoder(ids.to(text_encoder.device))[0]
    side = min(unet.config.sample_size, 16)  # large enough to reach every layer, and fast for any model
    noise = torch.randn(1, unet.config.in_channels, side, side, generator=seeded(0, Stream.EXPORT)).to(words)
    outputs = [unet(noise, torch.tensor([500], device=noise.device), row[None]).sample for row in words]
    return words, torch.cat(outputs)


def compare(
    models: dict[str, Components],
    prompts: list[str],
    loaded: str,
    hidden_states: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Verified:
    """Compare the outputs of the stock model with ours, and ours with the base.

    Args:
        models: "ours", "stock" and "base".
        loaded: what stock code has loaded, in words.
        hidden_states: (n, positions, width), given to all U-Nets; text encoders are then not compared.

    Raises:
        RuntimeError: the stock model differs from ours.
    """
    our_states, ours = answers(models["ours"], prompts, hidden_states)
    stock_states, stock = answers(models["stock"], prompts, hidden_states)
    difference = max((stock - ours).abs().max().item(), (stock_states - our_states).abs().max().item())
    effect = (answers(models["base"], prompts, hidden_states)[1] - ours).abs().max().item()
    return check_difference(Verified(loaded, difference, effect), tolerance, ours.abs().max().item())
