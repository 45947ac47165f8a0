import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stamina_lite.classification.datasets import task_images
from stamina_lite.classification.model import Classifier
from stamina_lite.core.layers import every_weight, parts_of
from stamina_lite.errors import UserError
from stamina_lite.methods.registry import make_class_method

FEW = {"epochs": 2, "batch": 8, "rank": 4, "mask_rank": 2, "n_prior": 4, "lr": 0.01}


def classifier(vit, name, **options):
    return Classifier(vit, 6, make_class_method(name, **{**FEW, **options}), tasks=3, seed=0)


def learned(vit, patches, name, tasks=1, **options):
    """A classifier that has learned so many tasks of two classes."""
    model = classifier(vit, name, **options)
    for task in range(1, tasks + 1):
        model.learn(task_images(patches.train, [2 * task - 2, 2 * task - 1]), task)
    return model


def state(vit):
    return {k: v.clone() for k, v in vit.state_dict().items()}


def changed(before, vit):
    return {k for k, v in vit.state_dict().items() if not torch.equal(v, before[k])}


def test_k_and_v_of_one_weight_are_two_layers(vit):
    before = vit.blocks[1].attn.qkv.weight.detach().clone()
    layers = parts_of(vit, "attn.qkv", "qkv", "kv")
    assert [la.name for la in layers[2:4]] == ["blocks.1.attn.k", "blocks.1.attn.v"] and len(layers) == 10
    method, x = make_class_method("lora", rank=3), torch.rand(2, 5, 24)
    for layer in layers[2:4]:
        layer.attach(method.adapter(layer, torch.Generator().manual_seed(0)))
        nn.init.normal_(layer.adapter.A)
    deltas = [layer.delta().detach() for layer in layers[2:4]]
    unmerged = vit.blocks[1].attn.qkv(x)
    for layer, delta in zip(layers[2:4], deltas, strict=True):
        assert torch.equal(layer.fold(), delta) and delta.norm() > 0.1
    after = vit.blocks[1].attn.qkv.weight
    assert torch.equal(after[:24], before[:24])  # Q, bit for bit
    assert torch.allclose(after[24:], before[24:] + torch.cat(deltas))
    assert torch.allclose(vit.blocks[1].attn.qkv(x), unmerged, atol=1e-5)
    assert type(vit.blocks[1].attn.qkv) is nn.Linear


def test_withdrawing_one_of_two_layers_leaves_the_weight_as_it_was(vit):
    before = vit.blocks[0].attn.qkv.weight.detach().clone()
    layers = parts_of(vit, "attn.qkv", "qkv", "qv")[:2]
    for layer in layers:
        layer.attach(make_class_method("lora").adapter(layer, None))
        nn.init.normal_(layer.adapter.A)
    assert not torch.equal(vit.blocks[0].attn.qkv.weight, before)
    for layer in layers:
        layer.withdraw()
    assert torch.equal(vit.blocks[0].attn.qkv.weight, before)


def test_every_weight_but_the_heads(vit):
    vit.reset_classifier(3)
    names = {layer.name for layer in every_weight(vit, without="head")}
    assert names == {name for name, _ in vit.named_parameters()} - {"head.weight", "head.bias"}
    assert {"pos_embed", "blocks.0.norm1.bias"} <= names


@pytest.mark.parametrize("name", ["stamina", "c-lora", "lora-scaled", "inflora"])
def test_adapters_change_k_and_v_and_nothing_else(vit, patches, name):
    before = state(vit)
    model = classifier(vit, name)
    model.learn(task_images(patches.train, [0, 1]), 1)
    after = {k: v for k, v in vit.state_dict().items() if not k.startswith("head.")}
    assert set(after) == set(before)  # nothing of ours is left
    moved = {k for k in after if not torch.equal(after[k], before[k])}
    assert moved == {f"blocks.{k}.attn.qkv.weight" for k in range(5)}
    for key in moved:
        assert torch.equal(after[key][:24], before[key][:24])
    assert not any(p.requires_grad for p in vit.parameters())


def test_sd_lora_changes_q_and_v(vit, patches):
    before = state(vit)["blocks.0.attn.qkv.weight"]
    after = learned(vit, patches, "sd-lora").vit.blocks[0].attn.qkv.weight
    same = [torch.equal(a, b) for a, b in zip(after.chunk(3), before.chunk(3), strict=True)]
    assert same == [False, True, False]


def test_fine_tuning_changes_every_weight(vit, patches):
    before = state(vit)
    model = learned(vit, patches, "ft")
    assert changed({**before, **{k: v for k, v in state(vit).items() if k.startswith("head")}}, model.vit) == {*before}


@pytest.mark.parametrize("name", ["l2p++", "deep-l2p++", "dualprompt", "coda-p"])
def test_prompts_leave_the_vit_alone_and_change_what_it_says(vit, patches, name):
    before, x = state(vit), patches.test.load(torch.arange(3))
    model = classifier(vit, name)
    plain = copy.deepcopy(model.embed(model.vit, x))
    model.learn(task_images(patches.train, [0, 1]), 1)
    after = {k.replace(".attn.attention.", ".attn."): v for k, v in vit.state_dict().items()}
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(model.embed(model.vit, x), plain)
    assert not torch.allclose(model.features(x), plain, atol=1e-2)


def test_a_local_loss_leaves_the_heads_past_rows_alone(vit, patches):
    model = learned(vit, patches, "ft++")
    rows = model.head.weight.clone()
    model.learn(task_images(patches.train, [2, 3]), 2)
    same = [torch.equal(a, b) for a, b in zip(model.head.weight, rows, strict=True)]
    assert same == [True, True, False, False, True, True]
    assert not model.head.weight[4:].any()


def test_a_loss_over_all_classes_pushes_past_ones_down(vit, patches):
    model = learned(vit, patches, "ft")
    bias = model.head.bias.clone()
    model.learn(task_images(patches.train, [2, 3]), 2)
    assert (model.head.bias[:2] < bias[:2]).all() and not model.head.bias[4:].any()


def test_pictures_are_normalised_as_the_weights_say(vit, patches):
    model, x = classifier(vit, "ncm"), patches.test.load(torch.arange(2))
    mean, std = (torch.tensor(vit.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    expected = vit.forward_head(vit.forward_features((x - mean) / std), pre_logits=True)
    assert torch.allclose(model.features(x), expected, atol=1e-6)
    raw = vit.forward_head(vit.forward_features(x), pre_logits=True)
    assert not torch.allclose(expected, raw, atol=1e-2)


def test_only_classes_seen_are_answered(vit, patches):
    model = learned(vit, patches, "lora")
    model.head.bias[5] = 100.0
    found = model.predict(patches.test.load(torch.arange(36)))
    assert set(found.tolist()) <= {0, 1}
    model.seen.append(5)
    assert set(model.predict(patches.test.load(torch.arange(36))).tolist()) == {5}


@pytest.mark.parametrize("name", ["stamina", "ft", "sd-lora", "coda-p", "l2p++"])
def test_an_interrupted_task_leaves_no_trace(vit, patches, name):
    model = learned(vit, patches, name)
    before, seen = state(vit), list(model.seen)
    prompts = copy.deepcopy(model.pool.state_dict()) if model.pool is not None else {}

    def stop(step, numbers):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(task_images(patches.train, [2, 3]), 2, stop)
    assert changed(before, vit) == set() and model.seen == seen == [0, 1]
    assert all(torch.equal(model.pool.state_dict()[k], prompts[k]) for k in prompts)
    model.learn(task_images(patches.train, [2, 3]), 2)
    assert model.seen == [0, 1, 2, 3] and changed(before, vit)


def test_what_is_trained_is_counted(vit, patches):
    task = task_images(patches.train, [0, 1])
    head = 6 * 24 + 6
    assert classifier(copy.deepcopy(vit), "lora").learn(task, 1).trained == head + 10 * 2 * 24 * 4
    assert classifier(copy.deepcopy(vit), "inflora").learn(task, 1).trained == head + 10 * 24 * 4  # A alone
    weights = sum(p.numel() for p in vit.parameters())
    assert classifier(copy.deepcopy(vit), "ft").learn(task, 1).trained == head + weights
    assert classifier(vit, "ncm").learn(task, 1).trained == 0


def test_losses_are_of_single_pictures_and_of_the_task(vit, patches):
    model = learned(vit, patches, "ewc", 2)
    values = [loss() for loss in model.losses(task_images(patches.train, [2, 3]), 30, torch.Generator().manual_seed(0))]
    assert len(values) == 30 and all(v.shape == () for v in values)
    model.head.bias[0] = 1e3  # a past class, however loud, is not in the loss
    again = [loss() for loss in model.losses(task_images(patches.train, [2, 3]), 30, torch.Generator().manual_seed(0))]
    assert values == again and len({round(v.item(), 5) for v in values}) > 20


def test_what_is_no_vision_transformer_is_refused(vit):
    import timm

    with pytest.raises(UserError, match="a ResNet has no blocks with attn.qkv: give a timm VisionTransformer"):
        classifier(timm.create_model("resnet10t"), "lora")
    vit.pretrained_cfg = {}
    with pytest.raises(UserError, match="does not say what pictures it takes"):
        classifier(vit, "lora")
    shallow = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=2)
    with pytest.raises(UserError, match="too shallow"):
        classifier(shallow, "coda-p")


def test_accuracy_rises_where_there_is_something_to_learn(vit, patches):
    model = classifier(vit, "ft", epochs=8, lr=0.003)
    places = torch.arange(36)
    task = task_images(patches.train, [0, 1, 2, 3, 4, 5])
    model.learn(task, 1)
    right = (model.predict(patches.test.load(places)) == patches.test.labels).float().mean()
    assert right > 0.5  # chance is 1/6
    assert F.cross_entropy(model.logits(patches.test.load(places)), patches.test.labels) < 1.5
