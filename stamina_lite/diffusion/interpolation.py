"""From one learned token to another: images of points on the line between their embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .captions import PROMPT
from .model import TextToImage


@torch.no_grad()
def interpolate_tokens(
    model: TextToImage, first: str, second: str, shares: Sequence[float], seed: int = 0, prompt: str = PROMPT, **options
) -> Tensor:
    """Generate an image for every row e = (1 - share) e_first + share e_second of the embedding table.  [ours]

    All images start from the same noise, so that only the embedding differs between them. The table is afterwards as it
    was.

    Args:
        first, second: learned tokens, such as "<person-01>".
        shares: of the second token, usually 0 to 1.
        seed: of the noise.
        prompt: a text with {} where the token belongs.
        options: of `Inference.generate`.

    Returns:
        (n, 3, H, W) in [-1, 1], an image for each share.

    Raises:
        UserError: the model has not learned one of the tokens.
    """
    unknown = [token for token in (first, second) if token not in model.token_ids]
    if unknown:
        learned = ", ".join(model.token_ids) or "none"
        raise UserError(f"unknown token {unknown[0]}: this model has learned {learned}")
    start, end = (model.embedding.weight[model.token_ids[token]].clone() for token in (first, second))
    images = []
    try:
        for share in shares:
            model.add_token(first, torch.lerp(start.float(), end.float(), share))
            images.append(model.generate([prompt.format(first)], [seed], **options))
    finally:
        model.add_token(first, start)
    return torch.cat(images)
