"""The classification half with a ViT that computes in bf16, as on a GPU."""

import json

import pytest
import torch

from stamina_lite.classification.backbones import precision
from stamina_lite.classification.datasets import task_images
from stamina_lite.classification.learner import ContinualClassifier
from stamina_lite.classification.model import Classifier
from stamina_lite.errors import UserError
from stamina_lite.methods.registry import make_class_method

FEW = {"epochs": 2, "batch": 8, "rank": 4, "mask_rank": 2, "n_prior": 4, "lr": 0.001}


def test_precision_is_what_the_device_is_good_at(monkeypatch):
    assert precision("cpu") == torch.float32
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s)
        assert precision("cuda:1") == dtype


@pytest.mark.parametrize("name", ["ft", "ewc", "coda-p", "stamina", "inflora", "ncm"])
def test_a_vit_in_bf16_learns_as_one_in_fp32(vit, patches, name):
    """Loss and weights are near those of fp32 but for roundings, and everything that stays is fp32."""
    from conftest import vit as anew

    losses, models, seen = [], [], []
    for dtype in (torch.float32, torch.bfloat16):
        model = Classifier(anew.__wrapped__(), 6, make_class_method(name, **FEW), tasks=3, seed=0, dtype=dtype)
        block = model.vit.blocks[0].mlp.fc1
        block.register_forward_hook(lambda module, x, y: seen.append(y.dtype))
        learned = [model.learn(task_images(patches.train, classes), t) for t, classes in ((1, [0, 1]), (2, [2, 3]))]
        assert set(seen) == {dtype}
        seen.clear()
        losses.append([step["cross_entropy"] for task in learned for step in task.steps])
        models.append(model)
        assert {w.dtype for w in model.vit.state_dict().values()} == {torch.float32}
        assert {k.dtype for layer in model.layers for k in layer.memory.values()} <= {torch.float32}
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    x = patches.test.load(torch.arange(24))
    full, half = (model.logits(x).detach()[:, model.seen] for model in models)
    assert half.dtype == torch.float32 and not torch.equal(full, half) and full.std() > 0.01
    assert (full - half).norm() < 0.1 * full.norm()


def test_what_a_model_is_held_to_is_rounded_as_it_is(vit, patches):
    """Before LwF's first step there is nothing to pull back; a difference of roundings alone Adam would follow."""
    model = Classifier(vit, 6, make_class_method("lwf", **FEW), tasks=3, seed=0, dtype=torch.bfloat16)
    task, x = task_images(patches.train, [0, 1]), patches.train.load(torch.arange(12))
    model.learn(task, 1)
    model.past = [0, 1]
    model.method.begin(model, task)
    assert model.method.auxiliary_loss(model, x, model.logits(x)) == 0
    with torch.no_grad():
        vit.blocks[0].mlp.fc1.weight *= 2
    assert model.method.auxiliary_loss(model, x, model.logits(x)) > 1e-6


def test_weights_learned_in_bf16_are_kept_in_fp32(vit, patches):
    model = Classifier(vit, 6, make_class_method("c-lora", **FEW), tasks=3, seed=0, dtype=torch.bfloat16)
    model.learn(task_images(patches.train, [0, 1]), 1)
    for layer in model.layers:
        assert layer.past.any() and not torch.equal(layer.past, layer.past.bfloat16().float())


def test_a_run_goes_on_in_the_precision_it_began_in(patches, tmp_path):
    from conftest import vit

    def learner(**more):
        return ContinualClassifier(vit.__wrapped__(), patches, "lora", 3, 0, tmp_path / "run", **more, **FEW)

    learner(dtype=torch.bfloat16).learn(progress=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["precision"] == "bfloat16"
    assert learner().model.dtype == torch.bfloat16
    with pytest.raises(UserError, match="precision is bfloat16 there"):
        learner(dtype=torch.float32)
