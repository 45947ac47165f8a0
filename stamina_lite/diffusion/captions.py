"""Encoded images with their captions: what the U-Net is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}")
PROMPT = TEMPLATES[0]


@dataclass
class CaptionedLatents:
    """Encoded images and the captions that fit each of them."""

    latents: Tensor  # (n, C, h, w), scaled, fp32
    captions: list[str]  # all different
    caption_ids: Tensor  # (n, k), indices of the captions that fit image i

    def pick(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample n images with replacement and one caption for each: latents (n, C, h, w), caption indices (n,)."""
        i = torch.randint(len(self.latents), (n,), generator=generator)
        k = torch.randint(self.caption_ids.shape[1], (n,), generator=generator)
        return self.latents[i.to(self.latents.device)], self.caption_ids[i, k]


def caption_with_templates(latents: Tensor, subjects: Sequence[str]) -> CaptionedLatents:
    """Caption images of subjects, one subject for each latent, with every template."""
    distinct = list(dict.fromkeys(subjects))
    captions = [template.format(subject) for subject in distinct for template in TEMPLATES]
    first = torch.tensor([distinct.index(subject) * len(TEMPLATES) for subject in subjects])
    return CaptionedLatents(latents, captions, first[:, None] + torch.arange(len(TEMPLATES)))
