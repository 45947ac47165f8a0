"""What other systems lack or do otherwise, as far as it can be had on this one; two processes on one run."""

import os
import subprocess
import sys
import types

import pytest
import torch

from stamina_lite.errors import UserError
from stamina_lite.runs.devices import peak_memory
from stamina_lite.runs.folder import Run

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
