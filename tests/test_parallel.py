"""One run on two processes: the weights of one process at the same batch, one run folder, one voice."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from stamina_lite import cli
from stamina_lite.runs.files import load_task

LEARN = ["--steps", "4", "--batch", "4", "--rank", "2", "--lr", "0.01", "--drawn", "4", "--device", "cpu"]


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def test_two_processes_go_on_with_a_run_as_one_would(tiny_folder, photos, tmp_path):
    """Masks, penalty and pictures of the base beside: everything that a step may be made of."""
    argv = ["--method", "stamina", "--prior", "1", "--base", str(tiny_folder), *LEARN, "--out"]
    assert cli.main(["learn", str(photos / "amber"), *argv, str(tmp_path / "one")]) == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert cli.main(["learn", str(photos), *argv, str(tmp_path / "one")]) == 0
    launch = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--num_cpu_threads_per_process", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port()]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, "-m", "stamina_lite.cli"]
    done = subprocess.run(
        [*command, "learn", str(photos), *argv, str(tmp_path / "two")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<amber>  learned already") == 1 == done.stdout.count("<berry>  loss"), "one speaks"
    one, two = (load_task(tmp_path / run / "tasks" / "003")[0] for run in ("one", "two"))
    first = load_task(tmp_path / "one" / "tasks" / "001")[0]
    compared = [name for name in one if name.startswith(("weight.", "token."))]
    assert {*one} == {*two} and len(compared) == 8 + 3
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in compared)
    assert max((one[name] - first[name]).abs().max().item() for name in compared if name in first) > 1e-2
    logs = [
        [json.loads(line) for line in open(tmp_path / run / "log.jsonl", encoding="utf-8")] for run in ("one", "two")
    ]
    assert len(logs[0]) == len(logs[1]) == 3 * 4
    assert [row["loss"] for row in logs[1]] == pytest.approx([row["loss"] for row in logs[0]], abs=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused(tiny_folder, photos, tmp_path):
    argv = ["learn", str(photos / "amber"), "--method", "lora", "--base", str(tiny_folder), *LEARN, "--batch", "3"]
    command = [sys.executable, "-m", "stamina_lite.cli", *argv, "--out", str(tmp_path / "odd")]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    both = [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": k}, stderr=subprocess.PIPE, text=True)
        for k in ("0", "1")
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    assert all("a batch of 3 cannot be shared by 2 processes: make --batch a multiple" in text for text in said)


@pytest.mark.parametrize("verb", [["bench", "tuning", "--method", "lora"], ["export", "--to", "tokens"]])
def test_what_is_not_shared_is_refused(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "run").mkdir()
    run = [str(tmp_path / "run")] if verb[0] == "export" else []
    assert cli.main([verb[0], *run, *verb[1:], "--out", str(tmp_path / "out")]) == 2
    assert "leave the launcher out" in capsys.readouterr().err and not (tmp_path / "out").exists()
