"""A run of classes from a user's folder to predictions and to a folder that stock timm and transformers read."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_class_bench import mistake, vit_folder  # noqa: F401

from stamina_lite import cli
from stamina_lite.classification.prediction import Predictor, picture_files
from stamina_lite.errors import UserError

COLOURS = {"red cup": (200, 40, 40), "grün": (40, 180, 40), "blue": (40, 40, 200), "grey": (120, 120, 120)}
HEADS = ("means", "trained", "ranpac", "aligned")

STOCK = """
import json, sys
import timm, torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from transformers import TimmWrapperForImageClassification
folders, files = sys.argv[1].split(","), sys.argv[2:]
assert "stamina_lite" not in sys.modules
for folder in folders:
    config = json.load(open(folder + "/config.json"))
    local = timm.create_model("local-dir:" + folder, pretrained=True).eval()
    file = folder + "/model.safetensors"
    sizes = {"num_classes": config["num_classes"], **config["model_args"]}
    by_path = timm.create_model(config["architecture"], checkpoint_path=file, **sizes).eval()
    wrapped = TimmWrapperForImageClassification.from_pretrained(folder).eval()
    transform = create_transform(**resolve_model_data_config(local))
    x = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        outputs = [local(x), by_path(x), wrapped(x).logits]
    names = [wrapped.config.id2label[k] for k in range(len(wrapped.config.id2label))]
    assert names == list(local.pretrained_cfg["label_names"]) and wrapped.config.label2id[names[1]] == 1
    print(json.dumps({"names": names, "probabilities": [y.softmax(1).tolist() for y in outputs]}))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("photos") / "my things"
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for k in range(6):
            picture = (rng.normal(0, 25, (80, 100, 3)) + colour).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(root / name / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def run(photos, vit_folder, tmp_path_factory):  # noqa: F811
    """Four classes in three tasks, in a listed order, with every head."""
    home = tmp_path_factory.mktemp("runs")
    order = home / "order.txt"
    order.write_text("grey\ngrün\nred cup\nblue\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setattr("stamina_lite.methods.heads.RanPAC.M", 60)
        argv = ["bench", photos, "--test-share", "0.3", "--base", vit_folder, "--method", "c-lora", "--rank", "2"]
        argv += ["--first", "2", "--increment", "1", "--order", order, "--epochs", "3", "--out", home / "run"]
        assert cli.main([str(a) for a in (*argv, "--head", *HEADS)]) == 0
        yield home / "run"


def printed(capsys, *argv):
    assert cli.main([str(a) for a in argv]) == 0
    return capsys.readouterr().out


def test_a_folder_is_learned_in_the_listed_order_and_uneven_tasks(run):
    about, results = (json.loads((run / f"{name}.json").read_text()) for name in ("run", "results"))
    names = [json.loads((run / "tasks" / t / "task.json").read_text())["names"] for t in ("001", "002", "003")]
    assert names == [["grey", "grün"], ["red cup"], ["blue"]]
    assert about["set"] == "my things" and about["sizes"] == [2, 1, 1] and about["heads"] == [*HEADS]
    assert [len(row) for row in results["accuracy"]] == [1, 2, 3] and results["asked"] == [2] * 4
    assert results["head"] == "means" and results["a_n"] == results["heads"]["means"]["a_n"] > 80


def test_predictions_are_text_json_and_csv(run, photos, capsys):
    text = printed(capsys, "predict", run, photos, "--top", 2)
    lines = dict(line.rsplit(": ", 1) for line in text.splitlines())
    assert len(lines) == 24 and all(answer.count(",") == 1 for answer in lines.values())
    right = [answer.startswith(f"{file.split('/')[-2]} ") for file, answer in lines.items()]
    assert sum(right) > 20
    found = json.loads(printed(capsys, "predict", run, photos / "grün" / "1.png", "--format", "json"))
    (answer,) = found
    assert answer["file"] == str(photos / "grün" / "1.png") and len(answer["classes"]) == 4
    shares = [c["probability"] for c in answer["classes"]]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    table = [*csv.DictReader(io.StringIO(printed(capsys, "predict", run, photos / "blue", "--format", "csv")))]
    assert len(table) == 24 and [row["rank"] for row in table[:5]] == ["1", "2", "3", "4", "1"]
    assert {row["class"] for row in table} == {*COLOURS} and float(table[0]["probability"]) > 0.25


def test_heads_of_one_run_answer_differently(run, photos, capsys):
    file = photos / "red cup" / "0.png"
    answers = {head: printed(capsys, "predict", run, file, "--head", head) for head in HEADS}
    assert len({*answers.values()}) == 4 and printed(capsys, "predict", run, file) == answers["means"]


def test_predictions_are_those_of_the_test(run, photos, monkeypatch):
    """Of the test pictures the predictor gets as many right as the run says, with every head."""
    from stamina_lite.classification.image_folder import image_folder

    data, results = image_folder(photos, 64, 0.3), json.loads((run / "results.json").read_text())
    for head in HEADS:
        predictor = Predictor(run, head)
        answers = predictor.predict_files(data.test.files, 1)
        right = [
            answer["classes"][0]["name"] == data.classes[label]
            for answer, label in zip(answers, data.test.labels.tolist(), strict=True)
        ]
        assert sum(right) == sum(results["heads"][head]["right"][-1])


def test_stock_timm_and_transformers_read_an_export(run, photos, capsys, tmp_path):
    """In a process of their own, without stamina_lite, from files to names and probabilities."""
    exports = {head: tmp_path / head for head in ("trained", "means", "aligned")}
    for head, folder in exports.items():
        told = printed(capsys, "export", run, "--to", "timm", "--head", head, "--out", folder)
        assert told.startswith("verified: 4 classes, max difference")
        assert float(told.split("base: ")[1].split(")")[0]) > 0
        assert {f.name for f in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "library_name: timm" in card and f"head `{head}`" in card and "grün" in card
    files = [str(photos / name / "2.png") for name in COLOURS]
    command = [sys.executable, "-c", STOCK, ",".join(map(str, exports.values())), *files]
    stock = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    for head, line in zip(exports, stock.splitlines(), strict=True):
        answer = json.loads(line)
        assert answer["names"] == ["grey", "grün", "red cup", "blue"]
        ours = [{c["name"]: c["probability"] for c in p["classes"]} for p in Predictor(run, head).predict_files(files)]
        expected = torch.tensor([[row[name] for name in answer["names"]] for row in ours])
        assert expected.std() > 0.01
        for found in answer["probabilities"]:
            assert torch.allclose(torch.tensor(found), expected, atol=1e-5)


def test_mistakes_are_one_line(run, photos, vit_folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    file = photos / "blue" / "1.png"
    assert "does not exist: give images" in mistake(capsys, "predict", run, tmp_path / "none.png")
    assert "has no image files" in mistake(capsys, "predict", run, tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    assert "cannot read" in mistake(capsys, "predict", run, tmp_path / "bad.jpg")
    assert "has no head knn: choose means, trained" in mistake(capsys, "predict", run, file, "--head", "knn")
    assert "begun on the base" in mistake(capsys, "predict", run, file, "--base", "mini")
    assert "run.json is missing" in mistake(capsys, "predict", tmp_path, file)
    shutil.copytree(run, tmp_path / "new", ignore=lambda folder, names: [n for n in names if n == "003"])
    shutil.rmtree(tmp_path / "new" / "tasks")
    assert "has learned nothing yet" in mistake(capsys, "predict", tmp_path / "new", file)
    out = tmp_path / "out"
    assert "ranpac is not linear" in mistake(capsys, "export", run, "--to", "timm", "--head", "ranpac", "--out", out)
    assert "--to lora is for concepts" in mistake(capsys, "export", run, "--to", "lora", "--out", out)
    assert "--rank is for concepts" in mistake(capsys, "export", run, "--to", "timm", "--rank", "2", "--out", out)
    bench = ["bench", photos, "--test-share", "0.3", "--base", vit_folder, "--method", "lora", "--out", out]
    assert "give one of them" in mistake(capsys, *bench, "--tasks", 2, "--increment", 2)
    assert "give --increment" in mistake(capsys, *bench, "--first", 2)
    assert "4 classes make no 5 tasks" in mistake(capsys, *bench, "--tasks", 5)
    assert "unknown head knn" in mistake(capsys, *bench, "--head", "knn")
    assert "cannot read" in mistake(capsys, *bench, "--order", "people-first")
    concepts = ["bench", photos, "--method", "lora", "--out", out]
    assert "--tasks is for classes" in mistake(capsys, *concepts, "--tasks", 2)
    assert "unknown order upwards" in mistake(capsys, *concepts, "--order", "upwards")
    assert not out.exists()


def test_prompts_are_not_exported(photos, vit_folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from stamina_lite.methods.prompts import L2P

    monkeypatch.setattr(L2P, "pool", 6)
    argv = ["bench", photos, "--test-share", "0.3", "--base", vit_folder, "--method", "l2p++", "--epochs", "1"]
    assert cli.main([str(a) for a in (*argv, "--tasks", "2", "--out", tmp_path / "run")]) == 0
    capsys.readouterr()
    message = mistake(capsys, "export", tmp_path / "run", "--to", "timm", "--out", tmp_path / "out")
    assert "l2p++ has prompts, which a stock ViT does not read" in message
    assert len([*Predictor(tmp_path / "run").predict_files(picture_files([photos]), 1)]) == 24


def test_runs_of_concepts_are_no_classifiers(tmp_path):
    record = {"method": "lora", "settings": {}, "seed": 0, "base": "x", "tasks": 1}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="has learned concepts, not classes: see stamina-lite generate"):
        Predictor(tmp_path)
