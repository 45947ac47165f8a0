"""Images of a run as its model drew them after earlier tasks."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from stamina_lite import ContinualLearner, concepts, load_base, plots
from stamina_lite.plots.concepts import kept_pictures, kept_tasks

sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))

import drift  # noqa: E402


def test_a_concept_is_drawn_after_its_task_and_after_later_ones(tiny_folder, photos, tmp_path):
    base, few = load_base(tiny_folder, "cpu"), {"steps": 2, "batch": 2, "rank": 2, "lr": 0.5}
    about = {"base_model": str(tiny_folder)}
    learner = ContinualLearner(base, "lora", 0, tmp_path / "lora.alternate.0", about, **few)
    for concept in concepts(photos):
        learner.learn(concept, progress=False)
    drift.draw(tmp_path / "lora.alternate.0", tmp_path / "out", n_concepts=2, every=1, n_images=2)
    assert kept_tasks(tmp_path / "out") == [(1, "amber"), (2, "berry"), (3, "amber"), (3, "berry")]
    then, now = (kept_pictures(tmp_path / "out", task, "amber") for task in (1, 3))
    assert len(now) == 2 and then[0].size == (32, 32)
    assert then[0].tobytes() != now[0].tobytes(), "two later tasks have changed the weights"
    figure = plots.drift_sheet({"lora": tmp_path / "out"}, "amber", real=then[1])
    assert [axis.get_title() for axis in figure.axes] == ["real", "after 1", "after 3"]
    assert [axis.images[0].get_array().tobytes() for axis in figure.axes] == [
        image.tobytes() for image in (then[1], then[0], now[0])
    ]
    plt.close(figure)
