import pytest
import torch
from torch import nn

from stamina_lite.core.adapters import LowRank, MaskedLowRank
from stamina_lite.core.layers import AdaptedWeight, layers_of
from stamina_lite.core.masks import FactorMask, FreeMask, MLPMask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(adapter):
    """An adapter whose zero factor was moved, as training would."""
    with torch.no_grad():
        adapter.A.normal_(generator=generator(7))
    return adapter


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return AdaptedWeight("layer", nn.Linear(6, 10, bias=False))


MASKS = [MLPMask, FactorMask, FreeMask]


def test_first_step_changes_nothing_and_later_ones_do(layer):
    x = torch.randn(3, 6, generator=generator())
    before = layer.module(x).clone()
    layer.attach(LowRank(layer.current, 4, generator()))
    assert torch.equal(layer.module(x), before)
    filled(layer.adapter)
    assert not torch.allclose(layer.module(x), before)


def test_forward_is_the_equation(layer):
    adapter = filled(MaskedLowRank(layer.current, 4, MLPMask(layer.current.shape, generator=generator()), generator()))
    layer.attach(adapter.eval())
    x = torch.randn(3, 6, generator=generator())
    expected = x @ (layer.start + (adapter.A @ adapter.B) * adapter.mask()).T
    assert torch.allclose(layer.module(x), expected, atol=1e-6)
    assert 0 < adapter.mask().mean() < 1


def test_fold_equals_unmerged_and_leaves_a_stock_layer(layer):
    x = torch.randn(3, 6, generator=generator())
    base = layer.module(x).clone()
    layer.attach(filled(LowRank(layer.current, 4, generator())))
    unmerged = layer.module(x).clone()
    delta = layer.fold()
    assert torch.allclose(layer.module(x), unmerged, atol=1e-5) and not torch.allclose(unmerged, base, atol=1e-2)
    assert type(layer.module) is nn.Linear and [n for n, _ in layer.module.named_parameters()] == ["weight"]
    assert torch.allclose(layer.past, delta, atol=1e-6)


def test_withdrawing_restores_the_weight_bit_for_bit(layer):
    layer.attach(filled(LowRank(layer.current, 4, generator())))
    assert not torch.equal(layer.module.weight, layer.start)
    layer.withdraw()
    assert torch.equal(layer.module.weight, layer.start)


def test_past_is_the_sum_of_all_folds(layer):
    deltas = []
    for seed in range(5):
        layer.attach(filled(LowRank(layer.current, 2, generator(seed))))
        deltas.append(layer.fold())
    assert torch.allclose(layer.past, torch.stack(deltas).sum(0), atol=1e-5)
    assert torch.equal(layer.module.weight, layer.current)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fifty_folds_in_half_precision_do_not_drift(dtype):
    torch.manual_seed(0)
    layer = AdaptedWeight("half", nn.Linear(32, 32, bias=False).to(dtype))
    exact = layer.start.double().clone()
    naive = layer.module.weight.detach().clone()
    for seed in range(50):
        adapter = LowRank(layer.current, 2, generator(seed))
        with torch.no_grad():
            adapter.A.normal_(std=1e-3, generator=generator(seed + 100))
        exact += adapter.delta().detach().double()
        naive += adapter.delta().detach().to(dtype)
        layer.attach(adapter)
        layer.fold()
    ours, theirs = (w.double() - exact.to(dtype).double() for w in (layer.module.weight.detach(), naive))
    assert ours.abs().max() <= exact.abs().max() * torch.finfo(dtype).eps
    assert theirs.abs().mean() > 5 * ours.abs().mean()


@pytest.mark.parametrize("mask", MASKS)
def test_hard_mask_is_binary_and_its_gradient_is_the_soft_ones(mask):
    hard, soft = (mask((6, 5), generator=generator(3), hard=h, temperature=0.7) for h in (True, False))
    for m in (hard, soft):
        m.sample_noise(generator(4))
    weights = torch.randn(6, 5, generator=generator(5))
    value = hard()
    assert set(value.unique().tolist()) == {0.0, 1.0}
    assert ((soft() > 0) & (soft() < 1)).all()
    grads = [torch.autograd.grad((m() * weights).sum(), list(m.parameters())) for m in (hard, soft)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))
    assert sum(g.abs().sum() for g in grads[0]) > 0


@pytest.mark.parametrize("mask", MASKS)
def test_evaluation_has_no_noise(mask):
    m = mask((6, 5), generator=generator(3))
    m.sample_noise(generator(4))
    noisy = m()
    m.eval()
    on, off = m.logits()
    assert torch.equal(m(), (on > off).float()) and not torch.equal(noisy, m())


def test_mask_is_the_gumbel_softmax_of_two_classes():
    """P(on) of the sampled hard mask is softmax(Z)[on], whatever the temperature."""
    m = FreeMask((1, 4), generator=generator(1), temperature=0.3)
    on, off = m.logits()
    draws = []
    noise = generator(2)
    for _ in range(4000):
        m.sample_noise(noise)
        draws.append(m().detach())
    frequency = torch.stack(draws).mean(0)
    assert torch.allclose(frequency, torch.softmax(torch.stack([on, off]), 0)[0], atol=0.03)


def test_sparsity_acts_on_positive_on_logits_only():
    m = FreeMask((2, 2), generator=generator())
    with torch.no_grad():
        m.Z.copy_(torch.tensor([[1.0, -2.0, 5.0, 5.0], [-1.0, 3.0, 5.0, 5.0]]))
    assert m.sparsity().item() == pytest.approx(1.0)
    (grad,) = torch.autograd.grad(m.sparsity(), m.Z)
    assert torch.equal(grad != 0, torch.tensor([[True, False, False, False], [False, True, False, False]]))


@pytest.mark.parametrize("mask", MASKS)
def test_gradcheck_of_the_adapted_weight_in_float64(mask):
    adapter = filled(
        MaskedLowRank(torch.zeros(4, 3), 2, mask((4, 3), generator=generator(), hard=False), generator())
    ).double()
    adapter.mask.noise = torch.randn(4, 3, dtype=torch.float64, generator=generator(9))
    names = [n for n, _ in adapter.named_parameters()]
    weight = torch.randn(4, 3, dtype=torch.float64, generator=generator(1))

    def adapted(*values):
        return torch.func.functional_call(adapter, dict(zip(names, values, strict=True)), (weight,))

    inputs = tuple(p.detach().clone().requires_grad_() for p in adapter.parameters())
    assert torch.autograd.gradcheck(adapted, inputs)


def test_rank_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="rank 7 does not fit a 10x6 weight"):
        LowRank(torch.zeros(10, 6), 7)


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="no linear layer"):
        layers_of(nn.Sequential(nn.Linear(2, 2)), ["attn2.to_k"])
