"""Checkpoints, the stop button and samples within a task."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stamina_lite import ContinualLearner, cli, concepts, load_base
from stamina_lite.errors import UserError
from stamina_lite.runs.checkpoint import FILE
from stamina_lite.runs.files import load_task
from stamina_lite.runs.interrupts import Stopped

FEW = {"steps": 7, "batch": 2, "rank": 2, "lr": 0.02}


def stored(run) -> tuple[dict, dict, list]:
    """Tensors, record and log of the first two tasks."""
    tasks = [load_task(run / "tasks" / f"{t:03d}") for t in (1, 2)]
    times = ("seconds", "peak_memory", "sha256")
    records = [{k: v for k, v in about.items() if k not in times} for _, about in tasks]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return tasks[1][0], records, log


def learner(folder, out, method, dtype=torch.float32, **options):
    settings = {**FEW, **({"n_prior": 2} if method in ("custom-diffusion", "replay") else {})}
    settings = {**settings, **({"lr": 1e-3} if method == "dreambooth" else {})}
    return ContinualLearner(load_base(folder, "cpu", dtype), method, out=out, **options, **settings)


def interrupt_at(learner, step: int) -> None:
    """Ctrl-C after a step of the next task."""
    learn = learner.model.learn

    def interrupted(concepts, method, seed, task, on_step, checkpoint):
        def stop(number, numbers):
            on_step(number, numbers)
            if number == step:
                raise KeyboardInterrupt

        return learn(concepts, method, seed, task, stop, checkpoint)

    learner.model.learn = interrupted


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("stamina", torch.float32),
        ("stamina", torch.float16),  # with a scaled loss
        ("lora-ewc", torch.float32),
        ("custom-diffusion", torch.float32),
        ("dreambooth", torch.float32),
    ],
)
def test_a_task_that_was_interrupted_goes_on_with_the_same_result(tiny_folder, photos, tmp_path, method, dtype):
    found = concepts(photos)[:2]
    whole = learner(tiny_folder, tmp_path / "whole", method, dtype)
    for concept in found:
        whole.learn(concept, progress=False)
    run = tmp_path / "run"
    begun = learner(tiny_folder, run, method, dtype, save_every=2)
    begun.learn(found[0], progress=False)
    interrupt_at(begun, step=4)
    with pytest.raises(KeyboardInterrupt):
        begun.learn(found[1], progress=False)
    del begun
    assert (run / FILE).is_file() and not (run / "tasks" / "002").exists()
    again, made = learner(tiny_folder, run, method, dtype, save_every=2), []
    learn = again.model.learn
    again.model.learn = lambda c, m, seed, task, on_step, checkpoint: learn(
        c, m, seed, task, lambda step, numbers: (made.append(step), on_step(step, numbers)), checkpoint
    )
    again.learn(found[1], progress=False)
    assert made == [4, 5, 6]  # steps 0 to 3 were saved
    assert not (run / FILE).exists()
    tensors, records, log = stored(run)
    expected_tensors, expected_records, expected_log = stored(tmp_path / "whole")
    assert tensors.keys() == expected_tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected_tensors.items())
    assert log == expected_log
    for record, expected in zip(records, expected_records, strict=True):
        for key, value in expected.items():  # sums over a model depend on its tensors' layout
            assert record[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key


def test_a_killed_command_goes_on_within_its_concept(tiny_folder, photos, tmp_path, capsys):
    argv = ["learn", photos / "amber", "--method", "stamina", "--base", tiny_folder, "--batch", "2", "--device", "cpu"]
    argv = [str(word) for word in (*argv, "--steps", "400", "--save-every", "5", "--out", tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-m", "stamina_lite.cli", *argv], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "run" / FILE).exists() and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / "run" / FILE).is_file() and not (tmp_path / "run" / "tasks" / "001").exists()
    assert cli.main(argv) == 0
    assert not (tmp_path / "run" / FILE).exists() and (tmp_path / "run" / "tasks" / "001").is_dir()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [*range(400)]
    seconds = json.loads((tmp_path / "run" / "tasks" / "001" / "task.json").read_text())["seconds"]
    assert seconds > 0.5


def test_a_checkpoint_of_other_pictures_is_not_used_and_a_damaged_one_is_said(tiny_folder, photos, tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine"
    shutil.copytree(photos, mine)
    begun = learner(tiny_folder, run, "lora", save_every=2)
    interrupt_at(begun, step=4)
    with pytest.raises(KeyboardInterrupt):
        begun.learn(concepts(mine)[0], progress=False)
    del begun
    (mine / "amber" / "0.png").write_bytes((mine / "berry" / "0.png").read_bytes())
    saved = (run / FILE).read_bytes()
    learner(tiny_folder, run, "lora", save_every=2).learn(concepts(mine)[0], progress=False)
    fresh = learner(tiny_folder, tmp_path / "fresh", "lora")
    fresh.learn(concepts(mine)[0], progress=False)
    same = [load_file(f / "tasks/001/tensors.safetensors") for f in (run, tmp_path / "fresh")]
    assert all(torch.equal(same[0][name], tensor) for name, tensor in same[1].items())
    shutil.rmtree(run)
    damaged = learner(tiny_folder, run, "lora", save_every=2)
    (run / FILE).write_bytes(saved[: len(saved) // 2])
    with pytest.raises(UserError, match=f"{FILE} is damaged: delete it to learn this task from its first step"):
        damaged.learn(concepts(photos)[0], progress=False)


def test_checkpoints_are_on_by_default_for_large_bases_only(tiny_folder, photos, tmp_path, monkeypatch):
    assert learner(tiny_folder, tmp_path / "run", "lora").save_every == 0
    monkeypatch.setattr("stamina_lite.diffusion.learner.LARGE", 32)
    assert learner(tiny_folder, tmp_path / "run", "lora").save_every == 100
    assert learner(tiny_folder, tmp_path / "run", "lora", save_every=0).save_every == 0


@pytest.fixture
def interruptible():
    """The handler of SIGINT that Python, a notebook's kernel and the command line have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def stop_button(at: int, steps: list, presses: int = 1):
    """A callback that notes the steps, and presses the stop button in one of them."""

    def on_step(step, numbers):
        steps.append(step)
        for _ in range(presses if step == at else 0):
            signal.raise_signal(signal.SIGINT)

    return on_step


@pytest.mark.parametrize("method", ["stamina", "custom-diffusion"])
@pytest.mark.parametrize("restarted", [False, True], ids=["same kernel", "kernel restarted"])
def test_the_stop_button_costs_no_step(tiny_folder, photos, tmp_path, interruptible, method, restarted):
    found, run, steps = concepts(photos)[:2], tmp_path / "run", []
    begun = learner(tiny_folder, run, method)
    begun.learn(found[0], progress=False)
    with pytest.raises(Stopped, match="Stopped after step 4, which is saved"):
        begun.learn(found[1], progress=False, on_step=stop_button(3, steps))
    assert [*begun.model.token_ids] == ["<amber>"] and (run / FILE).is_file()
    with pytest.raises(UserError, match="unknown token <berry>: choose <amber>"):
        begun.generate("a photo of <berry>")
    if restarted:
        del begun
        begun = learner(tiny_folder, run, method)
    begun.learn(found[1], progress=False, on_step=stop_button(-1, steps))
    assert steps == [*range(7)]
    whole = learner(tiny_folder, tmp_path / "whole", method)
    for concept in found:
        whole.learn(concept, progress=False)
    (tensors, _, log), (expected_tensors, _, expected_log) = stored(run), stored(tmp_path / "whole")
    assert log == expected_log and tensors.keys() == expected_tensors.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected_tensors.items())


def test_a_second_interrupt_ends_the_step_at_once(tiny_folder, photos, tmp_path, interruptible):
    concept, begun = concepts(photos)[0], learner(tiny_folder, tmp_path / "run", "lora")
    with pytest.raises(KeyboardInterrupt) as caught:
        begun.learn(concept, progress=False, on_step=stop_button(3, [], presses=2))
    assert not isinstance(caught.value, Stopped) and not (tmp_path / "run" / FILE).exists()
    assert begun.learn(concept, progress=False)["task"] == 1


def test_without_a_folder_the_stop_button_loses_the_concept_only(tiny_folder, photos, interruptible):
    found, begun, steps = concepts(photos)[:2], learner(tiny_folder, None, "lora"), []
    begun.learn(found[0], progress=False)
    weights = [layer.current.clone() for layer in begun.model.layers]
    with pytest.raises(Stopped, match="no step is kept"):
        begun.learn(found[1], progress=False, on_step=stop_button(3, steps))
    assert all(torch.equal(layer.current, w) for layer, w in zip(begun.model.layers, weights, strict=True))
    assert begun.learn(found[1], progress=False, on_step=stop_button(-1, steps))["task"] == 2
    assert steps == [*range(4), *range(7)]


def test_a_task_is_stored_whole_when_the_stop_button_comes_late(
    tiny_folder, photos, tmp_path, interruptible, monkeypatch
):
    concept, begun, steps = concepts(photos)[0], learner(tiny_folder, tmp_path / "run", "lora"), []
    finish = begun.finish

    def stopped_while_it_finishes(*task):
        signal.raise_signal(signal.SIGINT)
        return finish(*task)

    monkeypatch.setattr(begun, "finish", stopped_while_it_finishes)
    with pytest.raises(KeyboardInterrupt):
        begun.learn(concept, progress=False)
    assert (tmp_path / "run" / "tasks" / "001" / "task.json").is_file()
    assert begun.learn(concept, progress=False, on_step=stop_button(-1, steps))["task"] == 1 and not steps


def test_a_learner_of_a_pipeline_that_has_learned_the_run_says_what_to_do(tiny_folder, photos, tmp_path):
    """As when a notebook's cell is run twice."""
    first = learner(tiny_folder, tmp_path / "run", "lora")
    again = ContinualLearner(first.pipe, "lora", out=tmp_path / "run", **FEW)  # it has learned nothing yet
    again.learn(concepts(photos)[0], progress=False)
    with pytest.raises(UserError, match="has learned <amber> already: load the base again"):
        ContinualLearner(first.pipe, "lora", out=tmp_path / "run", **FEW)
    assert len(learner(tiny_folder, tmp_path / "run", "lora").records) == 1


def test_samples_show_the_concept_as_it_would_be_folded_and_change_nothing(tiny_folder, photos, tmp_path):
    concept = concepts(photos)[0]
    plain, sampled = (learner(tiny_folder, tmp_path / name, "stamina", **options) for name, options in
                      (("plain", {}), ("sampled", {"sample_every": 3})))  # fmt: skip
    for each in (plain, sampled):
        each.learn(concept, progress=False)
    tensors = [load_file(tmp_path / name / "tasks/001/tensors.safetensors") for name in ("plain", "sampled")]
    assert all(torch.equal(tensors[0][name], tensor) for name, tensor in tensors[1].items())
    folder = tmp_path / "sampled" / "images" / "during-001"
    assert sorted(file.name for file in folder.iterdir()) == ["step-00003.png", "step-00006.png"]
    first, last = (Image.open(folder / f"step-0000{k}.png").tobytes() for k in (3, 6))
    assert Image.open(folder / "step-00003.png").size == (4 * 32, 32) and first != last
    exact = learner(tiny_folder, tmp_path / "exact", "stamina", sample_every=7)  # after the last step
    exact.learn(concept, progress=False)
    end = exact.generate("a photo of <amber>", n=4)[1]
    sheet = Image.open(tmp_path / "exact" / "images" / "during-001" / "step-00007.png")
    assert sheet.crop((32, 0, 64, 32)).tobytes() == end.tobytes()
