"""Figures say what the numbers say, and a gallery shows what lies in the folder."""

import base64
import io
import json
import shutil
import time
import warnings

import matplotlib
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from stamina_lite import plots
from stamina_lite.diffusion.concepts import concepts
from stamina_lite.errors import UserError
from stamina_lite.measures.masks import mask_overlap
from stamina_lite.methods.registry import METHODS
from stamina_lite.plots.concepts import then_and_now
from stamina_lite.plots.gallery import SIDE, gallery
from stamina_lite.plots.live import LiveCurve
from stamina_lite.plots.masks import pairwise_overlap
from stamina_lite.plots.style import COLOURS, ROWS, add_legend, apart, mean_series
from stamina_lite.runs.files import save_task

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def made_up(method="lora", n=4, shift=0.0, finished=True) -> dict:
    """Results as results.json holds them, with numbers that are easily told apart."""
    tasks = [f"thing-{t}" for t in range(1, n + 1)]
    mmd = {str(t): {str(t): 1.0 + t} for t in range(1, n + 1)}
    if finished:
        mmd[str(n)] = {str(j): 2.0 + j for j in range(1, n)} | {str(n): 1.0 + n}
    return {
        "method": method, "seed": 0, "tasks": tasks, "mmd": mmd,
        "plasticity": [1.0 + t for t in range(1, n + 1)],
        "weight_change": [10.0 * t + shift for t in range(1, n + 1)],
        "step_change": [10.0 / t + shift for t in range(1, n + 1)],
        "mask_density": [None] * n,
    }  # fmt: skip


def lines(axis) -> dict:
    return {line.get_label(): line.get_ydata() for line in axis.lines}


@pytest.fixture
def run(tmp_path):
    """A run folder with results, pictures of a grey that encodes (task, concept, number), and masks."""
    results = made_up("stamina", n=3)
    (tmp_path / "results.json").write_text(json.dumps(results))
    for task, names in ((1, ["thing-1"]), (2, ["thing-2"]), (3, ["thing-1", "thing-2", "thing-3"])):
        for name in names:
            folder = tmp_path / "images" / f"after-{task:03d}" / name
            folder.mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (8, 8), (task * 50, int(name[-1]) * 50, k * 50)).save(folder / f"{k:02d}.png")
    for task in (1, 2, 3):
        mask = torch.zeros(4, 8, dtype=torch.bool)
        mask[: task + 1] = True
        tensors = {
            "mask.down.attn2.to_k": mask,
            "mask.down.attn2.to_v": ~mask,
            "weight.down.attn2.to_k": torch.ones(4, 8),
        }
        save_task(tmp_path / "tasks" / f"{task:03d}", tensors, {"task": task, "concept": f"thing-{task}"})
    return tmp_path


def test_every_method_has_a_colour_of_its_own():
    assert [*COLOURS] == [*METHODS]
    everything = COLOURS | ROWS
    assert len({to_rgb(c) for c in everything.values()}) == len(METHODS) + len(ROWS)
    assert plots.colour("a reader's own") not in COLOURS.values()


def test_weight_change_has_a_line_a_method_and_averages_seeds():
    figure = plots.weight_change([made_up("stamina"), made_up("lora"), made_up("lora", shift=4.0)])
    left, right = figure.axes
    assert [*lines(left)] == ["lora", "stamina"]
    assert lines(left)["lora"].tolist() == [12, 22, 32, 42] and lines(left)["stamina"].tolist() == [10, 20, 30, 40]
    assert lines(right)["lora"][0] == 12 and lines(right)["stamina"][3] == 2.5
    assert len(left.collections) == 1  # the range of the two seeds
    assert "W_init" in left.get_ylabel() and "ΔW" in right.get_ylabel() and left.get_xlabel() == "Task t"


@pytest.mark.parametrize("draw", [plots.weight_change, plots.plasticity])
def test_tasks_are_whole_numbers(draw):
    for axis in draw([made_up(n=4)]).axes:
        ticks = axis.get_xticks()
        assert len(ticks) > 2 and all(tick == round(tick) for tick in ticks)


def test_unequal_lengths_are_averaged_as_far_as_they_go():
    tasks, mean = mean_series([[1.0, 2.0, 3.0], [3.0]])
    assert tasks == [1, 2, 3] and mean == [2.0, 2.0, 3.0]


def test_plasticity_is_thin_and_its_running_mean_thick():
    results = made_up(n=7)
    results["plasticity"] = [0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 10.0]
    thin, thick = plots.plasticity([results]).axes[0].lines
    assert thin.get_linewidth() < thick.get_linewidth()
    assert [*thin.get_ydata()] == results["plasticity"]
    assert thick.get_ydata() == pytest.approx([0, 0, 0, 0, 0, 1, 3])


@pytest.mark.parametrize("keys", [str, int])
def test_forgetting_pairs_each_concept_but_the_last(keys):
    """JSON's keys are text, those of run_sequence's own results are numbers."""
    results = made_up(n=4)
    results["mmd"] = {keys(i): {keys(j): v for j, v in row.items()} for i, row in results["mmd"].items()}
    assert then_and_now(results) == [(2.0, 3.0), (3.0, 4.0), (4.0, 5.0)]
    assert plots.forgetting([results]).axes[0].collections[0].get_offsets().tolist() == [[2, 3], [3, 4], [4, 5]]


def test_forgetting_of_unfinished_runs_is_refused():
    with pytest.raises(UserError, match="no run is finished"):
        plots.forgetting([made_up(finished=False)])
    assert not plt.get_fignums()


def test_accuracy_is_drawn_by_task_against_chance():
    each = [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    (axis,) = plots.accuracy([made_up("lora", n=6) | {"concept_accuracy_each": each}, made_up("c-lora", n=6)]).axes
    assert lines(axis)["lora"] == pytest.approx([1, 0.75, 0.5, 0.375, 0.3, 0.1])
    assert "c-lora" not in lines(axis)  # not finished: it has no accuracies
    assert axis.lines[-1].get_ydata()[0] == pytest.approx(1 / 6)
    with pytest.raises(UserError, match="no run is finished"):
        plots.accuracy([made_up("c-lora")])


def test_mask_pictures_show_the_masks_of_layers_from_first_to_last():
    masks = {c: {f"layer{k}.to_k": torch.rand(6, 4 + k) < 0.3 for k in range(7)} for c in ("a", "b")}
    axes = plots.mask_pictures(masks, layers=3).axes
    shown = [axis.get_images()[0].get_array() for axis in axes]
    wanted = [masks[c][f"layer{k}.to_k"] for c in ("a", "b") for k in (0, 3, 6)]
    assert all(np.array_equal(picture, mask) for picture, mask in zip(shown, wanted, strict=True))
    assert axes[0].get_xlabel() == f"{wanted[0].float().mean():.0%} open" and axes[3].get_ylabel() == "b"
    with pytest.raises(UserError, match="no masks here"):
        plots.mask_pictures({})


def test_pairwise_overlap_is_that_of_metrics():
    rows = (
        torch.rand(5, 300, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.1, 0.9, 5)[:, None]
    ).float()
    overlap, chance = pairwise_overlap(rows)
    for i in range(5):
        for j in range(5):
            expected = mask_overlap(rows[i], rows[j])
            assert (overlap[i, j].item(), chance[i, j].item()) == pytest.approx(expected, abs=1e-6)
    assert overlap[0, 4] < 0.2 < overlap[3, 4]
    assert pairwise_overlap(torch.zeros(2, 4))[0].tolist() == [[0, 0], [0, 0]]


def test_mask_panel_shows_density_and_overlap(run):
    masks = plots.load_masks(run)
    assert [*masks] == ["thing-1", "thing-2", "thing-3"] and [*masks["thing-1"]] == [
        "down.attn2.to_k",
        "down.attn2.to_v",
    ]
    left, right, _ = plots.mask_panel(masks).axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["down.to_k", "down.to_v"]
    means = left.lines[-1].get_xdata()
    assert means.tolist() == pytest.approx([0.75, 0.25])
    shown = right.images[0].get_array()
    assert shown[0, 1] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert np.ma.getmaskarray(shown)[0, 0] or np.isnan(shown[0, 0])
    with pytest.raises(UserError, match="no masks"):
        plots.mask_panel({})


def test_one_mask_alone_can_be_shown(run):
    masks = {"thing-1": plots.load_masks(run)["thing-1"]}
    assert plots.mask_panel(masks).axes[1].get_title() == ""


def test_sheet_puts_every_picture_in_its_row():
    rows = [[Image.new("RGB", (4, 4), (10 * r, 20 * k, 0)) for k in range(3 - r)] for r in range(2)]
    axes = np.array(plots.sheet(rows, ["first", "second"]).axes).reshape(2, 3)
    assert [a.get_ylabel() for a in axes[:, 0]] == ["first", "second"]
    assert [[len(a.images) for a in row] for row in axes] == [[1, 1, 1], [1, 1, 0]]
    assert axes[1, 1].images[0].get_array()[0, 0].tolist() == [10, 20, 0]


def test_a_sheet_shows_pictures_at_one_size():
    for side in (128, 512, 16):
        figure = plots.sheet([[Image.new("RGB", (side, side))] * 3] * 2, ["first", "second"])
        figure.canvas.draw()
        assert figure.axes[0].get_window_extent().width == pytest.approx(128, rel=0.1)
        plt.close(figure)


def test_run_sheet_reads_the_stage_that_was_asked_for(run):
    axes = np.array(plots.run_sheet(run, ["thing-1"], ["learned", "final", 3]).axes).reshape(3, 2)
    assert [a.get_ylabel() for a in axes[:, 0]] == ["thing-1, learned", "thing-1, final", "thing-1, after 3"]
    assert [a.images[0].get_array()[0, 0].tolist() for a in axes[:, 1]] == [[50, 50, 50], [150, 50, 50], [150, 50, 50]]
    real = {"thing-1": [Image.new("RGB", (4, 4), (7, 8, 9))] * 3}
    first, second = np.array(plots.run_sheet(run, ["thing-1"], ["final"], real=real, columns=2).axes).reshape(2, 2)
    assert first[0].get_ylabel() == "thing-1, real" and second[0].get_ylabel() == "thing-1, final"
    assert first[1].images[0].get_array()[0, 0].tolist() == [7, 8, 9]
    with pytest.raises(UserError, match="thing-9"):
        plots.run_sheet(run, ["thing-9"])
    with pytest.raises(UserError, match="no pictures in .*after-002"):
        plots.run_sheet(run, ["thing-1"], [2])


@pytest.mark.parametrize("text", ["{", "[]", '{"method": "lora"}'])
def test_damaged_results_are_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match="results.json is damaged"):
        plots.load_results(tmp_path)


def pixels(box) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(box.children[1].value)))


def test_gallery_follows_slider_and_menu(run):
    box = gallery(run)
    slider, menu = box.children[0].children
    assert slider.options == (1, 2, 3) and menu.options == ("thing-1",)
    assert pixels(box)[0, 0].tolist() == [50, 50, 0] and pixels(box)[0, SIDE].tolist() == [50, 50, 50]
    slider.value = 3
    assert menu.options == ("thing-1", "thing-2", "thing-3") and menu.value == "thing-1"
    assert pixels(box)[0, 0].tolist() == [150, 50, 0]
    menu.value = "thing-2"
    assert pixels(box)[0, 0].tolist() == [150, 100, 0]
    slider.value = 1  # has no thing-2
    assert menu.value == "thing-1" and pixels(box)[0, 0].tolist() == [50, 50, 0]


def test_gallery_shows_real_pictures_below(run, tmp_path):
    folder = tmp_path / "real" / "thing-1"
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 20), (1, 2, 203)).save(folder / "0.png")
    plain, box = gallery(run), gallery(run, concepts(folder.parent))
    assert len(pixels(box)) == 2 * len(pixels(plain))
    assert pixels(box)[SIDE + 50, 0].tolist() == [1, 2, 203]
    with pytest.raises(UserError, match="has no pictures"):
        gallery(tmp_path / "real")


def test_the_gallery_answers_from_memory_within_a_tenth_of_a_second(run):
    box = gallery(run)
    slider = box.children[0].children[0]
    shutil.rmtree(run / "images")
    times = []
    for value in (3, 1, 2, 3, 1, 3):
        started = time.perf_counter()
        slider.value = value
        times.append(time.perf_counter() - started)
        assert pixels(box)[0, 0, 0] == 50 * value
    assert min(times) < 0.1


def test_the_quiz_shows_each_candidate_once_and_says_which_it_is():
    shades = {name: Image.new("RGB", (8, 8), (40 * k, 0, 0)) for k, name in enumerate(("ann", "bob", "cyd", "dan"), 1)}
    figure = plots.quiz(Image.new("RGB", (8, 8), (0, 200, 0)), shades, "cyd", seed=1)
    shown = {axis.get_title(): axis.images[0].get_array()[0, 0].tolist() for axis in figure.axes if axis.images}
    assert [*shown] == ["which is it?", "A", "B", "C", "D"] and shown["which is it?"] == [0, 200, 0]
    assert sorted(shade for _, (shade, *_) in list(shown.items())[1:]) == [40, 80, 120, 160]
    letter, name = figure.get_supxlabel().removeprefix("answer: ").split(", ")
    assert name == "cyd" and shown[letter] == [120, 0, 0]
    orders = {plots.quiz(shades["ann"], shades, "cyd", seed).get_supxlabel() for seed in range(8)}
    assert len(orders) > 1
    with pytest.raises(UserError, match="eve must be one of"):
        plots.quiz(shades["ann"], shades, "eve")


@pytest.mark.parametrize("heights", [[0.1, 0.5, 0.9], [0.5, 0.5, 0.51], [0.97, 0.98, 1.0], [0.4] * 40, [0.3], []])
def test_names_beside_a_plot_stand_apart_and_near_their_points(heights):
    places = apart(heights)
    room = min(0.05, 1 / max(len(heights) - 1, 1))
    assert all(b - a > room - 1e-9 for a, b in zip(places, places[1:], strict=False))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    if heights == [0.1, 0.5, 0.9]:
        assert places == heights  # where there is room nothing moves
    elif len(heights) < 10:
        assert all(abs(a - b) <= 0.1 for a, b in zip(places, heights, strict=True))


def test_a_live_curve_is_drawn_while_a_cell_runs_and_stays_as_its_output():
    nb = nbformat.v4.new_notebook()
    nb.cells.append(
        nbformat.v4.new_code_cell(
            "import stamina_lite.plots.live as live\n"
            "live.EVERY = 0\n"
            "curve = live.LiveCurve('Step', 'Norm')\n"
            "for step in range(3):\n"
            "    curve.add('lora', step, step**2)\n"
            "    curve.add('c-lora', step, 1)\n"
        )
    )
    nbclient.NotebookClient(nb, kernel_name="python3").execute()
    (output,) = nb.cells[0].outputs  # one figure, not one for each drawing
    picture = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB")
    pixels = np.asarray(picture).reshape(-1, 3) / 255
    for method in ("lora", "c-lora"):
        assert (np.abs(pixels - to_rgb(plots.colour(method))).max(1) < 0.02).sum() > 100


def test_a_live_curve_has_a_line_for_each_label():
    curve = LiveCurve("Step", "Norm")
    for step in range(3):
        curve.add("lora", step, step**2)
        curve.add("c-lora", step, 1)
    curve.draw()
    lines = {line.get_label(): line.get_xydata().tolist() for line in curve.axis.get_lines()}
    assert lines == {"lora": [[0, 0], [1, 1], [2, 4]], "c-lora": [[0, 1], [1, 1], [2, 1]]}
    assert curve.axis.get_ylim()[1] > 3.9


@pytest.mark.parametrize(("count", "inside"), [(3, True), (26, False)])
def test_a_legend_of_many_methods_leaves_the_axes_their_room(tmp_path, count, inside):
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for k in range(count):
        axis.plot([0, 1], label=f"custom-diffusion-merge-{k}")
    add_legend(figure, axis)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of axes that collapsed
        figure.savefig(tmp_path / "figure.svg")
    assert bool(axis.get_legend()) is inside and len(figure.legends) == (not inside)
    assert axis.bbox.width > 5 * figure.dpi and axis.bbox.height > 2.5 * figure.dpi
    plt.close(figure)
