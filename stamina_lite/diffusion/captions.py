"""Encoded images with their captions: the training data of the U-Net."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}")
PROMPT = TEMPLATES[0]


@dataclass
class CaptionedLatents:
    """Encoded images, each with k captions that describe it."""

    latents: Tensor  # (n, C, h, w), scaled, fp32
    captions: list[str]  # all different
    caption_ids: Tensor  # (n, k), indices into `captions` for each image

    def pick(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sample n images with replacement and one caption for each: latents (n, C, h, w), caption indices (n,)."""
        i = torch.randint(len(self.latents), (n,), generator=generator)
        k = torch.randint(self.caption_ids.shape[1], (n,), generator=generator)
        return self.latents[i.to(self.latents.device)], self.caption_ids[i, k]


def caption_with_templates(latents: Tensor, subjects: Sequence[str]) -> CaptionedLatents:
    """Caption images with every template of TEMPLATES.

    Args:
        latents: (n, C, h, w).
        subjects: what each image shows, n words such as "<person-03>".
    """
    distinct = list(dict.fromkeys(subjects))
    captions: list[str] = []
    for subject in distinct:
        captions += [template.format(subject) for template in TEMPLATES]
    first_ids = torch.tensor([distinct.index(subject) * len(TEMPLATES) for subject in subjects])
    return CaptionedLatents(latents, captions, first_ids[:, None] + torch.arange(len(TEMPLATES)))
