"""Real notebooks, executed by papermill in a process of their own; what is done is kept, what fails is named."""

import json
import os
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from stamina_lite import cli
from stamina_lite.errors import UserError
from stamina_lite.reproduction import notebook_runs
from stamina_lite.reproduction import notebooks as module
from stamina_lite.reproduction.notebooks import reproduce

PARAMETERS = 'RATE = 0.5  # type: how fast\nWHERE = "here"  # type: a folder\nFAIL = False'
BODY = """import os, sys, uuid
assert not FAIL, "as asked"
print("ran", RATE, WHERE, os.environ["TQDM_DISABLE"], os.getcwd(), sys.executable, uuid.uuid4())"""


@pytest.fixture
def notebooks(tmp_path):
    """A folder with one notebook and room for presets."""
    folder = tmp_path / "notebooks"
    (folder / "params").mkdir(parents=True)
    write_notebook(folder / "one.ipynb")
    return folder


def write_notebook(file, body=BODY):
    cells = [
        new_markdown_cell("# One"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(body),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), file)


def write_preset(notebooks, *cells, name="quick"):
    (notebooks / "params" / f"{name}.yaml").write_text(yaml.safe_dump([*cells]))


def cell(name="a", notebook="one.ipynb", **parameters) -> dict:
    return {"name": name, "notebook": notebook, "parameters": parameters}


def printed(file) -> list[str]:
    """The words that the executed notebook's last cell printed."""
    return nbformat.read(file, as_version=4).cells[-1].outputs[0]["text"].split()


def test_a_preset_is_executed_kept_and_executed_again_when_it_changed(notebooks, tmp_path, capsys):
    out = tmp_path / "out"
    write_preset(notebooks, cell(RATE=1e-5, WHERE="{out}/run"))
    assert reproduce("quick", out, notebooks=notebooks) == []
    assert "done    a" in capsys.readouterr().out
    ran, rate, where, silent, folder, interpreter, first = printed(out / "a.ipynb")
    assert (ran, float(rate), silent) == ("ran", 1e-5, "1")
    assert os.path.normpath(os.path.join(folder, where)) == str(out / "run") and not os.path.isabs(where)
    assert folder == str(notebooks) and interpreter == sys.executable
    assert str(tmp_path) not in json.dumps(json.loads((out / "a.ipynb").read_text())["metadata"])

    assert reproduce("quick", out, notebooks=notebooks) == []
    assert "kept    a" in capsys.readouterr().out
    assert printed(out / "a.ipynb")[-1] == first

    notebook = nbformat.read(notebooks / "one.ipynb", as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="stored")]
    nbformat.write(notebook, notebooks / "one.ipynb")
    reproduce("quick", out, notebooks=notebooks)
    assert printed(out / "a.ipynb")[-1] == first  # stored outputs are no change

    write_preset(notebooks, cell(RATE=2.0))
    reproduce("quick", out, notebooks=notebooks)
    assert printed(out / "a.ipynb")[1] == "2.0"
    write_notebook(notebooks / "one.ipynb", BODY + "\nprint('more')")
    reproduce("quick", out, notebooks=notebooks)
    assert printed(out / "a.ipynb")[-1] == "more"


def test_a_failing_cell_is_named_and_ends_nothing(notebooks, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(module, "NOTEBOOKS", notebooks)
    write_preset(notebooks, cell("bad", FAIL=True), cell("good"))
    argv = ["reproduce", "quick", "--out", str(out), "--workers", "2"]
    assert cli.main(argv) == 1
    said = capsys.readouterr()
    assert "FAILED  bad" in said.out and "done    good" in said.out
    assert said.err.endswith("stamina-lite: 1 failed: bad\n")
    assert "as asked" in (out / "bad.log").read_text()
    file = notebooks / "one.ipynb"
    good, bad = notebook_runs.Notebook("good", file), notebook_runs.Notebook("bad", file, {"FAIL": True})
    assert good.finished(out) and not bad.finished(out)


def test_a_kernel_that_is_killed_is_named(notebooks, tmp_path, capsys):
    write_notebook(notebooks / "one.ipynb", "import os\nos.kill(os.getpid(), 9)")
    write_preset(notebooks, cell())
    assert reproduce("quick", tmp_path / "out", notebooks=notebooks) == ["a"]
    assert "its kernel was killed, as a system does that is out of memory" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.ipynb").exists()


def test_what_was_cut_off_is_done_again(notebooks, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    write_preset(notebooks, cell())
    (out / "a.ipynb").write_text('{"cells": [')
    assert reproduce("quick", out, notebooks=notebooks) == []
    assert "done    a" in capsys.readouterr().out
    unmarked = json.loads((out / "a.ipynb").read_text())
    del unmarked["metadata"][notebook_runs.MARK]
    (out / "a.ipynb").write_text(json.dumps(unmarked))
    assert not notebook_runs.Notebook("a", notebooks / "one.ipynb").finished(out)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (cell(RTE=1.0), "no parameter RTE: it has RATE, WHERE, FAIL"),
        (cell(RATE="1e-3"), "RATE is '1e-3', but 0.5"),
        (cell(WHERE=3), "WHERE is 3"),
        (cell(notebook="two.ipynb"), "needs two.ipynb, which is not in"),
        (cell("../a"), "must be a plain file name"),
        ({"name": "a"}, "is not a preset"),
        ({"name": "a", "notebook": "one.ipynb", "cost": 1}, "is not a preset"),
        ("a", "is not a preset"),
    ],
)
def test_a_wrong_preset_is_refused_before_anything_runs(notebooks, tmp_path, entry, message):
    write_preset(notebooks, cell("first"), entry)
    with pytest.raises(UserError, match=message):
        reproduce("quick", tmp_path / "out", notebooks=notebooks)
    assert not (tmp_path / "out").exists()


def test_other_mistakes(notebooks, tmp_path):
    write_preset(notebooks, cell(), cell())
    with pytest.raises(UserError, match="be listed once"):
        reproduce("quick", tmp_path / "out", notebooks=notebooks)
    with pytest.raises(UserError, match="unknown preset slow: choose one of quick"):
        reproduce("slow", tmp_path / "out", notebooks=notebooks)
    with pytest.raises(UserError, match="no notebooks at"):
        reproduce("quick", tmp_path / "out", notebooks=tmp_path / "nowhere")
    write_preset(notebooks, cell())
    with pytest.raises(UserError, match="cannot write"):
        reproduce("quick", notebooks / "one.ipynb" / "out", notebooks=notebooks)


def test_ray_is_refused_where_it_is_not_installed(notebooks, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    write_preset(notebooks, cell())
    with pytest.raises(UserError, match="Ray is not installed"):
        reproduce("quick", tmp_path / "out", "ray", notebooks=notebooks)
    assert not (tmp_path / "out").exists()
