"""What other systems lack or do otherwise, as far as it can be had on this one; two processes on one run."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from stamina_lite import ContinualLearner, concepts, load_base
from stamina_lite.diffusion.export import export
from stamina_lite.errors import UserError
from stamina_lite.runs.checkpoint import FILE, Checkpoint
from stamina_lite.runs.devices import peak_memory
from stamina_lite.runs.files import write_tensors
from stamina_lite.runs.folder import Run
from stamina_lite.runs.interrupts import Interrupts

CPU = torch.device("cpu")


def test_peak_memory_without_the_module_that_windows_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(CPU) == 0


@pytest.mark.parametrize(("platform", "bytes_"), [("darwin", 5000), ("linux", 5000 * 1024)])
def test_peak_memory_is_in_bytes(monkeypatch, platform, bytes_):
    usage = types.SimpleNamespace(ru_maxrss=5000)
    fake = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory(CPU) == bytes_


@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "ascii"])
def test_output_in_a_code_page_that_lacks_characters(encoding):
    done = subprocess.run(
        [sys.executable, "-m", "stamina_lite.cli", "methods"],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"c-lora" in done.stdout and "Σ".encode() not in done.stdout


OPEN = """
import sys, torch
from stamina_lite.runs.folder import Run
run = Run(sys.argv[1], {"base": "b", "settings": {}}, torch.device("cpu"))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_run_is_open_in_one_process_at_a_time_and_free_after_its_death(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "open\n"
        before = sorted((tmp_path / "run").rglob("*"))
        with pytest.raises(UserError, match="run is in use by another process: wait for it, or choose another --out"):
            Run(tmp_path / "run", {"base": "b", "settings": {}}, CPU)
        assert sorted((tmp_path / "run").rglob("*")) == before
    finally:
        other.kill()
        other.wait()
    first = Run(tmp_path / "run", {"base": "b", "settings": {}}, CPU)
    assert Run(tmp_path / "run", {"base": "b", "settings": {}}, CPU).lock is first.lock, (
        "one process may open a run twice"
    )


WITHOUT_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
"""


def test_a_run_on_a_file_system_without_locks_is_open_in_one_process_at_a_time_too(tmp_path):
    """As on some network drives: filelock then locks by the presence of a file, also after a kill."""
    command = [sys.executable, "-c", WITHOUT_LOCKS + OPEN, str(tmp_path / "run")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        second = subprocess.run(command, input="", capture_output=True, text=True)
        assert "run is in use by another process" in second.stderr
    finally:
        other.kill()
        other.wait()
    third = subprocess.run(command, input="", capture_output=True, text=True)
    assert third.stdout == "open\n", third.stderr


def mapped(place: Path) -> list[str]:
    """Files under a place that this process has mapped into its memory."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return sorted({line.split()[-1] for line in lines if str(place) in line})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mapped files are listed by Linux only")
def test_no_file_is_written_or_moved_while_it_is_mapped(tiny_folder, photos, tmp_path, monkeypatch):
    """As Windows forbids it: exports to diffusers, checkpoints that replace the one that was gone on from."""
    written, moved = [], []

    def write(file, *args):
        assert not mapped(file)
        written.append(file.name)
        write_tensors(file, *args)

    def move(source, target):
        assert not mapped(source) and not mapped(target)
        moved.append(Path(target).name)
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr("stamina_lite.diffusion.export.write_tensors", write)
    monkeypatch.setattr("stamina_lite.runs.checkpoint.write_tensors", write)
    monkeypatch.setattr(os, "replace", move)
    monkeypatch.setattr(Path, "replace", lambda source, target: move(source, target))
    few = {"steps": 4, "batch": 2, "rank": 2, "save_every": 1}
    learner = ContinualLearner(load_base(tiny_folder, "cpu"), "stamina", out=tmp_path / "run", **few)
    learner.learn(concepts(photos)[0], progress=False)
    with pytest.raises(ZeroDivisionError):
        learner.model.learn(concepts(photos)[1], learner.method, 0, 2, lambda step, _: 1 / (step - 2), Checkpoint(
            tmp_path / "run", {}, 1, Interrupts()))  # fmt: skip
    checkpoint = Checkpoint(tmp_path / "run", {}, 1, Interrupts())
    learner.model.learn(concepts(photos)[1], learner.method, 0, 2, None, checkpoint)
    assert moved.count(FILE) >= 8
    export(learner, "diffusers", tmp_path / "model", lambda: load_base(tiny_folder, "cpu"))
    assert "model.safetensors" in written and "model" in moved and (tmp_path / "model" / "README.md").is_file()
