"""Pictures as the U-Net is trained on them: latents, and what may be said of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}")
PROMPT = TEMPLATES[0]


@dataclass
class CaptionedLatents:
    """Encoded pictures and their captions."""

    latents: Tensor  # (n, C, h, w), scaled, fp32
    captions: list[str]  # all different
    said: Tensor  # (n, k), which captions fit picture i

    def pick(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n pictures drawn with replacement, and for each one of its captions: (n, C, h, w), (n,)."""
        i = torch.randint(len(self.latents), (n,), generator=generator)
        k = torch.randint(self.said.shape[1], (n,), generator=generator)
        return self.latents[i.to(self.latents.device)], self.said[i, k]


def caption_with_templates(latents: Tensor, subjects: Sequence[str]) -> CaptionedLatents:
    """Pictures of subjects, one for each latent, of which every template may be told."""
    distinct = list(dict.fromkeys(subjects))
    captions = [template.format(subject) for subject in distinct for template in TEMPLATES]
    first = torch.tensor([distinct.index(subject) * len(TEMPLATES) for subject in subjects])
    return CaptionedLatents(latents, captions, first[:, None] + torch.arange(len(TEMPLATES)))
