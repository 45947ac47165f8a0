"""Cross-attention as pictures: where in an image the U-Net attends to each word of the prompt."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.settings import GUIDANCE
from .sampling import DRAWING_STEPS, Inference


def word_maps(
    model: Inference, prompt: str, seed: int = 0, steps: int = DRAWING_STEPS, guidance: float = GUIDANCE
) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """Generate an image of a prompt and the map of every word over it.

    A map is the softmax of Q K^T for the word's tokens, where Q are the positions of the image and K the hidden states
    of the text: mean over heads, sum over the tokens of the word, mean over cross-attentions and steps (Tang et al.
    2022, DAAM, arXiv 2210.04885, eq. 3 to 5).

    Args:
        seed, steps, guidance: as for `Inference.generate`.

    Returns:
        The image, (3, H, W) in [-1, 1], and the words in order, each with its map (h, w) of the latent's size. Maps of
        all tokens, start, end and padding included, sum to 1 in every place.
    """
    ids = model.tokenize([prompt])[0]
    recorded: list[Tensor] = []
    with _recording(model.unet, recorded):
        image = model.generate([prompt], [seed], steps, guidance)[0]
    side = model.unet.config.sample_size
    total = torch.zeros(len(ids), side, side)
    for probabilities in recorded:  # (positions, tokens)
        small = round(len(probabilities) ** 0.5)
        maps = probabilities.T.reshape(1, len(ids), small, small)
        total += F.interpolate(maps, (side, side), mode="bilinear")[0]
    mean = total / len(recorded)
    return image, [(word, mean[places].sum(0)) for word, places in words_of(model.pipe.tokenizer, ids.tolist())]


def words_of(tokenizer, ids: list[int]) -> list[tuple[str, list[int]]]:
    """The words of a tokenized prompt, each with the positions of its tokens; start, end and padding are left out."""
    end = ids.index(tokenizer.eos_token_id)
    words: list[tuple[str, list[int]]] = []
    whole = True  # whether the last word is complete
    for position in range(1, end):
        token = tokenizer.convert_ids_to_tokens(ids[position])
        text = token.removesuffix("</w>")
        if whole:
            words.append((text, [position]))
        else:
            words[-1] = (words[-1][0] + text, [*words[-1][1], position])
        whole = token.endswith("</w>") or token in tokenizer.get_added_vocab()
    return words


@contextmanager
def _recording(unet, recorded: list[Tensor]) -> Iterator[None]:
    """Inside, every cross-attention appends its probabilities for the prompt, mean over heads: (positions, tokens)."""
    from diffusers.models.attention_processor import AttnProcessor

    def watched(scores, heads: int):
        def get_attention_scores(*args):
            probabilities = scores(*args)  # (batch * heads, positions, tokens); of guidance the prompt comes last
            recorded.append(probabilities[-heads:].float().mean(0).cpu())
            return probabilities

        return get_attention_scores

    processors = unet.attn_processors
    modules = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    unet.set_attn_processor(AttnProcessor())  # fused attention has no probabilities
    for module in modules:
        module.get_attention_scores = watched(module.get_attention_scores, module.heads)
    try:
        yield
    finally:
        for module in modules:
            del module.get_attention_scores
        unet.set_attn_processor(processors)
