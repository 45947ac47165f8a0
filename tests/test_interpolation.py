"""From one token to another: the ends are the tokens' own images, and the model is unchanged afterwards."""

import pytest
import torch

from stamina_lite.diffusion.interpolation import interpolate_tokens
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.errors import UserError


@pytest.fixture
def model(tiny):
    found = TextToImage(tiny)
    rows = torch.randn(2, found.embedding.weight.shape[1], generator=torch.Generator().manual_seed(0))
    for token, row in zip(("<amber>", "<berry>"), rows, strict=True):
        found.add_token(token, row)
    return found


def test_the_ends_are_the_two_tokens(model):
    images = interpolate_tokens(model, "<amber>", "<berry>", (0, 0.5, 1), seed=3, steps=2)
    alone = model.generate(["a photo of <amber>", "a photo of <berry>"], [3, 3], steps=2)
    assert images.shape == (3, 3, model.size, model.size)
    assert torch.allclose(images[0], alone[0], atol=1e-5) and torch.allclose(images[2], alone[1], atol=1e-5)
    assert (images[1] - images[0]).abs().max() > 1e-3 and (images[1] - images[2]).abs().max() > 1e-3


def test_the_table_is_as_it_was(model):
    before = model.embedding.weight.clone()
    interpolate_tokens(model, "<amber>", "<berry>", (0.5,), steps=2)
    assert torch.equal(model.embedding.weight, before)
    with pytest.raises(UserError, match="steps must be"):
        interpolate_tokens(model, "<amber>", "<berry>", (0.5,), steps=0)
    assert torch.equal(model.embedding.weight, before)


def test_an_unknown_token_is_named(model):
    with pytest.raises(UserError, match="<cyan>.*<amber>, <berry>"):
        interpolate_tokens(model, "<amber>", "<cyan>", (0.5,))
