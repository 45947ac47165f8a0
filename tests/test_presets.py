"""Which runs of a preset are chosen, what they need, and what is left of them."""

from pathlib import Path

import pytest
import yaml
from test_grid import write_grid
from test_reproduce import cell, notebooks, write_preset  # noqa: F401

from stamina_lite import cli
from stamina_lite.errors import UserError
from stamina_lite.reproduction.needs import Needs
from stamina_lite.reproduction.notebooks import plan
from stamina_lite.reproduction.plan import makespan
from stamina_lite.reproduction.presets import Selection, read_preset


@pytest.fixture
def grid(tmp_path):
    file = write_grid(tmp_path / "g.yaml", ["lora", "c-lora-strong"], [0, 1])
    content = yaml.safe_load(file.read_text())
    content |= {"needs": {"cpu": 2, "disk": 0.5}, "minutes": {"default": 60, "lora": 30}}
    file.write_text(yaml.safe_dump(content))
    return file


def names(file: Path, **selection) -> list[str]:
    return [job.name for job in read_preset(str(file), file.parent, Selection(**selection))]


def test_names_patterns_and_seeds_choose_runs(grid):
    assert names(grid, only=("lora*",)) == ["lora.alternate.0", "lora.alternate.1"]
    assert names(grid, only=("lora*", "*.0"), seeds=(0,)) == ["lora.alternate.0", "c-lora-strong.alternate.0"]
    with pytest.raises(UserError, match="g has no run ti: its names are like lora.alternate.0"):
        names(grid, only=("ti",))
    with pytest.raises(UserError, match="no run with the seed 2: it has 0, 1"):
        names(grid, seeds=(2,))


def test_a_changed_option_changes_the_protocols_hash_and_what_is_run(grid):
    runs = [read_preset(str(grid), grid.parent, Selection(changes=c))[0] for c in ({}, {"pictures": 4})]
    assert runs[0].checksum["protocol"] != runs[1].checksum["protocol"]
    assert [run.arguments()[run.arguments().index("--pictures") + 1] for run in runs] == ["2", "4"]
    with pytest.raises(UserError, match="no option steps that all rows share: it has set, pictures"):
        names(grid, changes={"steps": 4})
    with pytest.raises(UserError, match="pictures is 'many', but 2"):
        names(grid, changes={"pictures": "many"})


def test_needs_and_minutes_are_read_and_are_in_no_hash(grid, tmp_path):
    runs = read_preset(str(grid), grid.parent, Selection())
    assert runs[0].needs == Needs(cpu=2, disk=0.5) and [run.minutes for run in runs] == [30, 60, 30, 60]
    plain = read_preset(str(write_grid(tmp_path / "p.yaml")), grid.parent, Selection())[0]
    assert plain.checksum == runs[0].checksum and plain.minutes is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needs": {"gpus": 1}}, "needs is {'gpus': 1}: expected amounts of cpu, gpu, memory"),
        ({"needs": {"gpu": -1}}, "needs gpu is -1"),
        ({"minutes": "long"}, "minutes is 'long'"),
        ({"minutes": {"loora": 1}}, "minutes of an unknown row loora"),
        ({"hours": 1}, "is not a grid"),
    ],
)
def test_wrong_needs_are_refused(grid, change, message):
    grid.write_text(yaml.safe_dump({**yaml.safe_load(grid.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        names(grid)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"protocol: {set: tune5\nruns: [", "g.yaml, line 2: expected"),
        (b"\xff\xfe\x00", "g.yaml has characters that no YAML file has"),
        (b"a: \x00", "g.yaml has characters that no YAML file has"),
        (b"", "g.yaml is not a preset"),
    ],
)
def test_a_broken_file_is_named_with_its_line(grid, content, message):
    grid.write_bytes(content)
    with pytest.raises(UserError, match=message):
        names(grid)


def test_a_parameter_is_set_in_the_notebooks_that_have_it(notebooks, tmp_path):  # noqa: F811
    write_preset(notebooks, cell("a", RATE=1.0), {**cell("b"), "minutes": 5, "needs": {"gpu": 1}})
    jobs = read_preset("quick", notebooks, Selection(changes={"RATE": 2.0}))
    assert [job.parameters for job in jobs] == [{"RATE": 2.0}] * 2
    assert jobs[1].needs == Needs(gpu=1) and [job.minutes for job in jobs] == [None, 5]
    with pytest.raises(UserError, match="no chosen notebook of quick has a parameter RTE"):
        read_preset("quick", notebooks, Selection(changes={"RTE": 2.0}))
    with pytest.raises(UserError, match="RATE is 'x'"):
        read_preset("quick", notebooks, Selection(changes={"RATE": "x"}))
    with pytest.raises(UserError, match="--seeds is for grids"):
        read_preset("quick", notebooks, Selection(seeds=(0,)))


def test_needs_for_all_notebooks(notebooks, tmp_path):  # noqa: F811
    both = {"needs": {"memory": 4}, "minutes": 7, "notebooks": [cell("a"), {**cell("b"), "minutes": 8}]}
    (notebooks / "params" / "both.yaml").write_text(yaml.safe_dump(both))
    jobs = read_preset("both", notebooks, Selection())
    assert [(job.needs.memory, job.minutes) for job in jobs] == [(4, 7), (4, 8)]


def test_a_dry_run_prints_hours_and_space_and_writes_nothing(grid, tmp_path, capsys):
    out = tmp_path / "out"
    assert plan(str(grid), out)[0] == "lora.alternate.0  30 min"
    assert cli.main(["reproduce", str(grid), "--out", str(out), "--dry-run", "--workers", "2"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "4 to run, 0 finished; 3.0 h in all, 2.0 h with 2 at a time; 2.0 GiB of disk"
    assert not out.exists()
    assert makespan([10, 1, 1, 1], 2) == 10


def test_names_and_values_of_the_command_line(grid, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["reproduce", str(grid), "--out", str(tmp_path / "out"), "--set", "pictures"])
    assert "must be NAME=VALUE, not pictures" in capsys.readouterr().err
    words = ["--dry-run", "--set", "pictures=3", "guidance=2.0", "--only", "lora*"]
    assert cli.main(["reproduce", str(grid), "--out", str(tmp_path / "out"), *words]) == 0
    assert "2 to run" in capsys.readouterr().out
