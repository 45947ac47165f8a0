"""The Ray engine: what it refuses, and, where Ray is installed, a lost worker. Runs on two nodes: tests/cluster."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray_nodes import SETTINGS, Nodes

from stamina_lite.errors import UserError
from stamina_lite.reproduction.addresses import AtAddress
from stamina_lite.reproduction.needs import Needs
from stamina_lite.reproduction.ray_engine import connect, ray_engine, run_on_worker

WITHOUT = "Ray is an extra: pip install -e '.[cluster]'"


@dataclass(frozen=True)
class Job:
    """A job that kills its worker when it is begun for the first time, or fails."""

    name: str
    needs: Needs = Needs(memory=0.1)

    @property
    def places(self) -> list[str]:
        return [self.name]

    def run(self, out: Path, threads, processes) -> str:
        with open(out / self.name, "a", encoding="utf-8") as file:
            file.write("begun ")
        if self.name == "killed" and (out / self.name).read_text(encoding="utf-8") == "begun ":
            os.kill(os.getpid(), signal.SIGKILL)
        return "as asked" if self.name == "failed" else ""


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "nonsense"])
def test_a_head_that_does_not_answer_is_named(address):
    pytest.importorskip("ray", reason=WITHOUT)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}: start its head"):
        connect(address)


def test_a_job_that_loses_its_worker_is_begun_again_and_a_failed_one_is_not(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason=WITHOUT)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find the tests
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / ".lock").touch()
    jobs = [Job("killed"), Job("failed"), AtAddress(Job("there"), f"file://{tmp_path}/address")]
    with Nodes() as nodes:
        outcomes = list(ray_engine(address=nodes.address)(jobs, tmp_path))
    assert {job.name: outcome.failed for job, outcome in outcomes} == {"killed": "", "failed": "as asked", "there": ""}
    assert (tmp_path / "killed").read_text() == "begun begun " and (tmp_path / "failed").read_text() == "begun "
    assert (tmp_path / "address" / "there").read_text() == "begun " and not (tmp_path / "there").exists()


def test_a_node_with_another_version_or_without_the_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has stamina-lite \d.*, the head has 9.9.9: install the same"):
        run_on_worker(None, tmp_path, "9.9.9")
    from stamina_lite import __version__

    with pytest.raises(UserError, match="does not see .*: give --out a folder that all nodes share"):
        run_on_worker(None, tmp_path, __version__)
