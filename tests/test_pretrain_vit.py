"""The small Vision Transformer learns, goes on where it was killed, and is written as timm reads it."""

import json

import numpy as np
import pretrain_vit
import pytest
import timm
import torch

from stamina_lite.classification.datasets import ClassDataset


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Three classes, each a colour with noise, laid out as data_scripts/renditions.py does; a ViT of one layer."""
    monkeypatch.setitem(pretrain_vit.SHAPE, "depth", 1)
    monkeypatch.setitem(pretrain_vit.SHAPE, "embed_dim", 24)
    labels = [k % 3 for k in range(24)]
    images = np.random.default_rng(0).integers(0, 60, (24, 64, 64, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., label] += 180
    sets = ["noto"] * 24 + ["openmoji"]  # the last is under a share-alike licence
    images = np.concatenate([images, images[:1]])
    about = {"names": ["red", "green", "blue"], "labels": [*labels, 0], "icon_sets": sets}
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "labels.json").write_text(json.dumps(about))
    return tmp_path


def trained(pictures, work, steps):
    work.mkdir(exist_ok=True)
    found, classes = pretrain_vit.read(pictures)
    assert classes == 3 and found.images.shape == (24, 3, 64, 64)
    teacher = torch.nn.functional.one_hot(found.labels, 8).half()
    watched = ClassDataset("colours", ["red", "green", "blue"], found, found)
    return pretrain_vit.train(found, classes, teacher, work, steps, 12, watched)


def test_it_learns_to_tell_classes_and_is_loaded_by_timm(pictures, tmp_path):
    found, _ = pretrain_vit.read(pictures)
    vit, log = trained(pictures, tmp_path / "work", 30)
    assert log[-1]["tuning_nearest_mean"] == 1.0
    pretrain_vit.write(vit, log, tmp_path / "out")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = pretrain_vit.normalised(found.load(torch.arange(4)))
    with torch.no_grad():
        assert torch.allclose(loaded(x), vit(x), atol=0.02)
        assert not torch.allclose(pretrain_vit.make_vit().eval()(x), vit(x), atol=0.5)
    assert list(loaded.pretrained_cfg["mean"]) == [0.5, 0.5, 0.5]
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "training.json"}


def test_the_teacher_is_asked_once(pictures, tmp_path, monkeypatch):
    found, _ = pretrain_vit.read(pictures)
    first = pretrain_vit.teach(found, tmp_path)
    assert first.shape == (24, 1280) and first.dtype == torch.float16
    assert first[0].float().norm().item() == pytest.approx(1, abs=0.01) and not torch.equal(first[0], first[1])
    monkeypatch.setattr(pretrain_vit, "features", None)
    assert torch.equal(pretrain_vit.teach(found, tmp_path), first)
