"""The report holds every number, needs no other file, and says what it could not read."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from test_plots import made_up

from stamina_lite.errors import UserError
from stamina_lite.reproduction.report import MEASURES, write_report


def write_run(folder, results=None, **about):
    """A run folder with pictures of every concept, just learned and at the end."""
    (folder / "tasks").mkdir(parents=True)
    about = {"method": "lora", "seed": 0, "set": "mini10", "base": "b", "settings": {"rank": 2}, **about}
    (folder / "run.json").write_text(json.dumps(about))
    if results is None:
        return
    (folder / "results.json").write_text(json.dumps(results))
    last = len(results["tasks"])
    for task, name in enumerate(results["tasks"], 1):
        for stage in {task, last}:
            pictures = folder / "images" / f"after-{stage:03d}" / name
            pictures.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(pictures / "00.png")


def measured(method="lora", n=3, **changed) -> dict:
    cost = {"n_param": {"train": 0.5, "store": 0.0}, "seconds": [30.0] * n, "peak_memory": [2**30] * n}
    measures = {key: 0.111 * k for k, key in enumerate(MEASURES, 1)}
    return made_up(method, n) | cost | measures | {"concept_accuracy_each": [0.25] * n} | changed


class Page(HTMLParser):
    """Text, tags that are open at the end, and what the page wants from elsewhere."""

    def __init__(self, html):
        super().__init__()
        self.text, self.open, self.sources, self.links = "", [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[k] for k in ("src", "data") if k in values]
        self.links += [values["href"]] if "href" in values else []
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def test_report_compares_runs_and_stands_alone(tmp_path, capsys):
    write_run(tmp_path / "runs/a", measured("lora"), versions={"torch": "9.9"})
    write_run(tmp_path / "runs/deep/b", measured("stamina", f_mmd=None, a_mmd=0.987), method="stamina")
    out = write_report([tmp_path / "runs"], tmp_path / "page" / "report.html")
    assert capsys.readouterr().out.strip() == str(out)
    page = Page(out.read_text())
    assert page.open == []
    for key, (name, meaning) in MEASURES.items():
        assert name in page.text and meaning in page.text, key
    assert "0.987" in page.text and "0.111" in page.text and "–" in page.text and "1.5 min" in page.text
    assert "versions.torch" in page.text and "9.9" in page.text and "settings.rank" in page.text
    assert "../runs/a" in page.text and "../runs/deep/b" in page.text and str(tmp_path) not in out.read_text()
    # four figures of both runs, and a sheet of each, all within the page
    assert len(page.sources) == 6 and all(s.startswith("data:image/png;base64,") for s in page.sources)
    assert base64.b64decode(page.sources[0].split(",")[1])[:8] == b"\x89PNG\r\n\x1a\n"
    assert "mini10: lora, stamina" in page.text
    assert not re.search(r"https?://", out.read_text())


def test_runs_of_different_sets_share_no_figure(tmp_path):
    write_run(tmp_path / "a", measured(), set="mini10")
    write_run(tmp_path / "b", measured(), set="tune5")
    page = Page(write_report([tmp_path], tmp_path / "r.html").read_text())
    assert "mini10: lora\n" in page.text and "tune5: lora\n" in page.text
    assert len(page.sources) == 2 * 4 + 2


def test_unfinished_runs_are_listed(tmp_path):
    write_run(tmp_path / "empty")
    write_run(
        tmp_path / "half",
        made_up(finished=False) | {k: measured(n=4)[k] for k in ("n_param", "seconds", "peak_memory")},
    )
    page = Page(write_report([tmp_path / "empty", tmp_path / "half"], tmp_path / "r.html").read_text())
    assert "Unfinished" in page.text and page.text.index("Unfinished") < page.text.rindex("empty")
    assert "4 so far" in page.text
    assert len(page.sources) == 2  # what is known already: weight change and plasticity


def test_text_is_escaped(tmp_path):
    write_run(tmp_path / "a<b>&c", measured(), set="<script>alert(1)</script>", note='"><img src=x>')
    page = Page(write_report([tmp_path], tmp_path / "r.html").read_text())
    assert "<script>alert(1)</script>" in page.text and "a<b>&c" in page.text and '"><img src=x>' in page.text
    assert "script" not in page.open and "x" not in page.sources


def test_executed_notebooks_are_linked(tmp_path):
    states = {
        "1 begin": {"duration": 12.3, "exception": None},
        "2-bad": {"exception": True},
        "3-cut": {"duration": None},
    }
    for name, state in states.items():
        notebook = {"cells": [], "metadata": {"papermill": state}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(notebook))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints/1 begin-checkpoint.ipynb").write_text("{}")
    page = Page(write_report([tmp_path], tmp_path / "report.html").read_text())
    assert page.links == ["1%20begin.ipynb", "2-bad.ipynb", "3-cut.ipynb"]
    assert re.findall("12 s|failed|not executed to its end", page.text) == ["12 s", "failed", "not executed to its end"]


def test_what_cannot_be_read_is_named(tmp_path):
    out = tmp_path / "r.html"
    write_run(tmp_path / "a", measured())
    for damage in ('{"method": ', '{"method": "lora"}'):
        (tmp_path / "a" / "results.json").write_text(damage)
        with pytest.raises(UserError, match="a/results.json is damaged"):
            write_report([tmp_path], out)
    (tmp_path / "a" / "run.json").write_text("")
    with pytest.raises(UserError, match="a/run.json is damaged"):
        write_report([tmp_path], out)
    with pytest.raises(UserError, match="no run.json under"):
        write_report([tmp_path / "a" / "tasks"], out)
    with pytest.raises(UserError, match="no folder"):
        write_report([tmp_path / "nowhere"], out)
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    write_run(tmp_path / "a", measured())
    with pytest.raises(UserError, match="cannot write"):
        write_report([tmp_path / "a"], tmp_path)  # a folder
    with pytest.raises(UserError, match="cannot write"):
        write_report([tmp_path / "a"], tmp_path / "a" / "run.json" / "r.html")  # below a file
