import json
from pathlib import Path

import pytest
import torch
from torch import nn

from stamina_lite.core.adapters import LowRank, MaskedLowRank
from stamina_lite.core.layers import AdaptedWeight
from stamina_lite.core.settings import RENAMED, Settings, renamed
from stamina_lite.core.tokens import MLP, Vector
from stamina_lite.errors import UserError
from stamina_lite.methods.lora import l_forget
from stamina_lite.methods.registry import METHODS, make_method


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def second_task(method, moved=True):
    """A layer that has folded one task and now learns another with this method."""
    torch.manual_seed(0)
    layer = AdaptedWeight("layer", nn.Linear(6, 10, bias=False))
    for seed in (0, 1):
        adapter = method.adapter(layer, generator(seed))
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
    penalty = make_method("c-lora", lambda_forget=7.0).penalty(layer)
    assert penalty.item() == pytest.approx(7 * by_hand.item(), rel=1e-5)


def test_l_forget_of_the_first_task_is_zero_and_does_not_reach_the_past():
    layer = AdaptedWeight("layer", nn.Linear(6, 10, bias=False))
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
    method = make_method("stamina", lambda_sparse=1.0, lambda_forget=0.0)
    layer = AdaptedWeight("layer", nn.Linear(30, 40, bias=False))
    layer.attach(method.adapter(layer, generator()))
    optimizer = torch.optim.Adam(layer.adapter.parameters(), 0.02)
    before = layer.adapter.mask.eval()().mean().item()
    layer.adapter.train()
    for _ in range(60):
        optimizer.zero_grad()
        method.penalty(layer).backward()
        optimizer.step()
    assert layer.adapter.mask.eval()().mean().item() < 0.7 * before


TABLE = [  # name, change, mask, token, λ_forget, λ_sparse, prior pictures
    ("lora", "LowRank", None, Vector, False, False, False),
    ("c-lora", "LowRank", None, Vector, True, False, False),
    ("stamina", "MaskedLowRank", "MLPMask", MLP, True, True, False),
    ("stamina-no-mask", "LowRank", None, MLP, True, False, False),
    ("stamina-no-token-mlp", "MaskedLowRank", "MLPMask", Vector, True, True, False),
    ("stamina-neither", "LowRank", None, Vector, True, False, False),
    ("stamina-no-forget", "MaskedLowRank", "MLPMask", MLP, False, True, False),
    ("stamina-no-sparsity", "MaskedLowRank", "MLPMask", MLP, True, False, False),
    ("stamina-soft-mask", "MaskedLowRank", "MLPMask", MLP, True, True, False),
    ("stamina-factor-mask", "MaskedLowRank", "FactorMask", MLP, True, True, False),
    ("stamina-free-mask", "MaskedLowRank", "FreeMask", MLP, True, True, False),
    ("stamina-random-mask", "MaskedLowRank", "RandomMask", MLP, True, False, False),
    ("ti", "NoneType", None, Vector, False, False, False),
    ("ti++", "NoneType", None, MLP, False, False, False),
    ("lora-scaled", "LowRank", None, Vector, False, False, False),
    ("lora-pruned", "LowRank", None, Vector, False, False, False),
    ("lora-orthogonal", "LowRank", None, Vector, False, False, False),
    ("lora-alone", "LowRank", None, Vector, False, False, False),
    ("lora-ewc", "LowRank", None, Vector, True, False, False),
    ("custom-diffusion", "Full", None, Vector, False, False, True),
    ("custom-diffusion-merge", "Full", None, Vector, False, False, True),
    ("custom-diffusion-ewc", "Full", None, Vector, True, False, True),
    ("dreambooth", "Full", None, Vector, False, False, True),
    ("replay", "Full", None, Vector, False, False, True),
    ("offline", "Full", None, Vector, False, False, True),
]


@pytest.mark.parametrize(("name", "change", "mask", "token", "forget", "sparse", "prior"), TABLE)
def test_each_method_differs_as_its_name_says(name, change, mask, token, forget, sparse, prior):
    method = make_method(name, density=0.5)
    adapter = method.adapter(AdaptedWeight("layer", nn.Linear(6, 10, bias=False)), generator())
    assert type(adapter).__name__ == change
    assert (type(adapter.mask).__name__ if hasattr(adapter, "mask") else None) == mask
    assert type(method.token(torch.zeros(6), generator())) is token
    settings = method.settings
    weights = (settings.lambda_forget, settings.lambda_sparse, settings.lambda_prior)
    assert tuple(weight > 0 for weight in weights) == (forget, sparse, prior)
    if change in ("LowRank", "MaskedLowRank"):
        layer = second_task(method)
        layer.memory["fisher"] = torch.ones_like(layer.past)
        penalty = make_method(name, lambda_sparse=0.0).penalty(layer)
        assert (penalty is not None and penalty.item() > 0) == forget


def test_the_table_above_names_every_method():
    assert [row[0] for row in TABLE if row[0] not in METHODS] == [] and len(TABLE) == len(METHODS)


def test_the_soft_mask_folds_what_it_trained_with():
    delta = {name: second_task(make_method(name, rank=3)) for name in ("stamina", "stamina-soft-mask")}
    open_ = {name: layer.adapter.eval().mask() for name, layer in delta.items()}
    assert set(open_["stamina"].unique().tolist()) == {0.0, 1.0}
    soft = open_["stamina-soft-mask"]
    assert ((soft > 0) & (soft < 1)).all() and soft.std() > 0.05


def test_a_random_mask_is_as_open_as_asked_and_never_learned():
    method = make_method("stamina-random-mask", density=0.3, rank=2)
    layer = AdaptedWeight("layer", nn.Linear(60, 50, bias=False))
    adapter = method.adapter(layer, generator())
    mask = adapter.mask()
    assert mask.mean().item() == pytest.approx(0.3, abs=0.03)
    assert {name for name, _ in adapter.named_parameters()} == {"A", "B"}
    adapter.mask.sample_noise(generator(3))
    assert torch.equal(adapter.train().mask(), mask) and torch.equal(adapter.eval().mask(), mask)


def test_scaled_merging_with_p_1_keeps_the_mean_of_all_updates():
    """W_t = W_{t-1} + (V_t - W_{t-1}) / t, V_t what the task's training arrived at, makes W_T the mean of all V_t."""
    method, weights, mean = make_method("lora-scaled", merge_exponent=1.0), torch.zeros(4, 3), []
    for task in range(1, 6):
        trained = torch.randn(4, 3, generator=generator(task))  # what the task's own training arrived at
        weights = weights + method.transform_update(trained - weights, task)
        mean.append(trained)
    assert torch.allclose(weights, torch.stack(mean).mean(0), atol=1e-6)
    delta = torch.ones(2, 2)
    assert torch.equal(make_method("lora-scaled", merge_exponent=0.0).transform_update(delta, 7), delta)
    assert torch.equal(make_method("lora-scaled", merge_exponent=0.5).transform_update(delta, 4), delta / 2)


def test_pruning_keeps_the_largest_entries_and_only_those():
    delta = torch.tensor([[0.1, -5.0, 0.3], [4.0, -0.2, 0.05]])
    kept = make_method("lora-pruned", density=1 / 3).transform_update(delta, 1)
    assert torch.equal(kept, torch.tensor([[0.0, -5.0, 0.0], [4.0, 0.0, 0.0]]))
    assert torch.equal(make_method("lora-pruned", density=1.0).transform_update(delta, 1), delta)


def test_an_orthogonal_start_avoids_what_the_past_has_used():
    method = make_method("lora-orthogonal", rank=2)
    layer = AdaptedWeight("layer", nn.Linear(6, 10, bias=False))
    past = torch.randn(10, 3, generator=generator(1)) @ torch.randn(3, 6, generator=generator(2))
    layer.restore(layer.start + past)
    plain, start = LowRank(layer.current, 2, generator()), method.adapter(layer, generator())
    assert (layer.past @ start.B.T).norm() < 1e-4 < 0.5 < (layer.past @ plain.B.T).norm()
    assert 0.5 < start.B.norm() / plain.B.norm() < 2
    layer.restore(layer.start + torch.randn(10, 6, generator=generator(3)))  # full: the least used directions are left
    directions = torch.linalg.svd(layer.past).Vh
    start = method.adapter(layer, generator())
    assert (start.B @ directions[:-2].T).abs().max() < 1e-4 and start.B.abs().max() > 0.1


def test_ewc_penalises_by_the_fisher_information_of_past_tasks():
    method = make_method("custom-diffusion-ewc", lambda_forget=6.0)
    layer = AdaptedWeight("layer", nn.Linear(3, 2, bias=False))
    layer.attach(method.adapter(layer, generator()))
    assert method.penalty(layer) is None
    with torch.no_grad():
        layer.adapter.D.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))
    layer.memory["fisher"] = torch.tensor([[5.0, 1.0, 9.0], [9.0, 9.0, 2.0]])
    assert method.penalty(layer).item() == pytest.approx(3.0 * (5 * 1 + 1 * 4 + 2 * 9))


def test_ewc_on_lora_penalises_the_low_rank_update():
    method = make_method("lora-ewc", lambda_forget=6.0, rank=1)
    layer = AdaptedWeight("layer", nn.Linear(3, 2, bias=False))
    layer.attach(method.adapter(layer, generator()))
    assert method.penalty(layer) is None, "nothing to keep in the first task"
    with torch.no_grad():
        layer.adapter.A.copy_(torch.tensor([[2.0], [0.0]]))
        layer.adapter.B.copy_(torch.tensor([[1.0, 0.0, 3.0]]))
    layer.memory["fisher"] = torch.tensor([[5.0, 7.0, 1.0], [9.0, 9.0, 9.0]])
    assert method.penalty(layer).item() == pytest.approx(3.0 * (5 * 4 + 1 * 36))


@pytest.mark.parametrize("mask", ["mlp", "factors", "free"])
@pytest.mark.parametrize("hard", [True, False])
def test_mask_options_reach_the_adapter(mask, hard):
    adapter = make_method("stamina", mask=mask, hard=hard, temperature=0.4).adapter(
        AdaptedWeight("layer", nn.Linear(6, 10, bias=False)), generator()
    )
    assert adapter.mask.hard is hard and adapter.mask.temperature == 0.4
    assert {"mlp": "MLPMask", "factors": "FactorMask", "free": "FreeMask"}[mask] == type(adapter.mask).__name__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rnak": 4}, "unknown setting rnak"),
        ({"rank": 0}, "rank must be above 0, not 0"),
        ({"lr": float("nan")}, "lr must be a finite number, not nan"),
        ({"lambda_forget": float("inf")}, "lambda_forget must be a finite number, not inf"),
        ({"lambda_forget": -1.0}, "lambda_forget must be 0 or more, not -1.0"),
        ({"mask": "oval"}, "unknown mask oval"),
        ({"density": 0.0}, "density must be above 0, not 0.0"),
        ({"density": 1.5}, "density must be at most 1, not 1.5"),
        ({"n_prior": 0}, "n_prior must be above 0"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_method("stamina", **options)


TUNING = sorted((Path(__file__).parents[1] / "results" / "tuning").glob("*.json"))


@pytest.mark.parametrize("file", [f for f in TUNING if f.stem in METHODS], ids=lambda f: f.stem)
def test_a_method_starts_from_what_was_chosen_for_it(file):
    found = json.loads(file.read_text())
    chosen = next(trial for trial in found["trials"] if trial["options"] == found["chosen"])
    assert chosen["a_mmd"] == min(trial["a_mmd"] for trial in found["trials"])
    settings, then = make_method(found["method"]).settings.as_dict(), renamed(chosen["settings"])
    same = ["rank", "lr", "lr_token", "mask", "mask_rank", *RENAMED.values(), *renamed(chosen["options"])]
    same.remove("noise_anneal")
    assert {key: settings[key] for key in same} == {key: then[key] for key in same}


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown method stamnia: choose one of lora, c-lora, stamina"):
        make_method("stamnia")


def test_settings_are_plain_values():
    assert Settings().changed(rank=4).as_dict()["rank"] == 4
