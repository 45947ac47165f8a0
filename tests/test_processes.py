"""Processes of runs: how they end, and what is said of it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from stamina_lite.reproduction import processes
from stamina_lite.reproduction.processes import Interrupted, Processes

MODULES = {
    "done": "import sys; print(sys.argv[1:])",
    "wrong": "print('so far'); raise ValueError('as asked')",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "prints": "while True: print(1000 * 'x')",
    "waits": "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)",
}
PARENT = """import os, sys
from pathlib import Path
from stamina_lite.reproduction.processes import Processes
Processes().run("waits", [], Path("log"), dict(os.environ))"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current folder, with the modules in it."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("done", ""),
        ("wrong", "ValueError: as asked"),
        ("killed", "killed by SIGKILL, as a system does that is out of memory"),
    ],
)
def test_why_a_process_failed(home, module, reason):
    found = Processes().run(module, ["a", "b"], home / "log", {**os.environ})
    assert found.startswith(reason) and bool(found) == bool(reason)
    if module == "done":
        assert (home / "log").read_text() == "['a', 'b']\n"


def test_a_process_that_prints_without_end_is_stopped(home, monkeypatch):
    monkeypatch.setattr(processes, "LOG_LIMIT", 2**20)
    monkeypatch.setattr(processes, "WATCH", 0.01)
    found = Processes().run("prints", [], home / "log", {**os.environ})
    assert found == "stopped, as it printed more than 1 MiB: let it print less"


def test_an_interrupt_ends_all_and_starts_no_more(home):
    running, raised = Processes(), []

    def run() -> None:
        with pytest.raises(Interrupted):
            running.run("waits", [], home / "log", {**os.environ})
        raised.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for((home / "pid").exists)
    running.stop()
    thread.join(20)
    assert raised == [True] and not alive(int((home / "pid").read_text()))
    with pytest.raises(Interrupted):
        running.run("done", [], home / "log", {**os.environ})


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot")
def test_a_process_ends_when_its_parent_is_killed(home):
    parent = subprocess.Popen([sys.executable, "-c", PARENT])
    wait_for(lambda: (home / "pid").exists() and (home / "pid").read_text())
    child = int((home / "pid").read_text())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not alive(child))
