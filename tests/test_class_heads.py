"""The benchmark that reads a run's features by their class means."""

import sys
from pathlib import Path

import pytest
import torch

from stamina_lite import ContinualClassifier, load_backbone
from stamina_lite.classification.datasets import renditions

sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))

import class_heads  # noqa: E402

FEW = {"epochs": 1, "lr": 0.01}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Of three runs on four classes in two tasks: what every kind of head tells right."""
    home, data = tmp_path_factory.mktemp("runs"), renditions().first(4)
    for method in ("ncm", "c-lora", "c-lora-means"):
        vit = load_backbone("mini", "cpu")
        ContinualClassifier(vit, data, method, 2, 1, home / method, **FEW).learn_all(progress=False)
    return {method: class_heads.measure(home / method, data) for method in ("ncm", "c-lora", "c-lora-means")}


def test_means_of_frozen_features_are_the_frozen_head(measured):
    own, kept, anew = (measured["ncm"]["right"][kind] for kind in class_heads.KINDS)
    assert own == kept == anew and sum(own) > 0


def test_means_that_are_kept_are_the_method_with_that_head(measured):
    """And not what the trained head tells, nor what means of the last features would."""
    trained, means = measured["c-lora"]["right"], measured["c-lora-means"]["right"]
    assert trained["means kept"] == means["own head"] == means["means kept"]
    assert len({tuple(trained[kind]) for kind in class_heads.KINDS}) == 3


def test_the_table_is_a_n_and_its_distance_from_the_frozen_mean(measured):
    run = {"tasks": [[0], [1]], "asked": [10, 30]}
    rows = {
        "ncm": {"1": {**run, "right": dict.fromkeys(class_heads.KINDS, [5, 15])}},
        "ft": {"1": {**run, "right": {"own head": [0, 30], "means kept": [6, 18], "means anew": [8, 24]}}},
    }
    head, _, line = class_heads.heads_table({"rows": rows}).splitlines()
    cells = [cell.strip().split(" [")[0] for cell in line.strip("|").split("|")]
    assert cells == ["ft", "50.0", "60.0", "80.0", "10.0", "30.0"] and "means anew minus frozen" in head
    rows["coda-p"], rows["c-lora"] = rows["ncm"], rows["ft"]
    first, second, *_ = class_heads.pairs_table({"rows": rows}).splitlines()[2:]
    assert [cell.strip().split(" [")[0] for cell in first.strip("|").split("|")][1:] == ["0.0", "10.0", "30.0"]
    assert second == "| stamina minus c-lora | – | – | – |"
    assert torch.equal(class_heads.resampled_a_n(rows["ft"]["1"], "own head")[:1], torch.tensor([50.0]).double())
