"""A grid's runs: what they run, that each stands alone, and that changed results are refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stamina_lite import cli
from stamina_lite.errors import UserError
from stamina_lite.methods.registry import METHODS
from stamina_lite.reproduction.grids import CHECKSUM_FILE, load_grid, results_hash, verify_checksum
from stamina_lite.reproduction.notebooks import reproduce
from stamina_lite.reproduction.report import write_report
from stamina_lite.reproduction.results import read_runs

ROWS = {
    "lora": {"steps": 1, "batch": 1, "rank": 1},
    "c-lora-strong": {"method": "c-lora", "lambda_forget": 30.0, "steps": 1, "batch": 1},
    "broken": {"method": "lora", "steps": 1},
}


def write_grid(file, rows=("lora",), seeds=(0,), orders=("alternate",), **changed):
    protocol = {"set": "tune5", "pictures": 2, "stages": [], "guidance": 1.0, "rows": ROWS, **changed}
    runs = [{"rows": [*rows], "seeds": [*seeds], "orders": [*orders]}]
    file.write_text(yaml.safe_dump({"protocol": protocol, "runs": runs}))
    return file


def test_cells_are_rows_times_seeds_times_orders_in_the_files_order(tmp_path):
    file = write_grid(tmp_path / "g.yaml", ["lora", "c-lora-strong"], [0, 2], ["alternate", "people first"])
    runs = load_grid(file)
    assert [c.name for c in runs][:3] == ["lora.alternate.0", "c-lora-strong.alternate.0", "lora.alternate.2"]
    assert runs[-1].name == "c-lora-strong.people-first.2" and len(runs) == 8
    assert runs[1].method() == ("c-lora", {"lambda_forget": 30.0, "steps": 1, "batch": 1})


def test_the_protocols_hash_changes_with_what_is_run_and_not_with_which_cells(tmp_path):
    hashes = [
        load_grid(write_grid(tmp_path / "g.yaml", **change))[0].checksum["protocol"]
        for change in ({}, {"rows": ["c-lora-strong"]}, {"pictures": 3}, {"guidance": 2.0})
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def write_run(folder, protocol="p", **settings):
    """A sealed run without results."""
    folder.mkdir()
    (folder / "run.json").write_text('{"method": "lora"}')
    seal = {"cell": folder.name, "row": "lora", "settings": settings, "protocol": protocol}
    (folder / CHECKSUM_FILE).write_text(json.dumps(seal | {"results": results_hash(folder)}))


@pytest.mark.parametrize("other", [{"protocol": "q"}, {"steps": 9}])
def test_cells_of_two_protocols_are_not_reported_together(tmp_path, other):
    for k, change in enumerate(({}, {}, other)):
        write_run(tmp_path / f"lora.alternate.{k}", **{"steps": 3, **change})
    write_report([tmp_path / f"lora.alternate.{k}" for k in (0, 1)], tmp_path / "r.html")
    with pytest.raises(UserError, match="lora.alternate.0 and .*lora.alternate.2 have different protocols"):
        write_report([tmp_path], tmp_path / "r.html")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ["loora"]}, "unknown row loora: the protocol has broken, c-lora-strong"),
        ({"orders": ["backwards"]}, "unknown order backwards: choose alternate"),
        ({"seeds": [0, 0]}, "lora.alternate.0 is listed twice"),
        ({"seeds": ["zero"]}, "seeds must be whole numbers from 0, not 'zero'"),
        ({"set": "mini51"}, "unknown set mini51"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        load_grid(write_grid(tmp_path / "g.yaml", **change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"protocol": {}, "runs": []}, "is not a grid: expected runs, and a protocol with set, pictures"),
        ({"runs": []}, "is not a grid"),
        ({"protocol": {"set": "tune5", "pictures": 2, "stages": [], "guidance": 1.0, "rows": {"x": {"method": "y"}}},
          "runs": [{"rows": ["x"], "seeds": [0], "orders": ["alternate"]}]}, "unknown method y"),
        ({"protocol": {"set": "tune5", "pictures": 2, "stages": [], "guidance": 1.0, "rows": {"lora": {"rnak": 1}}},
          "runs": [{"rows": ["lora"], "seeds": [0], "orders": ["alternate"]}]}, "unknown setting rnak"),
        ({"protocol": {"set": "tune5", "pictures": 2, "stages": [], "guidance": 1.0, "rows": ROWS},
          "runs": [{"rows": ["lora"], "seed": 0}]}, "not a group of runs"),
    ],
)  # fmt: skip
def test_a_damaged_grid_is_refused(tmp_path, content, message):
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        load_grid(tmp_path / "g.yaml")


def test_the_small_claim_has_every_method_at_the_settings_of_the_large_one():
    params = Path(__file__).parents[1] / "notebooks" / "params"
    small, large = (load_grid(params / f"{name}.yaml") for name in ("claim10", "claim50"))
    twin = {"stamina-neither"}  # C-LoRA at STAMINA's settings: the row c-lora-strong
    assert {run.method()[0] for run in small} == {*METHODS} - twin and {run.seed for run in small} == {0}
    rows, others = small[0].protocol["rows"], large[0].protocol["rows"]
    assert {*others} <= {*rows}
    for row in others:
        assert {**rows[row], "steps": 0} == {**others[row], "steps": 0}, row
        assert rows[row]["steps"] < others[row]["steps"]


def test_a_grid_runs_seals_and_keeps_its_cells_and_names_what_failed(tmp_path, capsys):
    file, out = write_grid(tmp_path / "g.yaml", ["broken", "lora"]), tmp_path / "out"
    (out / "broken.alternate.0").mkdir(parents=True)
    (out / "broken.alternate.0" / "run.json").write_text('{"method": "another"}')
    assert reproduce(str(file), out) == ["broken.alternate.0"]
    said = capsys.readouterr().out
    assert re.search(r"FAILED  broken.alternate.0  \d+ s: .*holds another run.*; see", said)
    assert re.search(r"done    lora.alternate.0  \d+ s\n", said)
    assert "failed" in json.loads((out / "broken.alternate.0" / CHECKSUM_FILE).read_text())
    assert "holds another run" in (out / "broken.alternate.0.log").read_text()
    done = out / "lora.alternate.0"
    seal = verify_checksum(done)
    assert seal["row"] == "lora" and seal["protocol"] == load_grid(file)[0].checksum["protocol"]
    assert json.loads((done / "run.json").read_text())["settings"]["rank"] == 1

    assert reproduce(str(write_grid(file)), out) == [] and "kept    lora.alternate.0" in capsys.readouterr().out
    (done / "results.json").write_text((done / "results.json").read_text().replace("0", "1", 1))
    with pytest.raises(UserError, match="lora.alternate.0 was changed after its run: restore it"):
        verify_checksum(done)
    assert cli.main(["report", str(out), "--out", str(tmp_path / "r.html")]) == 2
    assert "was changed after its run" in capsys.readouterr().err


CLASSES = {"protocol": {"set": "tuning", "epochs": 1, "rows": {"lora": {"rank": 2}, "strong": {"method": "c-lora"}}}}


def test_a_grid_of_classes_counts_tasks(tmp_path):
    runs = [{"rows": ["lora", "strong"], "seeds": [0, 3], "tasks": [5, 10]}]
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({**CLASSES, "runs": runs}))
    found = load_grid(tmp_path / "g.yaml")
    assert [run.name for run in found][:3] == ["lora.5.0", "strong.5.0", "lora.5.3"] and len(found) == 8
    assert found[3].arguments() == ["tuning", "--seed", "3", "--tasks", "5", "--epochs", "1"]
    assert found[3].method() == ("c-lora", {})


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"rows": ["lora"], "seeds": [0], "tasks": ["ten"]}, "tasks must be whole numbers, not ten"),
        ({"rows": ["lora"], "seeds": [0], "orders": ["alternate"]}, "expected rows, seeds and tasks"),
        ({"rows": ["ft"], "seeds": [0], "tasks": [5]}, "unknown row ft: the protocol has lora, strong"),
    ],
)
def test_a_damaged_grid_of_classes_is_refused(tmp_path, group, message):
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({**CLASSES, "runs": [group]}))
    with pytest.raises(UserError, match=message):
        load_grid(tmp_path / "g.yaml")


def finished_run(run, out, **changed):
    """A folder as a finished run leaves it."""
    folder = out / run.name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"a_mmd": 1.0}')
    (folder / CHECKSUM_FILE).write_text(
        json.dumps({**run.checksum, **run.made_from, "results": results_hash(folder), **changed})
    )
    return folder


def test_a_run_is_outdated_by_its_protocol_version_or_data(tmp_path):
    run = load_grid(write_grid(tmp_path / "g.yaml"))[0]
    other = load_grid(write_grid(tmp_path / "g.yaml", pictures=3))[0]
    assert not run.finished(tmp_path / "none")
    folder = finished_run(run, tmp_path / "out")
    assert run.finished(folder.parent) and not run.outdated(folder) and other.outdated(folder)
    for key, value in (("version", "0.0"), ("data", "0"), ("settings", {"steps": 9})):
        folder = finished_run(run, tmp_path / key, **{key: value})
        assert run.outdated(folder) and not run.finished(folder.parent), key
    older = {key: value for key, value in json.loads((folder / CHECKSUM_FILE).read_text()).items() if key != "data"}
    folder = tmp_path / "out" / run.name  # a record of earlier versions is kept
    (folder / CHECKSUM_FILE).write_text(json.dumps({**older, **run.checksum}))
    assert run.finished(folder.parent)


STUB = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = --out ] && out="$2"; shift; done
mkdir -p "$out"; echo "$OMP_NUM_THREADS" > "$out/threads"; echo '{"a_mmd": VALUE}' > "$out/results.json"
"""


@pytest.mark.skipif(os.name == "nt", reason="the stub is a shell script")
def test_an_outdated_run_is_moved_and_one_with_nan_has_failed(tmp_path, monkeypatch, capsys):
    """With a stub for `stamina-lite bench`, which would take minutes."""
    stub = tmp_path / "stub"
    stub.write_text(STUB.replace("VALUE", "2.0"))
    stub.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(stub))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    file, out = write_grid(tmp_path / "g.yaml"), tmp_path / "out"
    run = load_grid(file)[0]
    finished_run(run, out, data="0")
    assert reproduce(str(file), out, workers=os.cpu_count() * 2) == []
    assert json.loads((out / run.name / "results.json").read_text()) == {"a_mmd": 2.0}
    assert json.loads((tmp_path / "out.replaced" / run.name / "results.json").read_text()) == {"a_mmd": 1.0}
    assert (out / run.name / "threads").read_text() == "1\n"

    stub.write_text(STUB.replace("VALUE", "NaN"))
    assert reproduce(str(file), tmp_path / "nan") == [run.name]
    assert "FAILED  lora.alternate.0  0 s: its results are not finite numbers" in capsys.readouterr().out
    (stored,) = read_runs(tmp_path / "nan", file)
    assert not stored.results and "not finite" in stored.failed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_named(tmp_path, monkeypatch, capsys):
    stub = tmp_path / "stub"
    stub.write_text(STUB.replace("VALUE", "2.0"))
    stub.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(stub))
    file, out = write_grid(tmp_path / "g.yaml"), tmp_path / "out"
    home = out / load_grid(file)[0].name
    home.mkdir(parents=True)
    (home / f".{CHECKSUM_FILE}.part").symlink_to("/dev/full")  # where the record is written first
    assert cli.main(["reproduce", str(file), "--out", str(out)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("out (No space left on device): make room and give the same command, runs go on")
    assert cli.main(["reproduce", str(file), "--out", str(out)]) == 0


def test_two_grids_cannot_use_one_folder(tmp_path):
    file, out = write_grid(tmp_path / "g.yaml"), tmp_path / "out"
    out.mkdir()
    hold = f"import sys; from filelock import FileLock; lock = FileLock({str(out / '.lock')!r}); lock.acquire()"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print(1, flush=True); sys.stdin.read()"], stdin=-1, stdout=-1
    )
    other.stdout.read(1)
    with pytest.raises(UserError, match="out is in use by another process: wait for it"):
        reproduce(str(file), out)
    other.communicate()
    assert not (out / "lora.alternate.0").exists()
