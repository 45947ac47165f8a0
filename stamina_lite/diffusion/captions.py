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


def caption_with_templates(
    latents: Tensor, subjects: Sequence[str], written: Sequence[str | None] = ()
) -> CaptionedLatents:
    """Caption images with every template of TEMPLATES, or with their own caption.

    Args:
        latents: (n, C, h, w).
        subjects: what each image shows, n words such as "<person-03>".
        written: n captions with {} in place of the subject, or None for templates; by default templates for all.
    """
    captions: dict[str, int] = {}  # caption -> its index
    caption_ids = []
    for subject, own in zip(subjects, written or [None] * len(subjects), strict=True):
        templates = (own,) * len(TEMPLATES) if own else TEMPLATES
        texts = [template.replace("{}", subject) for template in templates]
        caption_ids.append([captions.setdefault(text, len(captions)) for text in texts])
    return CaptionedLatents(latents, [*captions], torch.tensor(caption_ids))
