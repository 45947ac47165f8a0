import pytest
import torch
from torch import nn

from stamina_lite.adapters import Layer, LowRank, MaskedLowRank
from stamina_lite.data import UserError
from stamina_lite.methods import METHODS, Settings, l_forget, make_method
from stamina_lite.tokens import MLP, Vector


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def second_task(method, moved=True):
    """A layer that has folded one task and now learns another with this method."""
    torch.manual_seed(0)
    layer = Layer("layer", nn.Linear(6, 10, bias=False))
    for seed in (0, 1):
        adapter = method.adapter(layer.current, generator(seed))
        if moved:
            with torch.no_grad():
                adapter.A.normal_(generator=generator(seed + 5))
        layer.attach(adapter)
        if seed == 0:
            layer.fold()
    return layer


def test_l_forget_is_equation_3():
    layer = second_task(make_method("c-lora", rank=3))
    by_hand = sum(
        (abs(layer.past[i, j]) * layer.delta()[i, j]) ** 2 for i in range(10) for j in range(6)
    )  # fmt: skip
    assert l_forget(layer).item() == pytest.approx(by_hand.item(), rel=1e-5) and by_hand > 0
    penalty = make_method("c-lora", forget=7.0).penalty(layer)
    assert penalty.item() == pytest.approx(7 * by_hand.item(), rel=1e-5)


def test_l_forget_of_the_first_task_is_zero_and_does_not_reach_the_past():
    layer = Layer("layer", nn.Linear(6, 10, bias=False))
    adapter = LowRank(layer.current, 3, generator())
    with torch.no_grad():
        adapter.A.normal_(generator=generator(1))
    layer.attach(adapter)
    assert l_forget(layer).item() == 0
    layer = second_task(make_method("c-lora", rank=3))
    assert not layer.past.requires_grad
    (gradient,) = torch.autograd.grad(l_forget(layer), layer.adapter.A)
    assert gradient.abs().sum() > 0


def test_stamina_masks_what_c_lora_penalises():
    stamina = second_task(make_method("stamina", rank=3))
    assert isinstance(stamina.adapter, MaskedLowRank)
    stamina.adapter.eval()
    closed = stamina.adapter.mask() == 0
    assert 0 < closed.float().mean() < 1
    assert (stamina.delta()[closed] == 0).all() and (stamina.delta()[~closed] != 0).all()


def test_sparsity_opens_fewer_weights():
    method = make_method("stamina", sparse=1.0, forget=0.0)
    layer = Layer("layer", nn.Linear(30, 40, bias=False))
    layer.attach(method.adapter(layer.current, generator()))
    optimizer = torch.optim.Adam(layer.adapter.parameters(), 0.02)
    before = layer.adapter.mask.eval()().mean().item()
    layer.adapter.train()
    for _ in range(60):
        optimizer.zero_grad()
        method.penalty(layer).backward()
        optimizer.step()
    assert layer.adapter.mask.eval()().mean().item() < 0.7 * before


@pytest.mark.parametrize(
    ("name", "masked", "token", "forget", "adapts"),
    [
        ("lora", False, Vector, False, True),
        ("c-lora", False, Vector, True, True),
        ("stamina", True, MLP, True, True),
        ("stamina-no-mask", False, MLP, True, True),
        ("stamina-no-token-mlp", True, Vector, True, True),
        ("stamina-neither", False, Vector, True, True),
        ("stamina-no-forget", True, MLP, False, True),
        ("ti", False, Vector, False, False),
        ("ti++", False, MLP, False, False),
    ],
)
def test_each_method_differs_as_its_name_says(name, masked, token, forget, adapts):
    method = make_method(name)
    weight = torch.zeros(10, 6)
    adapter = method.adapter(weight, generator())
    assert (adapter is not None) == adapts
    assert isinstance(adapter, MaskedLowRank) == masked
    assert type(method.token(torch.zeros(6), generator())) is token
    assert (method.settings.forget > 0) == forget
    assert (method.settings.sparse > 0) == masked
    if adapts:
        penalty = make_method(name, sparse=0.0).penalty(second_task(method))
        assert (penalty is not None and penalty.item() > 0) == forget


def test_the_table_above_names_every_method():
    assert len(METHODS) == 9


@pytest.mark.parametrize("mask", ["mlp", "factors", "free"])
@pytest.mark.parametrize("hard", [True, False])
def test_mask_options_reach_the_adapter(mask, hard):
    adapter = make_method("stamina", mask=mask, hard=hard, temperature=0.4).adapter(torch.zeros(10, 6), generator())
    assert adapter.mask.hard is hard and adapter.mask.temperature == 0.4
    assert {"mlp": "MLPMask", "factors": "FactorMask", "free": "FreeMask"}[mask] == type(adapter.mask).__name__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rnak": 4}, "unknown setting rnak"),
        ({"rank": 0}, "rank must be above zero"),
        ({"lr": float("nan")}, "lr must be above zero"),
        ({"forget": -1.0}, "forget must be zero or more"),
        ({"mask": "oval"}, "unknown mask oval"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_method("stamina", **options)


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown method stamnia: choose one of lora, c-lora, stamina"):
        make_method("stamnia")


def test_settings_are_plain_values():
    assert Settings().changed(rank=4).as_dict()["rank"] == 4
