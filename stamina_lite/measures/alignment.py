"""Scores of single images, as papers on customisation report them: alignment with real images and with text."""

from torch import Tensor


def image_alignment(generated: Tensor, references: Tensor) -> float:
    """Mean cosine of all pairs of a generated and a real image of a concept; higher is better.

    CLIP-I with features of CLIP, DINO with those of DINO (Ruiz et al. 2023, DreamBooth, arXiv 2208.12242, sec. 4.2).

    Args:
        generated: (n, d), unit rows.
        references: (m, d), unit rows.
    """
    return (generated.double() @ references.double().T).mean().item()


def text_alignment(generated: Tensor, texts: Tensor) -> float:
    """Mean cosine of every image and the text that it was generated from; higher is better. CLIP-T with CLIP.

    Args:
        generated: (n, d), unit rows.
        texts: (n, d) or (1, d), unit rows in the same space, see `Clip.text`. A concept's token means nothing to CLIP:
            leave it out of the text, or write its class instead.
    """
    return (generated.double() * texts.double()).sum(1).mean().item()
