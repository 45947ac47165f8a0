"""The report holds every number, needs no other file, and says what it could not read."""

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from test_plots import made_up

from stamina_lite.errors import UserError
from stamina_lite.reproduction import frontier, page
from stamina_lite.reproduction.comparison import compare
from stamina_lite.reproduction.grids import PRESETS
from stamina_lite.reproduction.page import from_markdown
from stamina_lite.reproduction.report import MEASURES, OPEN, write_report
from stamina_lite.reproduction.results import read_runs


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
        if tag not in ("img", "meta", "input"):
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
    # four figures of both runs; of each a sheet and three concepts' images, two of them twice; all within the page
    kinds = [source.split(";")[0] for source in page.sources]
    assert kinds.count("data:image/svg+xml") == 4 and kinds.count("data:image/webp") == 2 * (1 + 5)
    assert b"<svg" in base64.b64decode(page.sources[0].split(",")[1])
    assert "mini10: lora, stamina" in page.text
    assert not re.search(r"https?://", out.read_text())


def test_runs_of_different_sets_share_no_figure(tmp_path):
    write_run(tmp_path / "a", measured(), set="mini10")
    write_run(tmp_path / "b", measured(), set="tune5")
    page = Page(write_report([tmp_path], tmp_path / "r.html").read_text())
    assert "mini10: lora\n" in page.text and "tune5: lora\n" in page.text
    assert sum("svg" in source for source in page.sources) == 2 * 4


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


def data(page: Page) -> list[list[dict]]:
    """The CSV files behind a page's figures."""
    files = [base64.b64decode(link.split(",")[1]).decode() for link in page.links if link.startswith("data:text/csv")]
    return [list(csv.DictReader(io.StringIO(file))) for file in files]


def test_a_figure_carries_its_numbers(tmp_path):
    write_run(tmp_path / "a", measured("stamina"))
    page = Page(write_report([tmp_path], tmp_path / "r.html").read_text())
    plasticity = next(
        rows for rows in data(page) if any(row["series"] == "stamina" and row["y"] == "2" for row in rows)
    )
    values = measured("stamina")["plasticity"]
    assert [float(row["y"]) for row in plasticity if row["series"] == ""][: len(values)] == pytest.approx(values)


def test_two_runs_are_compared_concept_by_concept(tmp_path):
    n = 8
    better = [1.0 + 0.1 * k for k in range(n)]
    write_run(tmp_path / "a", measured("stamina", n, a_mmd_each=better, f_mmd_each=better[:-1]))
    worse = [value + 0.5 for value in better]
    noisy = [value + (0.3 if k % 2 else -0.3) for k, value in enumerate(better[:-1])]
    write_run(tmp_path / "b", measured("lora", n, a_mmd_each=worse, f_mmd_each=noisy, concept_accuracy_each=[0.1] * n))
    page = Page(write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html").read_text())
    assert "-0.50 [-0.50, -0.50]" in page.text and "First: a. Second: b." in page.text
    table = {
        row[0]: row[1:] for row in compare(*(json.loads((tmp_path / x / "results.json").read_text()) for x in "ab"))
    }
    assert table["MMD² at the end (A_mmd)"][-1] == "first" and table["Forgetting (F_mmd)"][-1] == "inconclusive"
    assert table["Accuracy at the end, %"][2:] == ["15 [15, 15]", "first"]
    alone = Page(write_report([tmp_path / "a"], tmp_path / "r.html").read_text())
    assert "Two runs compared" in page.text and "Two runs compared" not in alone.text


def test_images_are_browsed_by_concept_and_task(tmp_path):
    write_run(tmp_path / "a", measured())
    html = write_report([tmp_path], tmp_path / "r.html").read_text()
    found = re.findall(r'<figure data-concept="([^"]+)" data-task="(\d+)"><img alt="([^"]+)"', html)
    assert ("thing-1", "1", "thing-1 after task 1") in found and ("thing-1", "3", "thing-1 after task 3") in found
    assert len(found) == 5 and "querySelectorAll('.gallery')" in html


def test_measures_become_tables_of_other_programs(tmp_path):
    write_run(tmp_path / "a_b", measured())
    write_report([tmp_path / "a_b"], tmp_path / "r.html", tmp_path / "tables")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "tables" / "concepts.csv").read_text(encoding="utf-8")))
    assert row["Run"] == "a_b" and row["A_mmd"] == "0.111" and row["Trained"] == "0.5 %"
    assert r"a\_b & lora & 0 & 3 & 0.111" in (tmp_path / "tables" / "concepts.tex").read_text(encoding="utf-8")
    assert "| a_b | lora | 0 | 3 | 0.111 |" in (tmp_path / "tables" / "concepts.md").read_text(encoding="utf-8")
    assert not (tmp_path / "tables" / "classes.csv").exists()


def test_runs_of_a_grid_have_its_verdicts_in_front(tmp_path):
    stored = Path(__file__).parents[1] / "results" / "claim10"
    for row in ("ti++", "c-lora", "stamina"):
        shutil.copytree(stored / f"{row}.alternate.0", tmp_path / "claim10" / f"{row}.alternate.0")
    page = Page(write_report([tmp_path / "claim10"], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.open == [] and page.text.index("Grid claim10") < page.text.index("Measures\n")
    assert "Claims of the papers" in page.text and "inconclusive" in page.text


def test_many_runs_are_folded_and_have_no_sheet(tmp_path):
    for k in range(OPEN + 1):
        write_run(tmp_path / f"run-{k}", measured())
    html = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert html.count('class="gallery"') == OPEN + 1 and "Pictures just after learning" not in html
    assert "<summary>run-0</summary>" in html and "<h2>run-0</h2>" not in html


def test_the_stored_report_has_every_stored_run_and_the_numbers_of_the_tables():
    results = Path(__file__).parents[1] / "results"
    html = (results / "report-frontier.html").read_text(encoding="utf-8")
    for run in sorted((results / "frontier").glob("*/run.json")):
        assert f"<summary>frontier/{run.parent.name}</summary>" in html, "run python studies/publish.py"
    found = read_runs(results / "frontier", PRESETS / "frontier.yaml")
    for table in (frontier.frontier_table(found), frontier.gaps_table(found)):
        assert all(line in html for line in from_markdown(table, "").split("<tr>")[1:-1]), (
            "run python studies/publish.py"
        )
    assert len(re.findall("<img ", html)) == len(re.findall('<img alt="[^"]+"', html))
    assert len(html) < 10_000_000


def test_a_column_with_long_text_is_aligned_as_one():
    html = page.table(["row", "what", "number"], [["a", "short", "1"], ["b", "long " * 20, "2"]], "a table")
    assert html.count('class="long"') == 3 and '<td class="long">short</td>' in html and "<td>1</td>" in html
    assert page.table(["row"], [], "empty").count("<th") == 1
