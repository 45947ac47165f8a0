"""Grids and notebooks whose results are at an address: what is there, and that another machine goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
from test_grid import finished_run, write_grid
from test_reproduce import cell, notebooks, printed, write_notebook, write_preset  # noqa: F401

from stamina_lite import cli
from stamina_lite.errors import UserError
from stamina_lite.reproduction import addresses
from stamina_lite.reproduction.addresses import Address, Copy, whole
from stamina_lite.reproduction.grids import CHECKSUM_FILE, load_grid
from stamina_lite.reproduction.notebooks import plan, reproduce

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stub is a shell script")
# For `stamina-lite bench`, which would take minutes: three tasks. Those that are there are not trained again, and only
# their missing pictures are drawn.
STUB = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = --out ] && out="$2"; shift; done
mkdir -p "$out/tasks" "$out/images"; echo '{}' > "$out/run.json"
for k in 001 002 003; do
  if [ -d "$out/tasks/$k" ]; then [ -e "$out/images/$k" ] || echo again > "$out/images/$k"; continue; fi
  echo $k >> TRAINED; mkdir "$out/tasks/.$k.part"
  echo tensors > "$out/tasks/.$k.part/tensors.safetensors"; echo '{}' > "$out/tasks/.$k.part/task.json"
  mv "$out/tasks/.$k.part" "$out/tasks/$k"; sleep 0.05; echo $k > "$out/images/$k"
  AFTER
done
echo '{"a_mmd": 2.0}' > "$out/results.json"
"""
RUN = "lora.alternate.0"
PYTHON = sys.executable


@pytest.fixture
def grid(tmp_path):
    return write_grid(tmp_path / "g.yaml")


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A function that makes this the machine with a name: it has its own cache folder, and this stub for bench."""

    def of(name: str, after: str = ":") -> None:
        stub = tmp_path / f"stub-{name}"
        stub.write_text(STUB.replace("TRAINED", str(tmp_path / "trained")).replace("AFTER", after))
        stub.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(stub))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    monkeypatch.setattr(addresses, "EVERY", 0.05)
    of("first")
    return of


def trained(tmp_path: Path) -> list[str]:
    return (tmp_path / "trained").read_text().split()


def here(tmp_path: Path, name: str = "first") -> list[str]:
    """Files of runs on this machine."""
    return [file.name for file in (tmp_path / name).rglob("*") if file.is_file() and file.name != ".lock"]


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_grid_at_an_address_is_there_and_is_not_run_again(grid, tmp_path, capsys, machine, kind):
    url = f"{kind}://{tmp_path}/there"
    assert plan(str(grid), url)[-1].startswith("1 to run, 0 finished")
    assert reproduce(str(grid), url) == []
    files, root = fsspec.core.url_to_fs(url)
    assert json.loads(files.cat(f"{root}/{RUN}/results.json")) == {"a_mmd": 2.0}
    assert files.exists(f"{root}/{RUN}.log") and files.exists(f"{root}/{RUN}/tasks/003/task.json")
    assert here(tmp_path) == []

    machine("second")
    assert reproduce(str(grid), url) == [] and f"kept    {RUN}" in capsys.readouterr().out
    assert plan(str(grid), url)[-1].startswith("0 to run, 1 finished")
    assert trained(tmp_path) == ["001", "002", "003"]


def test_a_run_of_a_machine_that_was_lost_goes_on_at_another(grid, tmp_path, machine):
    there = tmp_path / "there"
    machine("first", after="if [ $k = 002 ]; then while kill -0 $PPID; do sleep 0.1; done; exit; fi")
    command = "import sys; sys.executable, grid, url = sys.argv[1:]\n"
    command += "from stamina_lite.reproduction import addresses, notebooks\naddresses.EVERY = 0.05\n"
    command += "notebooks.reproduce(grid, url)"
    lost = subprocess.Popen([PYTHON, "-c", command, sys.executable, str(grid), f"file://{there}"])
    end = time.monotonic() + 300
    while not (there / RUN / "tasks" / "002" / "task.json").exists():
        assert time.monotonic() < end and lost.poll() is None
        time.sleep(0.05)
    lost.send_signal(signal.SIGKILL)
    lost.wait()
    assert not (there / RUN / CHECKSUM_FILE).exists()

    machine("second")
    assert reproduce(str(grid), f"file://{there}") == []
    assert trained(tmp_path) == ["001", "002", "003"]
    assert (there / RUN / CHECKSUM_FILE).exists()
    drawn = [(there / RUN / "images" / f"00{k}").read_text() for k in (1, 2, 3)]
    assert drawn == ["001\n", "again\n", "003\n"]  # the newest task's pictures may be incomplete, and are not copied


def test_what_a_killed_command_left_on_this_machine_is_not_trained_again(grid, tmp_path, machine):
    address = Address(f"file://{tmp_path}/there")
    left = address.work / RUN / "tasks" / "001"
    left.mkdir(parents=True)
    for name in ("tensors.safetensors", "task.json"):
        (left / name).write_text("{}")
    assert reproduce(str(grid), address.url) == []
    assert trained(tmp_path) == ["002", "003"]


def test_a_failed_run_is_there_and_goes_on(grid, tmp_path, capsys, machine):
    machine("first", after="[ $k = 002 ] && echo 'RuntimeError: as asked' && exit 1")
    url = f"file://{tmp_path}/there"
    assert reproduce(str(grid), url) == [RUN]
    assert f"RuntimeError: as asked; see {url}/{RUN}.log" in capsys.readouterr().out
    assert "as asked" in json.loads((tmp_path / "there" / RUN / CHECKSUM_FILE).read_text())["failed"]
    machine("second")
    assert reproduce(str(grid), url) == [] and trained(tmp_path) == ["001", "002", "003"]


def test_a_run_of_another_protocol_is_moved_there_too(grid, tmp_path):
    there = tmp_path / "there"
    (finished_run(load_grid(grid)[0], there, data="0") / "removed").write_text("older")
    assert reproduce(str(grid), f"file://{there}") == []
    assert json.loads((there / RUN / "results.json").read_text()) == {"a_mmd": 2.0}
    assert json.loads((tmp_path / "there.replaced" / RUN / "results.json").read_text()) == {"a_mmd": 1.0}
    assert not (there / RUN / "removed").exists() and here(tmp_path) == []


def test_only_whole_tasks_are_fetched():
    names = [f"r/tasks/{k:03d}/{name}" for k in (1, 2, 4) for name in ("task.json", "tensors.safetensors")]
    names.remove("r/tasks/002/task.json")
    assert whole([*names, "r/run.json"]) == [*names[:2], "r/run.json"]
    assert whole(["r/tasks/001/tensors.safetensors"]) == []


def test_files_that_are_newer_than_the_newest_task_wait(tmp_path):
    address = Address(f"file://{tmp_path}/there")
    for k, name in enumerate(("images/1", "tasks/001/task.json", "images/2"), 1):
        file = address.work / RUN / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        os.utime(file, (k, k))
    with Copy(address, [RUN]).followed():
        end = time.monotonic() + 60
        while not (tmp_path / "there" / RUN / "tasks" / "001" / "task.json").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
    assert [file.name for file in (tmp_path / "there" / RUN / "images").iterdir()] == ["1"]


def test_an_executed_notebook_and_its_folder_are_there(notebooks, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("sys.executable", PYTHON)
    url, there = f"file://{tmp_path}/there", tmp_path / "there"
    write_preset(notebooks, cell(WHERE="{out}/runs/a"))
    body = "import os\nos.makedirs(WHERE, exist_ok=True)\nopen(f'{WHERE}/x', 'a').write('1')\nprint('ran', WHERE)"
    write_notebook(notebooks / "one.ipynb", body)
    assert reproduce("quick", url, notebooks=notebooks) == []
    assert printed(there / "a.ipynb")[0] == "ran" and (there / "runs" / "a" / "x").read_text() == "1"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    assert reproduce("quick", url, notebooks=notebooks) == [] and "kept    a" in capsys.readouterr().out


def test_addresses_that_cannot_be_used_are_named(grid, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="unknown kind of address s4://, give s3://"):
        reproduce(str(grid), "s4://bucket/x")
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    assert cli.main(["reproduce", str(grid), "--out", "s3://bucket/x", "--dry-run"]) == 2
    assert "s3://bucket/x needs a package that is missing: Install s3fs" in capsys.readouterr().err
    assert reproduce(str(grid), "file:///proc/nowhere") == [RUN]
    said = capsys.readouterr().out
    assert "cannot read or write file:///proc/nowhere (FileNotFoundError" in said
    assert f"what there is of it here is in {tmp_path / 'first'}" in said
    assert "results.json" in here(tmp_path)
