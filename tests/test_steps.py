"""Looks during training: what is seen at the last step is what is folded, and looking changes nothing."""

import sys
from pathlib import Path

import matplotlib.image
import torch

from stamina_lite import concepts, load_base, make_method
from stamina_lite.diffusion.model import TextToImage

sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))

import steps  # noqa: E402

FEW = {"steps": 4, "batch": 2, "rank": 2, "mask_rank": 2, "lr": 0.05}


def test_a_look_sees_what_would_be_folded_and_changes_nothing(tiny_folder, photos):
    found, ends = concepts(photos)[0], []
    for when in ((2, 4), ()):
        model, seen = TextToImage(load_base(tiny_folder, "cpu")), []

        def look(model=model, seen=seen):
            seen.append(model.generate([f"a photo of {found.token}"], [5], steps=2))

        steps.learn_and_look(model, found, make_method("stamina", **FEW), 0, 1, when, look)
        look()
        ends.append(seen)
    looked, plain = ends
    assert len(looked) == 3 and torch.equal(looked[2], plain[0])
    assert (looked[1] - looked[2]).abs().max() < 1e-4 < (looked[0] - looked[2]).abs().max()


def test_the_figure_has_a_line_a_method_and_rate(tmp_path):
    row = {"mmd": [3, 2.5, 2, 1.5, 1.4], "accuracy": [0.1, 0.2, 0.4, 0.6, 0.7]}
    keys = [f"{name} at {rate:g}" for name in steps.METHODS for rate in steps.RATES]
    steps.figure({"curves": {key: {"a": row, "b": row} for key in keys}}, tmp_path / "steps.png")
    assert matplotlib.image.imread(tmp_path / "steps.png").shape[1] == 9 * 150
