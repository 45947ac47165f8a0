"""Frontiers of runs whose points are known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from stamina_lite.reproduction import frontier
from stamina_lite.reproduction.grids import GridRun
from stamina_lite.reproduction.results import StoredRun

TASKS = [f"c{k:02d}" for k in range(12)]
PROTOCOL = {"rows": {}}


def run(row, forgetting, late, seed=0, early=1.0):
    """Forgets `forgetting` of every concept; MMD² when learned is `early`, and `late` of the last third."""
    wiggle = [0.01 * (k % 3 - 1) for k in range(12)]
    PROTOCOL["rows"][row] = {}
    results = {
        "tasks": TASKS,
        "plasticity": [(late if k >= 8 else early) + wiggle[k] for k in range(12)],
        "f_mmd_each": [forgetting + w for w in wiggle[:-1]],
        "a_mmd_each": [forgetting + late] * 12,
        "concept_accuracy_each": [0.5] * 12,
        "concept_accuracy_when_learned_each": [0.5] * 12,
        "step_change": [2.0] * 6 + [1.0] * 6,
        "mask_density": [0.2] * 6 + [0.04] * 6 if row.startswith("stamina") else [None] * 12,
    }
    return StoredRun(GridRun(row, "alternate", seed, PROTOCOL), results)


@pytest.fixture
def found():
    """C-LoRA: late likeness 3 - forgetting. STAMINA lies .5 below it where both are."""
    c_lora = [run(f"c-lora@{x:g}", f, 3 - f) for x, f in ((10, 0.2), (1, 1.0), (0.1, 2.0))]
    stamina = [run(f"stamina@{x:g}", f, 2.5 - f) for x, f in ((10, 0.1), (1, 0.8), (0.1, 1.5))]
    return [*c_lora, *stamina, run("lora-alone", 0.0, 0.9, early=1.0)]


def test_points_are_forgetting_and_the_likeness_of_the_last_third(found):
    p = frontier.points(found)
    assert p.forgetting["c-lora@1"][0] == pytest.approx(1.0, abs=0.01)
    assert p.likeness["c-lora@1"][0] == pytest.approx(2.0, abs=0.01)
    assert p.curve("c-lora") == ["c-lora@0.1", "c-lora@1", "c-lora@10"] and p.methods() == ["c-lora", "stamina"]
    assert p.forgetting["c-lora@1"].shape == (1 + frontier.RESAMPLES,)
    assert 0 < np.nanstd(p.likeness["c-lora@1"]) < 0.02


def test_how_far_late_concepts_stay_behind_a_lora_of_their_own(found):
    p = frontier.points(found)
    assert p.behind["c-lora@1"][0] == pytest.approx(2.0 - 0.9) and p.behind["lora-alone"][0] == 0
    assert np.nanstd(p.behind["c-lora@1"]) < 1e-6, "what makes a concept hard for both is not in the difference"
    assert frontier.points(found[:-1]).behind == {}
    assert "1.10 [1.10, 1.10]" in next(r for r in frontier.frontier_table(found).splitlines() if "c-lora@1 |" in r)
    with_bound, without = (frontier.plane(runs).axes[0].get_ylabel() for runs in (found, found[:-1]))
    assert "LoRA alone" in with_bound and "LoRA alone" not in without
    plt.close("all")


def test_seeds_with_other_late_concepts_are_compared_with_lora_alone_of_that_seed(found):
    """A second seed in which every concept is harder by 3: it changes MMD², and not what late concepts lack."""
    harder = [run("stamina@1", 0.8, 2.5 - 0.8 + 3, seed=1), run("lora-alone", 0.0, 0.9 + 3, seed=1)]
    p, one_seed = frontier.points([*found, *harder]), frontier.points(found)
    assert p.likeness["stamina@1"][0] == pytest.approx(1.7 + 1.5, abs=0.01)
    assert p.behind["stamina@1"][0] == pytest.approx(one_seed.behind["stamina@1"][0])
    gap = frontier.gap(p, "stamina", "c-lora")
    assert gap.mean == pytest.approx(frontier.gap(one_seed, "stamina", "c-lora").mean)


def test_updates_and_open_masks_of_early_and_late_tasks(found):
    lines = frontier.updates_table(found).splitlines()
    assert "| c-lora@1 | 2.00 | 2.000 | 1 | 1.000 | – | – |" in lines
    assert "| stamina@1 | 2.00 | 2.000 | 1 | 1.000 | 20 | 4 |" in lines


def test_two_frontiers_are_compared_at_equal_forgetting(found):
    p = frontier.points(found)
    gap = frontier.gap(p, "stamina", "c-lora")
    assert gap.mean == pytest.approx(-0.5, abs=0.02) and gap.low < gap.mean < gap.high < -0.45
    assert frontier.gap(p, "c-lora", "stamina").mean == pytest.approx(0.5, abs=0.02)
    assert frontier.gap(p, "c-lora", "lora-alone") is None
    apart = [run(f"lora-scaled@{x}", f, 1.0) for x, f in ((1, 5.0), (2, 6.0))]
    assert frontier.gap(frontier.points([*found, *apart]), "lora-scaled", "c-lora") is None


def test_means_are_over_the_seeds_of_a_row(found):
    p = frontier.points([*found, run("c-lora@1", 2.0, 4.0, seed=1)])
    assert p.forgetting["c-lora@1"][0] == pytest.approx(1.5, abs=0.01)
    assert p.likeness["c-lora@1"][0] == pytest.approx(3.0, abs=0.01)


def test_the_tables_have_the_numbers_and_verdicts(found):
    rows = frontier.frontier_table(found).splitlines()
    line = next(row for row in rows if row.startswith("| c-lora@10 "))
    assert "2.80 [2.79, 2.81]" in line and "0.20 [0.19, 0.20]" in line.replace("0.21]", "0.20]")
    assert "0.50" in line, "the last fifth of steps is half of the first"
    assert line.endswith("| 1.90 [1.90, 1.90] | supported |"), "(1 - 1) - (0.9 - 2.8): late concepts gain less"
    brief = frontier.frontier_table(found, frontier.BRIEF).splitlines()
    assert brief[0] == "| row | minus that of LoRA alone | F_mmd | A_mmd | accuracy % |" and len(brief) == len(rows)
    (gaps,) = (row for row in frontier.gaps_table(found).splitlines() if row.startswith("| stamina minus c-lora"))
    assert "-0.50" in gaps and gaps.endswith("| supported |")


def test_norms_of_updates_by_row_and_task(found):
    norms = frontier.norms(found)
    assert norms.loc[1, "c-lora@1"] == 2.0 and norms.loc[12, "c-lora@1"] == 1.0 and norms.shape == (12, 7)


def test_a_row_that_forgets_far_more_leaves_room_for_the_others(found):
    assert frontier.plane(found).axes[0].get_xscale() == "linear"
    axis = frontier.plane([*found, run("lora", 5.0, 0.1)]).axes[0]
    assert axis.get_xscale() == "symlog" and "logarithmic above 1.5" in axis.get_xlabel()


def test_figures_have_a_line_for_every_frontier(found):
    figure = frontier.plane(found)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["c-lora", "stamina"] and len(figure.axes[0].patches) == 7
    assert figure.axes[0].patches[0].width > 0
    strengths = frontier.by_strength(found, "a_mmd").axes[0]
    assert strengths.lines[0].get_xdata().tolist() == [0.1, 1.0, 10.0]
    assert strengths.lines[0].get_ydata().tolist() == pytest.approx([3.0, 3.0, 3.0])
    left, right = frontier.norm_curves(found).axes
    assert (left.get_title(), right.get_title()) == ("c-lora", "stamina") and len(left.lines) == 3
    assert left.lines[1].get_ydata().tolist()[0] == 2.0 and left.lines[0].get_alpha() < left.lines[2].get_alpha()
    plt.close("all")
