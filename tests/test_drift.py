"""Images of a run as its model drew them after earlier tasks."""

import sys
from pathlib import Path

from stamina_lite import ContinualLearner, concepts, load_base
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
