"""Oracle 1: the same linear layer under peft's LoRA, with our factors copied in."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from stamina_lite.core.adapters import LowRank
from stamina_lite.core.layers import AdaptedWeight


def ours(seed, weight):
    adapter = LowRank(weight, 4, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        adapter.A.normal_(generator=torch.Generator().manual_seed(seed + 50))
    return adapter


@pytest.fixture
def pair():
    torch.manual_seed(0)
    mine = nn.Sequential(nn.Linear(12, 8, bias=False))
    theirs = nn.Sequential(nn.Linear(12, 8, bias=False))
    theirs.load_state_dict(mine.state_dict())
    config = LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=["0"])
    return AdaptedWeight("0", mine[0]), get_peft_model(theirs, config), config, torch.randn(5, 12)


def copy_into(peft_linear, adapter, name="default"):
    with torch.no_grad():
        peft_linear.lora_A[name].weight.copy_(adapter.B)  # peft's A is (r, in), ours is (out, r)
        peft_linear.lora_B[name].weight.copy_(adapter.A)


def test_forward_delta_and_fold_agree(pair):
    layer, model, _, x = pair
    base = layer.module(x).detach()
    adapter = ours(1, layer.current)
    copy_into(model.base_model.model[0], adapter)
    layer.attach(adapter)
    assert torch.allclose(layer.module(x), model(x), atol=1e-6)
    assert torch.allclose(layer.delta(), model.base_model.model[0].get_delta_weight("default"), atol=1e-7)
    layer.fold()
    merged = model.merge_and_unload()
    assert torch.allclose(layer.module(x), merged(x), atol=1e-5)
    assert (layer.module(x) - base).abs().max() > 0.1


def test_tasks_folded_one_by_one_equal_a_concatenated_adapter(pair):
    layer, model, config, x = pair
    linear = model.base_model.model[0]
    for task in range(3):
        adapter = ours(task, layer.current)
        if task:
            model.add_adapter(f"task{task}", config)
        copy_into(linear, adapter, f"task{task}" if task else "default")
        layer.attach(adapter)
        layer.fold()
    model.add_weighted_adapter(["default", "task1", "task2"], [1.0, 1.0, 1.0], "all", combination_type="cat")
    model.set_adapter("all")
    assert torch.allclose(layer.module(x), model(x), atol=1e-5)
    assert layer.past.norm() > 1
