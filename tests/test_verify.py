"""`stamina-lite verify`: one line for each run, and exit code 2 where a file was changed."""

import json

import pytest
import torch
from test_grid import write_run

from stamina_lite import cli
from stamina_lite.runs.files import save_task


@pytest.fixture
def run(tmp_path):
    """A sealed run with two tasks."""
    folder = tmp_path / "runs" / "lora.alternate.0"
    folder.parent.mkdir()
    write_run(folder)
    for k in (1, 2):
        save_task(folder / "tasks" / f"{k:03d}", {"W": torch.full((2, 3), float(k))}, {"task": k})
    return folder


def test_runs_that_are_unchanged(run, capsys):
    write_run(run.parent / "lora.alternate.1")
    assert cli.main(["verify", str(run.parent)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"ok      {run}  2 tasks, results and run.json" and "lora.alternate.1  0 tasks" in second


@pytest.mark.parametrize("file", ["tasks/002/tensors.safetensors", "run.json"])
def test_a_changed_byte_is_found(run, capsys, file):
    content = bytearray((run / file).read_bytes())
    content[-3] ^= 1
    (run / file).write_bytes(content)
    assert cli.main(["verify", str(run)]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"DAMAGED {run}  {run}") and "was changed" in line


def test_no_run_or_several(run, tmp_path, capsys):
    write_run(run.parent / "lora.alternate.1")
    assert cli.main(["verify", str(run.parent), "--retrain"]) == 2
    assert "--retrain trains one run, and 2 are named" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "nothing")]) == 2
    assert "no runs in" in capsys.readouterr().err


def test_a_run_trained_anew_is_equal_or_named(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--tasks", "2", "--epochs", "1", "--rank", "1", "--concepts", "4", "--out", str(run)]
    assert cli.main(["bench", "tuning", "--method", "lora", *words]) == 0
    assert cli.main(["verify", str(run), "--retrain"]) == 0
    assert "trained anew: results and 2 tasks are equal bit for bit" in capsys.readouterr().out

    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"a_n": results["a_n"] + 1}))
    assert cli.main(["verify", str(run), "--retrain"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("stamina-lite: ") and "is another when trained anew: a_n is" in line

    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"set_hash": "0"}))
    assert cli.main(["verify", str(run), "--retrain"]) == 2
    assert "cannot be trained anew: its run.json holds another run (set_hash is 0 there" in capsys.readouterr().err
