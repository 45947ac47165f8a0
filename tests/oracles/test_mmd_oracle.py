"""MMD² and KID against torchmetrics and clean-fid, which both assume equal sample sizes."""

import pytest
import torch
from cleanfid.fid import kernel_distance
from torchmetrics.image.kid import poly_mmd

from stamina_lite.measures.mmd import kid, mmd2


@pytest.fixture
def pair():
    """Two samples of unit vectors that differ: (20, 32) each."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20, 32, generator=generator).double()
    return torch.nn.functional.normalize(x), torch.nn.functional.normalize(y + 0.5)


def test_cubic_mmd2_is_torchmetrics(pair):
    x, y = pair
    assert mmd2(x, y) == pytest.approx(poly_mmd(x, y, degree=3, gamma=1.0, coef=1.0).item(), abs=1e-12)
    assert mmd2(x, y) > 0.05


def test_kid_is_torchmetrics_and_cleanfid(pair):
    x, y = pair
    assert kid(x, y) == pytest.approx(poly_mmd(x, y).item(), abs=1e-12)
    assert kid(x, y) == pytest.approx(kernel_distance(x.numpy(), y.numpy(), num_subsets=1), abs=1e-12)
    assert kid(x, y) > 1e-3


def test_kid_on_features_that_are_not_normalised(pair):
    x, y = (7 * rows for rows in pair)
    assert kid(x, y) == pytest.approx(kernel_distance(x.numpy(), y.numpy(), num_subsets=1), abs=1e-12)
    assert kid(x, y) > 0.1
