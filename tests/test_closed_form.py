"""The closed forms against what they are the solution of."""

from functools import partial

import pytest
import torch
from torch import nn

from stamina_lite.methods.closed_form import fisher_diagonal, merge


def test_the_fisher_diagonal_is_exact_on_a_tiny_model():
    """Against the whole matrix E[g gᵀ], one Jacobian row a sample; the square of the mean gradient is another thing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = torch.randn(7, 4).double(), torch.randn(7, 2).double()
    weights = [model[0].weight, model[2].bias]
    losses = [lambda i=i: (model(x[i]) - y[i]).square().sum() for i in range(7)]
    found = fisher_diagonal(losses, weights)

    def each(first, last):
        parts = dict(model.named_parameters()) | {"0.weight": first, "2.bias": last}
        return (torch.func.functional_call(model, parts, (x,)) - y).square().sum(1)

    rows = torch.cat([j.flatten(1) for j in torch.autograd.functional.jacobian(each, tuple(weights))], 1)  # (7, 14)
    exact = (rows.T @ rows / 7).diagonal()
    assert torch.allclose(torch.cat([f.flatten() for f in found]), exact, rtol=1e-9)
    assert [f.shape for f in found] == [w.shape for w in weights] and (exact > 0).all()
    assert not torch.allclose(rows.mean(0).square(), exact, rtol=0.1)


def test_in_fp16_the_fisher_diagonal_is_of_scaled_losses():
    """Small gradients whose squares fp16 has no numbers for, and then large ones that the first scale is too much for;
    a loss is asked for once, since it may draw."""
    weight, asked = torch.zeros(2, dtype=torch.float16, requires_grad=True), []

    def loss(slope):
        asked.append(slope)
        return (weight * torch.tensor([slope, -slope / 2], dtype=torch.float16)).sum()

    for slopes in ((1e-5, 1e-5), (1e-5, 8.0)):
        (found,) = fisher_diagonal([partial(loss, slope) for slope in slopes], [weight])
        exact = sum(slope**2 for slope in slopes) / 2 * torch.tensor([1, 0.25])
        assert found.dtype == torch.float32 and torch.allclose(found, exact, rtol=0.02, atol=0)
    assert asked == [1e-5, 1e-5, 1e-5, 8.0]


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(0)
    weight, kept = torch.randn(5, 8, generator=g).double(), torch.randn(40, 8, generator=g).double()
    return weight, kept, torch.randn(3, 8, generator=g).double(), torch.randn(3, 5, generator=g).double()


def test_merge_is_custom_diffusions_formula(problem):
    """W0 + (V - W0 Cᵀ)(d Cᵀ)⁻¹ d, d = C (C_regᵀ C_reg)⁻¹, written out with plain inverses."""
    w, c_reg, c, v = problem
    d = c @ torch.linalg.inv(c_reg.T @ c_reg)
    expected = w + (v.T - w @ c.T) @ torch.linalg.inv(d @ c.T) @ d
    assert torch.allclose(merge(w, c_reg, c, v, ridge=0.0), expected, atol=1e-10)
    assert (expected - w).abs().max() > 0.1


def test_merge_meets_its_constraint_at_the_least_cost(problem):
    w, c_reg, c, v = problem
    found = merge(w, c_reg, c, v, ridge=0.0)
    assert torch.allclose(found @ c.T, v.T, atol=1e-9) and not torch.allclose(w @ c.T, v.T, atol=0.1)
    cost = ((found - w) @ c_reg.T).norm()
    free = torch.eye(8).double() - torch.linalg.pinv(c) @ c  # directions that leave the constraint alone
    for seed in range(20):
        other = found + 0.1 * torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)).double() @ free
        assert torch.allclose(other @ c.T, v.T, atol=1e-8) and ((other - w) @ c_reg.T).norm() > cost


def test_merge_of_keys_that_depend_on_each_other_stays_finite(problem):
    w, c_reg, c, v = problem
    twice = merge(w, c_reg, torch.cat([c, c]), torch.cat([v, v]))
    assert torch.allclose(twice @ c.T, v.T, atol=1e-3)
    apart = merge(w, c_reg, torch.cat([c, c]), torch.cat([v, v + 1]))  # no matrix can do both: half way
    assert torch.allclose(apart @ c.T, v.T + 0.5, atol=1e-2)


def test_a_ridge_keeps_a_merge_small_where_no_word_reaches(problem):
    w, c_reg, c, v = problem
    flat = c_reg.clone()
    flat[:, 4:] = 1e-6 * flat[:, 4:]  # kept features all but fill a subspace
    assert merge(w, flat, c, v).isfinite().all()
    assert torch.allclose(merge(w, flat, c, v) @ c.T, v.T, atol=1e-3)
