"""`stamina-lite bench` on classes, as a user calls it."""

import json

import pytest
import timm
import torch
from PIL import Image

from stamina_lite import cli
from stamina_lite.classification.backbones import IMAGENET_R, load_backbone, timm_name
from stamina_lite.errors import UserError

QUICK = ["--concepts", "6", "--tasks", "3", "--epochs", "1", "--rank", "2"]
SHAPE = {"img_size": 64, "patch_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 0}


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    """A ViT of one small block for 64 px pictures, as timm writes it for others to read."""
    folder = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = timm.create_model("vit_tiny_patch16_224", **SHAPE)
    made.pretrained_cfg |= {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "num_classes": 0}
    timm.models.save_for_hf(made, folder, model_args=SHAPE, safe_serialization=True)
    return folder


def mistake(capsys, *argv):
    """The one line that a mistake is answered with."""
    assert cli.main([str(a) for a in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_bench_learns_classes_and_prints_its_results(vit_folder, tmp_path, capsys):
    argv = [
        "bench",
        "tuning",
        "--method",
        "c-lora",
        "--seed",
        "1",
        "--base",
        vit_folder,
        "--out",
        tmp_path / "run",
        *QUICK,
    ]
    assert cli.main([str(a) for a in argv]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert f"{results['a_n']:.2f}" in printed.splitlines()[1] and printed.startswith("base               vit")
    assert [len(row) for row in results["accuracy"]] == [1, 2, 3] and results["set"] == "tuning"
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["settings"]["epochs"] == 1 and about["base_model"] == str(vit_folder) and about["tasks"] == 3
    before = (tmp_path / "run" / "tasks" / "003" / "task.json").stat().st_mtime_ns
    assert cli.main([str(a) for a in argv]) == 0  # all is there already
    assert capsys.readouterr().out == printed
    assert (tmp_path / "run" / "tasks" / "003" / "task.json").stat().st_mtime_ns == before


def test_bench_reads_imagenet_r_from_a_folder(vit_folder, tmp_path, capsys, monkeypatch):
    """A small tree of the same layout."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "imagenet-r"
    for split, each in (("train", 3), ("test", 2)):
        lines = {"data": [], "targets": []}
        for label, name in enumerate(("n01443537", "n01484850")):
            (data / name).mkdir(parents=True, exist_ok=True)
            for k in range(each):
                Image.new("RGB", (90, 70), (200 * label, 40 * k, 90)).save(data / name / f"{split}_{k}.jpg")
                lines["data"].append(f"data/imagenet-r/{name}/{split}_{k}.jpg")
                lines["targets"].append(label)
        (data / f"imagenet-r_{split}.yaml").write_text(json.dumps(lines))
    argv = ["bench", "imagenet-r", "--data", data, "--method", "lora", "--base", vit_folder, "--tasks", "2"]
    assert cli.main([str(a) for a in (*argv, "--epochs", "1", "--rank", "2", "--out", tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["tasks"] == [[0], [1]] and results["set"] == "imagenet-r" and results["accuracy"][0] == [100.0]
    capsys.readouterr()
    (data / "n01484850" / "train_1.jpg").write_bytes(b"no picture")
    assert cli.main([str(a) for a in (*argv, "--epochs", "1", "--out", tmp_path / "other")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot read" in error and "train_1.jpg" in error and not (tmp_path / "other").exists()


def test_mistakes_are_told_before_anything_is_written(vit_folder, tmp_path, capsys):
    bench = ["bench", "tuning", "--base", vit_folder, "--out", tmp_path / "run"]
    lora = ["--method", "lora"]
    assert "unknown method dreambooth" in mistake(capsys, *bench, "--method", "dreambooth")
    assert "unknown setting steps" in mistake(capsys, *bench, *lora, "--steps", "3")
    assert "50 classes make no 51 tasks" in mistake(capsys, *bench, *lora, "--tasks", "51")
    assert "tuning has 50 classes, not 60" in mistake(capsys, *bench, *lora, "--concepts", "60")
    assert "leave --data out" in mistake(capsys, *bench, *lora, "--data", tmp_path)
    assert "give --data DIR" in mistake(
        capsys, "bench", "imagenet-r", *lora, "--base", vit_folder, "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("vit_base_patch16_224_in21k", "vit_base_patch16_224.augreg_in21k"),  # as InfLoRA and SD-LoRA write it
        ("vit_small_patch16_224_in21k", "vit_small_patch16_224.augreg_in21k"),
        ("vit_base_patch16_224_dino", "vit_base_patch16_224.dino"),
        ("vit_base_patch16_224_sam", "vit_base_patch16_224.sam_in1k"),
        ("vit_base_patch32_224_sam", "vit_base_patch32_224.sam_in1k"),
        ("vit_base_patch16_224", "vit_base_patch16_224.augreg2_in21k_ft_in1k"),
        ("timm/vit_base_patch16_224.dino", None),
        (IMAGENET_R, None),
    ],
)
def test_old_and_short_names_of_timm_say_which_weights_they_mean(name, full, recwarn):
    assert timm_name(name) == (full or name.removeprefix("timm/"))
    assert [str(w.message) for w in recwarn] == ([f"{name} is taken as timm's {full}"] if full else [])


@pytest.mark.parametrize("name", ["vit_base_patch16_224.none", "vit_base_resnet26d_224"])
def test_a_model_of_timm_without_weights_is_one_line(name):
    with pytest.raises(UserError, match=f"{name} has no weights on the hub: choose a model that has, such as vit_base"):
        load_backbone(name)


def test_bases_that_do_not_fit_are_refused(vit_folder, tmp_path):
    with pytest.raises(UserError, match="is no timm folder: config.json is missing"):
        load_backbone(tmp_path)
    with pytest.raises(UserError, match="no backbone at photos: give mini, a folder, or a timm model name"):
        load_backbone("photos")
    with pytest.raises(UserError, match="no device cuda:99"):
        load_backbone(vit_folder, "cuda:99")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((vit_folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="cannot load the backbone"):
        load_backbone(tmp_path)
    config = json.loads((vit_folder / "config.json").read_text())
    config["model_args"]["embed_dim"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot load the backbone"):
        load_backbone(tmp_path)
    loaded = load_backbone(vit_folder, "cpu")
    assert loaded.embed_dim == 24 and torch.isfinite(loaded(torch.zeros(1, 3, 64, 64))).all()


def test_pictures_of_another_size_are_refused(vit, tmp_path):
    from stamina_lite.classification.datasets import renditions
    from stamina_lite.classification.learner import ContinualClassifier

    with pytest.raises(UserError, match="tuning has pictures of 64 px, this ViT wants 32"):
        ContinualClassifier(vit, renditions("tuning").first(2), "lora", 2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
