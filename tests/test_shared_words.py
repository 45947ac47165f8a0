"""What updates change at the words of a prompt."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from stamina_lite import ContinualLearner, concepts, load_base

sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))

import shared_words  # noqa: E402


def test_gain_is_the_change_per_unit_of_update_and_of_state():
    x, other = torch.eye(4)[:1] * 3, torch.eye(4)[1:2]
    update = torch.zeros(5, 4)
    update[:, 0] = 2.0  # answers to the first direction alone
    assert shared_words.gain([update, update], x) == pytest.approx(1.0)
    assert shared_words.gain([update], other) == 0.0
    half = torch.zeros(5, 4)
    half[:, 1] = 2.0
    assert shared_words.gain([update, half], x) == pytest.approx(0.5**0.5)
    random = torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    assert shared_words.gain([random], torch.eye(400)[:1]) == pytest.approx(400**-0.5, rel=0.1)


def test_gains_of_a_run_at_its_own_word_at_past_words_and_at_words_of_every_prompt(tiny_folder, photos, tmp_path):
    few = {"steps": 3, "batch": 2, "rank": 2, "lr": 0.5}
    run = tmp_path / "lora@1.alternate.0"
    learner = ContinualLearner(load_base(tiny_folder, "cpu"), "lora", 0, run, {"base_model": str(tiny_folder)}, **few)
    for concept in concepts(photos):
        learner.learn(concept, progress=False)
    shared, own = shared_words.hidden_states(learner.model, "<amber>")
    others = shared_words.hidden_states(learner.model, "<berry>")
    assert torch.equal(shared, others[0]) and shared.shape[0] > 1, (
        "words before V* have the same states in every prompt"
    )
    assert own.shape == (1, shared.shape[1]) and not torch.allclose(own, others[1])
    found = shared_words.gains(run)
    assert set(found) == set(shared_words.KINDS) and len(found["own"]) == 2, "tasks from the second on"
    assert all(0 < value <= 1 for kind in found.values() for value in kind.values())
    report = {"rows": {"lora@1": found}, "random": 0.2}
    assert shared_words.words_table(report).splitlines()[-1].startswith("| lora@1 | ")
    axis = shared_words.words_figure(report).axes[0]
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in "osD" and len(line.get_xdata())]
    assert means == pytest.approx([sum(kind.values()) / 2 for kind in found.values()])
    plt.close("all")
