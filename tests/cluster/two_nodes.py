"""A Ray cluster of two nodes on this machine (`make cluster-test`): real runs of a tiny pipeline, a worker killed."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook
from ray_nodes import SETTINGS, Nodes

from stamina_lite.errors import UserError
from stamina_lite.reproduction.notebooks import reproduce

CELLS = (
    "from stamina_lite import ContinualLearner, concepts, load_base\nimport time",
    'found = concepts(SET)\nlearner = ContinualLearner(load_base(BASE, "cpu"), "lora", 0, OUT, steps=5, rank=RANK)',
    "print(len(learner.records), 'learned before')",
    "for concept in found:\n    learner.learn(concept)\n    time.sleep(PAUSE)",
)
os.environ.update(SETTINGS)  # this process, the driver, is one of them


@pytest.fixture(scope="module")
def cluster():
    with Nodes() as found:
        found.add()
        yield found


@pytest.fixture(scope="module")
def preset(tmp_path_factory, tiny_folder, photos):
    """A preset of two notebooks that learn three concepts each."""
    home = tmp_path_factory.mktemp("notebooks")
    first = f'SET = "{photos}"\nBASE = "{tiny_folder}"\nOUT = ""\nRANK = 1\nPAUSE = 0.0'
    cells = [new_code_cell(first, metadata={"tags": ["parameters"]}), *map(new_code_cell, CELLS)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), home / "learn.ipynb")
    jobs = [
        {"name": name, "notebook": "learn.ipynb", "parameters": {"OUT": f"{{out}}/run-{name}", "RANK": k, "PAUSE": 3.0}}
        for k, name in enumerate("ab", 1)
    ]
    (home / "two.yaml").write_text(yaml.safe_dump({"needs": {"cpu": 1, "memory": 0.1}, "notebooks": jobs}))
    return home / "two.yaml"


def workers(out: Path) -> dict[str, int]:
    """The processes that run notebooks of `out` now: name -> its worker."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if "stamina_lite.reproduction.child" in words and any(str(out.name) in word for word in words):
            found[Path(words[6]).stem] = int(words[3])
    return found


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def kill_once(out: Path, seen: dict) -> None:
    """Kill the worker of notebook a after its first concept, and record the nodes that run something."""
    while not seen.get("over"):
        running = workers(out)
        seen.setdefault("nodes", set()).update(parent(worker) for worker in running.values() if worker)
        if "killed" not in seen and "a" in running and (out / "run-a" / "tasks" / "001").exists():
            seen["killed"] = running["a"]
            os.kill(running["a"], signal.SIGKILL)
        time.sleep(0.1)


def checksums(run: Path) -> list[dict]:
    return [json.loads(file.read_text())["sha256"] for file in sorted(run.glob("tasks/*/task.json"))]


def test_a_killed_worker_loses_nothing_and_results_are_those_of_the_local_engine(cluster, preset, tmp_path):
    out, seen = tmp_path / "on-ray", {}
    killer = threading.Thread(target=kill_once, args=(out, seen))
    killer.start()
    try:
        assert reproduce(str(preset), out, "ray", notebooks=preset.parent, address=cluster.address) == []
    finally:
        seen["over"] = True
        killer.join()
    assert len(seen["nodes"]) == 2 and "killed" in seen
    words = [
        o["text"]
        for c in nbformat.read(out / "a.ipynb", 4).cells
        if c.cell_type == "code"
        for o in c.outputs
        if "text" in o
    ]
    assert any(word in f"{words}" for word in ("1 learned before", "2 learned before"))

    assert reproduce(str(preset), tmp_path / "here", "local", 2, preset.parent) == []
    for name in ("run-a", "run-b"):
        assert len(checksums(out / name)) == 3
        assert checksums(out / name) == checksums(tmp_path / "here" / name)
    assert checksums(out / "run-a") != checksums(out / "run-b")


def test_a_node_with_another_version_is_named(cluster, preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Ray's workers search the current folder first, and the checkout says its own version
    about = tmp_path / "other" / "stamina_lite-9.9.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stamina-lite\nVersion: 9.9.9\n")
    path = os.pathsep.join([str(about.parent), os.environ.get("PYTHONPATH", "")])
    node = cluster.add(cpus=2, environment={"PYTHONPATH": path})
    file = preset.with_name("large.yaml")
    file.write_text(yaml.safe_dump({**yaml.safe_load(preset.read_text()), "needs": {"cpu": 2, "memory": 0.1}}))
    try:
        with pytest.raises(UserError, match="has stamina-lite 9.9.9, the head has"):
            reproduce(str(file), tmp_path / "out", "ray", notebooks=preset.parent, address=cluster.address)
    finally:
        cluster.remove(node)
