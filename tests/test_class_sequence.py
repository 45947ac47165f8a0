import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from stamina_lite.classification.datasets import ClassDataset, of_classes
from stamina_lite.classification.learner import ContinualClassifier
from stamina_lite.errors import UserError

FEW = {"epochs": 1, "batch": 8, "rank": 2, "mask_rank": 2, "n_prior": 4}

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import conftest
from stamina_lite.classification.learner import ContinualClassifier
patches, vit = (made.__wrapped__() for made in (conftest.patches, conftest.vit))
learner = ContinualClassifier(vit, patches, sys.argv[3], 3, 1, sys.argv[2], epochs=8, batch=8, rank=2, n_prior=4)
while learner.left:
    learner.learn(progress=False)
    print("learned", flush=True)
"""


def weights(run, task="003"):
    return load_file(run / "tasks" / task / "tensors.safetensors")


def test_a_killed_run_ends_bit_identical_to_one_left_alone(tmp_path):
    here = os.path.dirname(__file__)

    def command(out):
        return [sys.executable, "-c", SCRIPT, here, str(tmp_path / out), "stamina"]

    subprocess.run(command("alone"), check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(command("killed"), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "learned\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len([*(tmp_path / "killed" / "tasks").glob("[0-9]*")]) < 3, "the kill came too late to prove anything"
    subprocess.run(command("killed"), check=True, stdout=subprocess.DEVNULL)
    alone, killed = weights(tmp_path / "alone"), weights(tmp_path / "killed")
    assert set(alone) == set(killed) and all(torch.equal(alone[k], killed[k]) for k in alone)
    assert alone["head.weight"].abs().sum(1).min() > 0
    told = [json.loads((tmp_path / run / "results.json").read_text())["accuracy"] for run in ("alone", "killed")]
    assert told[0] == told[1] and [len(row) for row in told[0]] == [1, 2, 3]


@pytest.mark.parametrize("name", ["ewc", "lwf", "coda-p", "dualprompt", "inflora", "sd-lora", "ncm"])
def test_a_run_taken_up_again_ends_as_one_left_alone(patches, tmp_path, name):
    def go_on(out, count):
        from conftest import vit

        learner = ContinualClassifier(vit.__wrapped__(), patches, name, 3, 2, tmp_path / out, **FEW)
        while len(learner.records) < count:
            learner.learn(progress=False)
        return learner

    alone = go_on("alone", 3)
    go_on("again", 2)
    again = go_on("again", 3)
    one, two = weights(tmp_path / "alone"), weights(tmp_path / "again")
    assert set(one) == set(two) and all(torch.equal(one[k], two[k]) for k in one)
    assert alone.results()["accuracy"] == again.results()["accuracy"]
    kept = {k.split(".")[1] for k in one if k.startswith("memory.")}
    assert kept == {"ewc": {"fisher"}, "inflora": {"space"}, "sd-lora": {"A", "B", "alpha"}}.get(name, set())


def test_accuracy_is_counted_task_by_task(vit, patches):
    learner = ContinualClassifier(vit, patches, "ncm", 3, seed=1)
    rows = [learner.learn(progress=False)["accuracy"] for _ in range(3)]
    assert [len(row) for row in rows] == [1, 2, 3] and rows[0] == [100.0]
    assert sorted(sum(learner.tasks, [])) == [*range(6)] != sum(learner.tasks, [])
    for k, classes in enumerate(learner.tasks):
        indices = of_classes(patches.test, classes)
        right = learner.model.predict(patches.test.load(indices)) == patches.test.labels[indices]
        assert rows[2][k] == pytest.approx(100 * right.double().mean().item())
    results = learner.results()
    assert results["a_n"] == pytest.approx(sum(rows[2]) / 3)
    assert results["f_n"] == pytest.approx(
        ((rows[0][0] - rows[1][0]) + sum(rows[1][k] - rows[2][k] for k in (0, 1)) / 2) / 2
    )
    with pytest.raises(UserError, match="all 3 tasks are learned"):
        learner.learn()


def test_all_classes_at_once_are_one_round(vit, patches):
    learner = ContinualClassifier(vit, patches, "ub", 3, **FEW)
    results = learner.learn_all(progress=False)
    assert [len(row) for row in results["accuracy"]] == [3] and results["f_n"] is None and results["a_n"] > 0
    assert learner.records[0]["classes"] == [*range(6)] and not learner.left


def test_what_is_stored_beside_the_model_is_counted(patches):
    from conftest import vit

    def stored(name):
        made = vit.__wrapped__()
        total = sum(p.numel() for p in made.parameters())
        results = ContinualClassifier(made, patches, name, 3, **FEW).learn_all(progress=False)
        return results["n_param"]["store"] * total / 100 - (6 * 24 + 6)

    assert stored("stamina") == pytest.approx(0, abs=1e-6)
    assert stored("sd-lora") == pytest.approx(10 * 3 * (2 * 24 * 2 + 1))  # directions and magnitudes of three tasks
    assert stored("coda-p") == pytest.approx(5 * 99 * (2 * 24 + 8 * 24))


def test_another_run_is_refused(vit, patches, tmp_path):
    ContinualClassifier(vit, patches, "lora", 3, 0, tmp_path / "run", **FEW).learn(progress=False)
    from conftest import vit as made

    with pytest.raises(UserError, match=r"holds another run \(tasks is 3 there and 2 here\)"):
        ContinualClassifier(made.__wrapped__(), patches, "lora", 2, 0, tmp_path / "run", **FEW)
    other = made.__wrapped__()
    torch.nn.init.ones_(other.cls_token)
    with pytest.raises(UserError, match=r"was begun on the base \(\w+\), not on \(\w+\): give --base"):
        ContinualClassifier(other, patches, "lora", 3, 0, tmp_path / "run", **FEW)
    swapped = ClassDataset("patches", patches.classes, patches.test, patches.train)
    with pytest.raises(UserError, match=r"holds another run \(set_hash is \w+ there and \w+ here\)"):
        ContinualClassifier(made.__wrapped__(), swapped, "lora", 3, 0, tmp_path / "run", **FEW)
    told = r"\(settings epochs is 1 there and 3 here; settings rank is 2 there and 4 here\)"
    other = {**FEW, "rank": 4, "epochs": 3}
    with pytest.raises(UserError, match=told):
        ContinualClassifier(made.__wrapped__(), patches, "lora", 3, 0, tmp_path / "run", **other)
    with pytest.raises(UserError, match="6 classes make no 7 tasks: choose 1 to 6"):
        ContinualClassifier(made.__wrapped__(), patches, "lora", 7, **FEW)


def test_results_are_those_of_the_last_task_whenever_a_run_was_killed(vit, patches, tmp_path):
    """Killed between a task and its results, or after both: the same command writes them anew."""
    from conftest import vit as made

    def go_on(by):
        return ContinualClassifier(by, patches, "lora", 3, 0, tmp_path / "run", **FEW)

    file, learner = tmp_path / "run" / "results.json", go_on(vit)
    for _ in range(2):
        learner.learn(progress=False)
    older = file.read_text()
    results = go_on(made.__wrapped__()).learn_all(progress=False)
    assert json.loads(file.read_text())["a_n"] == results["a_n"] != json.loads(older)["a_n"]
    for left in (older, None):
        file.unlink() if left is None else file.write_text(left)
        assert go_on(made.__wrapped__()).learn_all(progress=False)["a_n"] == results["a_n"]
        assert json.loads(file.read_text())["a_n"] == results["a_n"]
    shutil.copytree(tmp_path / "run" / "tasks" / "003", tmp_path / "run" / "tasks" / "004")
    with pytest.raises(UserError, match="tasks/004 is of no task of this run: delete it"):
        go_on(made.__wrapped__())


def test_training_that_runs_away_is_told_and_leaves_the_model_as_it_was(vit, patches):
    learner = ContinualClassifier(vit, patches, "ft", 3, **{**FEW, "lr": 1e30})
    before = {name: weight.clone() for name, weight in vit.state_dict().items()}
    with pytest.raises(UserError, match="lower the learning rates"):
        learner.learn_all(progress=False)
    assert not learner.records and all(torch.equal(before[name], w) for name, w in vit.state_dict().items())


def test_an_altered_task_is_refused(vit, patches, tmp_path):
    ContinualClassifier(vit, patches, "lora", 3, 0, tmp_path / "run", **FEW).learn(progress=False)
    file = tmp_path / "run" / "tasks" / "001" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    from conftest import vit as made

    with pytest.raises(UserError, match="truncated or altered: delete .*001"):
        ContinualClassifier(made.__wrapped__(), patches, "lora", 3, 0, tmp_path / "run", **FEW)
