"""TensorBoard events, read back with TensorBoard's own reader."""

import io
import json

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stamina_lite import ContinualLearner, cli, concepts
from stamina_lite.diffusion.evaluation import Evaluation
from stamina_lite.diffusion.learner import run_sequence
from stamina_lite.measures.features import features

FEW = {"steps": 3, "batch": 2, "rank": 2, "lr": 0.02}


def events(run) -> EventAccumulator:
    found = EventAccumulator(str(run / "events"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def values(found: EventAccumulator, tag: str) -> dict:
    return {event.step: event.value for event in found.Scalars(tag)}


def test_a_measured_run_has_its_losses_rates_likeness_and_images(tiny, photos, tmp_path):
    found = concepts(photos)[:2]
    learner = ContinualLearner(tiny, "stamina", out=tmp_path / "run", **FEW)
    evaluation = Evaluation(found, features("lite0"), features("lite0", greyscale=True), n=2, steps=2)
    results = run_sequence(learner, found, evaluation, progress=False)
    seen = events(tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = values(seen, "train/loss")
    assert losses == pytest.approx({k: line["loss"] for k, line in enumerate(log)}) and len(losses) == 6
    assert values(seen, "train/lr") == pytest.approx(dict.fromkeys(range(6), 0.02))
    assert values(seen, "just_learned/mmd2") == pytest.approx({t: results["mmd"][t][t] for t in (1, 2)})
    assert values(seen, "task/step_change") == pytest.approx(
        {t: r["step_change"] for t, r in enumerate(learner.records, 1)}
    )
    assert values(seen, "final/a_mmd") == pytest.approx({2: results["a_mmd"]})
    assert sorted(seen.Tags()["images"]) == ["amber", "berry"]
    image = seen.Images("berry")[0]
    assert (image.step, image.width, image.height) == (2, 64, 32)
    shown, stored = Image.open(io.BytesIO(image.encoded_image_string)), tmp_path / "run" / "images" / "after-002"
    assert shown.crop((32, 0, 64, 32)).tobytes() == Image.open(stored / "berry" / "01.png").tobytes()


def test_events_of_a_task_that_was_killed_are_replaced(tiny_folder, photos, tmp_path):
    from stamina_lite import load_base

    def killed(step, numbers):
        raise KeyboardInterrupt

    def learner():
        return ContinualLearner(load_base(tiny_folder, "cpu"), "lora", out=tmp_path / "run", **FEW)

    begun = learner()
    learn = begun.model.learn
    begun.model.learn = lambda c, m, seed, task, on_step, checkpoint: learn(
        c, m, seed, task, lambda step, numbers: (on_step(step, numbers), killed(step, numbers)) if step == 1 else
        on_step(step, numbers), checkpoint,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        begun.learn(concepts(photos)[0], progress=False)
    begun.events.flush()
    assert len(values(events(tmp_path / "run"), "train/loss")) == 2
    del begun
    again = learner()
    again.learn(concepts(photos)[0], progress=False)
    assert [event.step for event in events(tmp_path / "run").Scalars("train/loss")] == [0, 1, 2]


def test_a_run_in_memory_and_an_opened_one_write_no_events(tiny, photos, tmp_path):
    learner = ContinualLearner(tiny, "lora", **FEW)
    learner.learn(concepts(photos)[0], progress=False)
    assert learner.events.writer is None and not any(tmp_path.iterdir())


def test_wandb_that_is_not_installed_is_one_line(tiny_folder, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    argv = ["learn", photos / "amber", "--method", "lora", "--base", tiny_folder, "--wandb", "--out", tmp_path / "run"]
    assert cli.main([str(word) for word in argv]) == 2
    error = capsys.readouterr().err
    assert "pip install wandb, or leave --wandb out" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
