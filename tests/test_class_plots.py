"""Figures and report of runs that learned classes, from results that were written by hand."""

import json

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from stamina_lite import plots
from stamina_lite.errors import UserError
from stamina_lite.measures.intervals import Number
from stamina_lite.plots.classes import FAMILY, style
from stamina_lite.reproduction.report import write_report

R = [[90.0], [80.0, 85.0], [70.0, 88.0, 80.0]]


def results(method="stamina", R=R, **changed):
    forgets = len(R) > 1
    return {
        "method": method, "seed": 0, "set": "tuning", "tasks": [[0, 1], [2, 3], [4, 5]], "accuracy": R,
        "a_n": sum(R[-1]) / len(R[-1]), "a_n_running": 80.0 if forgets else None, "f_n": 5.5 if forgets else None,
        "f_n_chaudhry": 9.0 if forgets else None, "n_param": {"train": 5.0, "store": 0.2},
        "seconds": [60.0] * len(R), "peak_memory": [2**30] * len(R), **changed,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_matrix_shows_every_number_at_its_place():
    axis = plots.accuracy_matrix(results()).axes[0]
    shown = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axis.texts}
    assert shown == {(t, i): f"{v:.0f}" for t, row in enumerate(R) for i, v in enumerate(row)}
    image = axis.images[0].get_array()
    assert image.shape == (3, 3) and image[2, 1] == 88 and image.mask[0, 2]
    assert plots.accuracy_matrix(results("ub", [[60.0, 70.0, 80.0]])).axes[0].images[0].get_array().shape == (
        1,
        3,
    )


def test_matrices_of_several_runs_stand_side_by_side():
    *panels, bar = plots.accuracy_matrix(results("ft"), results("ub", [[60.0, 70.0, 80.0]])).axes
    assert [axis.get_title() for axis in panels] == ["ft", "ub"] and bar.get_ylabel() == "Accuracy (%)"
    assert [len(axis.texts) for axis in panels] == [6, 3]


def test_every_head_of_a_run_stands_in_its_row():
    first = results(heads={"trained": {"a_n": 60.0}, "means": {"a_n": 66.0}})
    axis = plots.head_accuracy([first, results("ncm", heads={"means": {"a_n": 64.0}})]).axes[0]
    points = {line.get_label(): line.get_xydata().round().tolist() for line in axis.lines}
    assert points == {"trained": [[60, 0]], "means": [[66, 0], [64, 1]]}
    assert [t.get_text() for t in axis.get_yticklabels()] == ["stamina", "ncm"]


def test_heads_of_rows_have_their_intervals():
    numbers = {
        "stamina": {"trained": Number(28, 26, 31), "means": Number(32, 30, 33)},
        "ncm": {"means": Number(30, 29, 31)},
    }
    axis = plots.head_ranking(numbers).axes[0]
    points = {line.get_label(): line.get_xydata().round().tolist() for line in axis.lines}
    assert points == {"trained": [[28, 0]], "means": [[32, 0], [30, 1]]}
    ends = [tuple(round(x) for x in segment[:, 0]) for c in axis.collections for segment in c.get_segments()]
    assert ends == [(26, 31), (30, 33), (29, 31)]
    plt.close("all")


def test_masks_overlap_beside_chance_from_the_second_task_on():
    pair = {"overlap": 0.2, "chance": 0.3}
    masked = results(mask_density=[0.5, 0.4, 0.3], mask_overlap=[None, pair, pair])
    other = results(mask_density=[0.3, 0.2, 0.1], mask_overlap=[None, pair, {"overlap": 0.4, "chance": 0.3}])
    without = results("c-lora", mask_density=[None] * 3, mask_overlap=[None] * 3)
    lines = [line.get_ydata()[-2:] for line in plots.mask_overlap([masked, other, without]).axes[0].lines]
    assert [pytest.approx([*line]) for line in lines] == [[0.3, 0.2], [0.2, 0.3], [0.3, 0.3]]
    with pytest.raises(UserError, match="no run has masks"):
        plots.mask_overlap([without])


def test_predictions_stand_beside_their_image(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    found = {"file": str(tmp_path / "a.png"), "classes": [{"name": "cup", "probability": 0.75}]}
    left, right = plots.predictions([found]).axes
    assert left.images[0].get_array().shape == (6, 8, 3)
    assert [bar.get_width() for bar in right.patches] == [0.75] and right.get_yticklabels()[0].get_text() == "cup"


def test_curves_are_means_of_rows_and_of_runs():
    runs = [results(), results(R=[[80.0], [60.0, 70.0], [50.0, 60.0, 40.0]]), results("ub", [[60.0, 70.0, 80.0]])]
    axis = plots.accuracy_curves(runs).axes[0]
    lines = {line.get_label(): [*map(float, line.get_ydata())] for line in axis.lines}
    assert lines["stamina"] == pytest.approx([85, (82.5 + 65) / 2, (238 / 3 + 50) / 2])
    assert lines["ub, all at once"] == [70, 70]
    assert len(axis.collections) == 1  # the range of the two runs


def test_learned_against_kept():
    figure = plots.learned_and_kept([results(), results("ncm", f_n=0.0), results("ub", [[60.0, 70.0, 80.0]])])
    points = sorted(tuple(map(float, c.get_offsets()[0])) for c in figure.axes[0].collections)
    assert points == [(85.0, 0.0), (85.0, 5.5)]
    assert {t.get_text() for t in figure.axes[0].texts} == {"stamina", "ncm"}
    with pytest.raises(UserError, match="no run has learned a second task"):
        plots.learned_and_kept([results(R=[[90.0]])])


def test_methods_differ_in_colour_or_line():
    known = [method for method, family in FAMILY.items() if family != "ablations"]
    assert len({str(style(method)) for method in known}) == len(known)
    assert style("stamina-soft-mask")["color"] == style("stamina")["color"]


def write_run(folder, **changed):
    folder.mkdir()
    about = {"half": "classification", "set": "tuning", "set_hash": "x", "base": "y", "tasks": 3, "seed": 4}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "results.json").write_text(json.dumps(results(**changed)))


def test_a_report_tells_classes_apart_from_concepts(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", method="c-lora")
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    assert "Measures of classes" in page and "<h2>Measures</h2>" not in page
    cells = page.split("<td>a</td>")[1].split("</tr>")[0].replace("</td>", "").split("<td>")[1:]
    assert cells[:3] == ["stamina", "y", "trained"]  # method, base, head
    assert cells[3:] == ["4", "6", "3 of 3", "79.3", "80.0", "5.5", "9.0", "5 %", "0.2 %", "3.0 min", "1.0 GiB"]
    assert "tuning, 3 tasks, y" in page and page.count("<img ") == 4  # two figures, and a matrix a run
    (tmp_path / "b" / "results.json").write_text(json.dumps({"method": "c-lora", "accuracy": [[1.0]]}))
    with pytest.raises(UserError, match=r"b/results.json is damaged \(tasks, a_n, n_param"):
        write_report([tmp_path], tmp_path / "r.html")


def test_a_report_has_a_row_for_each_head(tmp_path):
    own = results()
    measured = {
        key: own[key] for key in ("accuracy", "right", "a_n", "a_n_running", "f_n", "f_n_chaudhry") if key in own
    }
    write_run(tmp_path / "a", heads={"trained": measured, "means": {**measured, "a_n": 99.5}})
    page = write_report([tmp_path], tmp_path / "r.html").read_text()
    first, second = [part.split("</tr>")[0] for part in page.split("<td>a</td>")[1:]]
    assert "<td>trained</td>" in first and "<td>79.3</td>" in first
    assert "<td>means</td>" in second and "<td>99.5</td>" in second


def test_a_ranking_shows_the_highest_row_first_with_its_interval():
    numbers = {"ft": {5: Number(6, 5, 8), 10: Number(4, 3, 5)}, "ub": {10: Number(35, 32, 38)}}
    axis = plots.ranking(numbers).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["ub", "ft"] and axis.yaxis_inverted()
    ends = {tuple(round(x) for x in c.get_segments()[0][:, 0]) for c in axis.collections}
    assert ends == {(5, 8), (3, 5), (32, 38)}
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["5 tasks", "10 tasks"]
    plt.close("all")
