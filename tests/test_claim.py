"""Tables of the claim from runs whose numbers are known."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml
from PIL import Image

from stamina_lite.errors import UserError
from stamina_lite.measures.intervals import Number
from stamina_lite.reproduction import claims, figures, speed
from stamina_lite.reproduction.grids import CHECKSUM_FILE, load_grid, results_hash
from stamina_lite.reproduction.results import by_concept, difference, gain, read_runs, tidy

sys.path.append(str(Path(__file__).resolve().parents[1] / "studies"))
import after_fifty  # noqa: E402
import learning_speed  # noqa: E402
import mask_search  # noqa: E402
import own_steps  # noqa: E402
import pairs  # noqa: E402
import publish  # noqa: E402
import tune  # noqa: E402

ROWS = {"ti++": {}, "lora-alone": {}, "c-lora": {}, "stamina": {"lambda_forget": 1.0}, "offline": {}}
NAMES = [f"c{k:02d}" for k in range(20)]
PEOPLE = ["person-01", "falls-01", "person-02", "person-05", "person-10"]


def results(row, plasticity, final, drift, step=None, tasks=NAMES):
    n = len(tasks)
    joint = row == "offline"
    stage = {"a_mmd_each": final, "concept_accuracy_each": [0.5] * n}
    return {
        "method": row,
        "seed": 0,
        "tasks": tasks,
        "mmd": {},
        "plasticity": [None] * n if joint else plasticity,
        "weight_change": [1.0] * n,
        "step_change": step or [1.0] * n,
        "mask_density": [0.1] * n,
        "mask_overlap": [None, *[{"overlap": 0.2, "chance": 0.1}] * (n - 1)],
        "touched": [None, *[0.05] * (n - 1)],
        "seconds": [2.0] * n,
        "n_param": {"train": 1.0, "store": 0.0 if row != "lora-alone" else 9.0},
        "kid": 0.001,
        "a_mmd_each": final,
        "f_mmd_each": [] if joint else drift[:-1],
        "recognised_as": [[k] * 4 for k in range(n)],
        "concept_accuracy_each": [0.25] * n,
        "concept_accuracy_when_learned_each": None if joint else [0.5] * n,
        "stages": {"5": {k: v[:5] for k, v in stage.items()}, str(n): stage},
    }


def write_run(home, run, content=None, **seal):
    folder = home / run.name
    folder.mkdir(parents=True, exist_ok=True)
    if content is not None:
        (folder / "results.json").write_text(json.dumps(content))
        (folder / "run.json").write_text("{}")
        seal = {"results": results_hash(folder), **seal}
    (folder / CHECKSUM_FILE).write_text(json.dumps({**run.checksum, **seal}))
    return folder


@pytest.fixture
def grid(tmp_path):
    protocol = {"set": "mini50", "pictures": 2, "stages": [5], "guidance": 1.0, "rows": ROWS}
    entries = [{"rows": [*ROWS], "seeds": [0, 1], "orders": ["alternate"]}]
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"protocol": protocol, "runs": entries}, sort_keys=False))
    return tmp_path / "grid.yaml"


@pytest.fixture
def home(grid, tmp_path):
    """C-LoRA gains .8 falling to 0 where LoRA alone gains 1 throughout; STAMINA gains .6 throughout and drifts less."""
    noise = [0.01 * (k % 3 - 1) for k in range(20)]
    token = [3.0 + n for n in noise]
    made = {
        "ti++": (token, token, [0.0] * 20),
        "lora-alone": ([t - 1.0 - n for t, n in zip(token, noise, strict=True)], [2.0] * 20, [0.0] * 20),
        "c-lora": ([t - 0.8 * (1 - k / 19) for k, t in enumerate(token)], [2.9] * 20, [0.4 + n for n in noise]),
        "stamina": ([t - 0.6 + n for t, n in zip(token, noise, strict=True)], [2.7] * 20, [0.1] * 20),
        "offline": (None, [1.5] * 20, None),
    }
    for run in load_grid(grid):
        if run.seed == 0 or run.row != "offline":
            steps = [4.0, *[1.0] * 8, *[0.1] * 11] if run.row == "c-lora" else None
            write_run(tmp_path / "runs", run, results(run.row, *made[run.row], steps))
        else:
            write_run(tmp_path / "runs", run, failed="no memory")
    return tmp_path / "runs"


def test_gains_and_differences_are_told_concept_by_concept(home, grid):
    frame = tidy(read_runs(home, grid))
    first, last = (gain(frame, "c-lora", part) for part in ("first", "last"))
    assert first.mean == pytest.approx(0.8 * (1 - 1.5 / 19)) and last.mean == pytest.approx(0.8 * 1.5 / 19)
    assert first.low < first.mean < first.high
    lead = difference(frame, "c-lora", "stamina", "plasticity", "last")
    assert lead.mean == pytest.approx(0.6 - 0.8 * 1.5 / 19, abs=0.01) and lead.low > 0.4
    assert difference(frame, "offline", "stamina", "plasticity") is None
    assert difference(frame, "lora", "stamina", "a_mmd") is None
    fall = claims.fall_of_gain(frame, "c-lora", "lora-alone")
    assert fall.mean == pytest.approx(first.mean - last.mean, abs=0.02) and fall.low > 0.4


def test_runs_of_another_shuffle_are_matched_by_concept_not_by_place(home, grid):
    """Seed 1 learns backwards: a difference must compare the same concepts, and a mean over runs the same names."""
    for run in load_grid(grid):
        if run.seed == 1 and run.row in ("ti++", "stamina"):
            values = [float(k) + (0.5 if run.row == "stamina" else 0.0) for k in range(20)]
            write_run(home, run, results(run.row, values, values, values, tasks=NAMES[::-1]))
    frame = tidy(read_runs(home, grid))
    means = by_concept(frame, "stamina", "a_mmd")
    assert means["c00"] == pytest.approx((2.7 + 19.5) / 2) and means["c19"] == pytest.approx((2.7 + 0.5) / 2)
    late = difference(frame, "stamina", "ti++", "plasticity", "last")
    assert late.mean == pytest.approx((-0.6 + 0.5) / 2, abs=0.02)


def test_the_table_tells_every_row_failed_cells_and_costs(home, grid):
    lines = claims.main_table(read_runs(home, grid)).splitlines()
    head = [c.strip() for c in lines[0].strip("|").split("|")]
    rows = {line.split("|")[1].strip(): [c.strip() for c in line.strip("|").split("|")] for line in lines[2:]}
    assert [*rows] == [*ROWS] and all(len(row) == len(head) for row in rows.values())
    stamina = dict(zip(head, rows["stamina"], strict=True))
    assert stamina["runs"] == "2" and stamina["A_mmd"] == "2.70 [2.70, 2.70]" and stamina["F_mmd"].startswith("0.10 [")
    assert stamina["accuracy %"] == "25 [25, 25]" and stamina["gain, last"].startswith("0.6")
    offline = dict(zip(head, rows["offline"], strict=True))
    assert offline["runs"] == "1 (1 failed)" and offline["F_mmd"] == "–" and offline["gain, first"] == "–"
    assert dict(zip(head, rows["lora-alone"], strict=True))["stored %"] == "9"
    brief = claims.main_table(read_runs(home, grid), claims.BRIEF).splitlines()
    assert [c.strip() for c in brief[0].strip("|").split("|")] == [*claims.BRIEF] and len(brief) == len(lines)
    assert next(line for line in brief if "stamina" in line).split(" | ")[2] == "2.70 [2.70, 2.70]"


def test_what_is_learned_is_told_against_the_ceiling(home, grid):
    lines = [line.split(" | ") for line in claims.ceiling_table(read_runs(home, grid)).splitlines()[2:]]
    found = {line[0].removeprefix("| "): line[1:] for line in lines}
    assert set(found) == {"ti++", "c-lora", "stamina"}, "offline learns all at once"
    first, last = (float(found["c-lora"][k].split()[0]) for k in (3, 4))
    assert first == pytest.approx(0.263, abs=0.01) and last == pytest.approx(0.937, abs=0.01)  # 1 - its gain
    assert found["ti++"][5].startswith("1.00 [") and found["stamina"][0] == "0 [0, 0]"


def test_lengths_are_the_stages_of_the_runs(home, grid):
    table = claims.length_table(read_runs(home, grid))
    assert table.splitlines()[0] == "| row | A_mmd, 5 | A_mmd, 20 | accuracy %, 5 | accuracy %, 20 |"
    assert re.search(r"\| stamina \| 2\.70 \[.*\| 50 \[50, 50\]", table)


def test_claims_get_the_verdict_of_their_interval(home, grid):
    verdicts = {}
    for line in claims.claims_table(read_runs(home, grid)).splitlines()[2:]:
        entries = [c.strip() for c in line.strip("|").split("|")]
        verdicts[entries[0]] = entries[-1]
    assert verdicts["C-LoRA's weights stop moving"] == "supported"
    assert verdicts["C-LoRA stops being able to learn"] == "supported"
    assert verdicts["STAMINA keeps learning"] == verdicts["STAMINA forgets as little"] == "supported"
    assert verdicts["STAMINA knows more at the end"] == verdicts["nothing is added"] == "supported"
    assert verdicts["the mask does it"] == "–"


@pytest.mark.parametrize(
    ("numbers", "side", "bound", "expected"),
    [
        ((1.0, 0.5, 1.5), "above", 0.0, "supported"),
        ((1.0, -0.5, 1.5), "above", 0.0, "inconclusive"),
        ((-1.0, -1.5, 0.5), "above", 0.0, "inconclusive"),
        ((-1.0, -1.5, -0.5), "above", 0.0, "contradicted"),
        ((0.02, 0.01, 0.04), "below", 0.05, "supported"),
        ((0.02, 0.01, 0.06), "below", 0.05, "inconclusive"),
        ((0.08, 0.01, 0.16), "below", 0.05, "inconclusive"),
        ((0.08, 0.06, 0.16), "below", 0.05, "contradicted"),
        ((0.0, 0.0, 0.0), "below", 0.0, "inconclusive"),
    ],
)
def test_verdicts(numbers, side, bound, expected):
    assert claims.verdict(Number(*numbers), side, bound) == expected


def test_look_alikes_are_told_apart_from_people_in_general(home, grid):
    """Person 1 is taken for its look-alike as often as for itself; person 10's look-alike is not in the set."""
    seen = [[0, 0, 2, 2], [1, 1, 1, 1], [2, 2, 3, 1], [3] * 4, [4] * 4]
    for run in load_grid(grid):
        if run.row == "stamina":
            values = [1.0] * 5
            write_run(home, run, results("stamina", values, values, values, tasks=PEOPLE) | {"recognised_as": seen})
    found = [f for f in read_runs(home, grid) if f.run.row == "stamina"]
    row = claims.look_alike_table(found).splitlines()[2]
    assert row == "| stamina | 50 [50, 50] | 25 [0, 50] | 6 [0, 12] |"


def test_numbers_are_rounded_with_their_interval_and_have_no_negative_zero():
    assert Number(-0.001, -0.126, 0.124).text() == "0.00 [-0.13, 0.12]"
    assert Number(0.281, -0.004, 0.3).text(0, 100) == "28 [0, 30]"


def test_missing_cells_are_counted_and_missing_rows_named(home, grid):
    for run in load_grid(grid):
        if run.row == "lora-alone":
            (home / run.name / CHECKSUM_FILE).unlink()
    assert claims.blocks(home, grid)["missing"] == (  # one of offline's has failed
        "7 of 10 runs have finished: ti++ 2 of 2, c-lora 2 of 2, stamina 2 of 2, offline 1 of 2. None of lora-alone."
    )


def test_unknown_foreign_and_edited_cells_are_refused(home, grid):
    run = load_grid(grid)[0]
    seal = home / run.name / CHECKSUM_FILE
    good = seal.read_text()
    seal.write_text(json.dumps({**json.loads(good), "settings": {"lambda_forget": 9}}))
    with pytest.raises(UserError, match=r"ti\+\+.alternate.0 has another protocol than grid.yaml"):
        read_runs(home, grid)
    seal.write_text(good)
    file = home / run.name / "results.json"
    content = file.read_text()
    file.write_text(content.replace("3.0", "2.0", 1))
    with pytest.raises(UserError, match="was changed after its run"):
        read_runs(home, grid)
    file.write_text(content)
    (home / run.name).rename(home / "tj.alternate.0")
    with pytest.raises(UserError, match="tj.alternate.0 is no run of grid.yaml"):
        read_runs(home, grid)


def test_figures_show_every_row_that_can_be_shown(home, grid):
    found = read_runs(home, grid)
    curves = figures.gain_by_task(found, ["c-lora", "stamina"]).axes[0]
    assert [line.get_label() for line in curves.lines[:2]] == ["c-lora", "stamina"]
    assert list(curves.lines[0].get_xdata()) == [5.5, 10.5, 15.5]
    assert curves.lines[0].get_ydata()[0] > 0.55 > 0.25 > curves.lines[0].get_ydata()[-1]
    alone = figures.gain_by_task(found, ["lora-alone"]).axes[0].lines[0].get_ydata()
    less, zero = figures.gain_by_task(found, ["c-lora", "lora-alone"], "lora-alone").axes[0].lines[:2]
    assert less.get_ydata() == pytest.approx(curves.lines[0].get_ydata() - alone) and set(zero.get_ydata()) == {0}
    short = [replace(f, results={**f.results, "tasks": f.results["tasks"][:4]}) for f in found if f.results]
    points = figures.gain_by_task(short, ["c-lora"]).axes[0].lines[0].get_xdata()
    assert list(points) == [1.5, 2.5, 3.5], "a short sequence has several points"
    plane = figures.plane(found).axes[0]
    assert {t.get_text() for t in plane.texts} == {"ti++", "lora-alone", "c-lora", "stamina"}
    left, right = figures.masks(found).axes
    assert set(left.lines[0].get_ydata()) == {0.1} and right.lines[0].get_ydata()[-1] == pytest.approx(0.2)
    pairs = [("stamina", "c-lora"), ("stamina", "lora")]  # no run of lora is stored
    a_mmd, f_mmd, _ = figures.differences(found, pairs).axes
    assert [t.get_text() for t in a_mmd.get_yticklabels()] == ["stamina minus c-lora", "stamina minus lora"]
    points = [float(axis.lines[0].get_xdata()[0]) for axis in (a_mmd, f_mmd)]
    assert points == pytest.approx([-0.2, -0.3], abs=0.01) and len(a_mmd.containers) == 1
    plt.close("all")


def test_seeds_of_a_long_past_are_put_together_concept_by_concept():
    def row(*late):
        return {
            "early": {"learned": [1.0, 2.0], "recognised": [0.5, 0.5], "step_change": [1.0, 1.0]},
            "late": {"learned": [*late], "recognised": [0.25, 0.5], "step_change": [0.5, 0.5]},
        }

    rows = {"lora.0 steps=9": row(1.0, 3.0), "lora.1 steps=9": row(2.0, 2.0), "lora.1": row(1.0, 2.0)}
    for measured in rows["lora.0 steps=9"].values():
        del measured["recognised"]
    means = after_fifty.of_several_seeds(rows)
    assert [*means] == ["lora.0+1 steps=9"]
    assert means["lora.0+1 steps=9"]["late"] == {"learned": [1.5, 2.5], "step_change": [0.5, 0.5]}
    lines = after_fifty.long_past_table({"rows": rows}).splitlines()
    assert lines[-1].startswith("| lora.0+1 steps=9 | 1.50 [1.00, 2.00] | 2.00 [1.50, 2.50] | 0.50 [0.50, 0.50] |")


def test_a_long_past_is_told_on_the_same_concepts():
    early = {"learned": [2.0, 3.0], "recognised": [0.5, 1.0], "step_change": [1.0, 3.0]}
    late = {"learned": [2.5, 3.5], "recognised": [0.25, 0.75], "step_change": [0.5, 0.5]}
    unseen = {
        when: {k: v for k, v in run.items() if k != "recognised"} for when, run in (("early", early), ("late", late))
    }
    report = {"rows": {"c-lora.0": {"early": early, "late": late}, "begun": {"early": early}, "lora.0": unseen}}
    lines = after_fifty.long_past_table(report).splitlines()
    numbers = "2.50 [2.00, 3.00] | 3.00 [2.50, 3.50] | 0.50 [0.50, 0.50]", "75 [50, 100] | 50 [25, 75] | 25 [25, 25]"
    assert lines[2:] == [
        f"| c-lora.0 | {numbers[0]} | {numbers[1]} | 2.00 | 0.50 |",
        f"| lora.0 | {numbers[0]} | – | – | – | 2.00 | 0.50 |",
    ]


def test_what_a_mask_keeps_is_told_in_parts_of_a_change_without_one():
    def row(fall, density=None):
        return {"base weights": 1.0, "folded": 1.0 - fall, "density": density}

    rows = {mask_search.PLAIN: {"a": row(0.4), "b": row(0.2)}, "half": {"a": row(0.2, 0.1), "b": row(0.1, 0.3)}}
    shares = mask_search.mask_shares({"rows": rows})
    assert shares["half"][0].mean == pytest.approx(0.5) and shares["half"][1] == pytest.approx(0.2)
    assert shares[mask_search.PLAIN] == (Number(1.0, 1.0, 1.0), 1.0)
    axis = mask_search.mask_figure({"rows": rows}).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == [mask_search.PLAIN, "half"]
    assert [t.get_text() for t in axis.texts] == ["100 % open", "20 % open"]
    plt.close("all")


def test_two_concepts_in_one_picture_are_told_by_kind():
    found = {"both": 0.5, "one": 0.75, "nearer": 0.125, "nearer_interval": [0.1, 0.2]}
    lines = pairs.together_table({"rows": {"lora": {"two people": found}}}).splitlines()
    assert lines[2] == "| lora | two people | 50 | 75 | 0.12 [0.10, 0.20] |"


def test_own_steps_are_compared_with_the_protocols_concept_by_concept_and_seed_by_seed():
    def run(learned, end):
        return {"tasks": ["a", "b"], "plasticity": learned, "a_mmd_each": end}

    rows = {
        "ti++": {"60": {"0": run([1, 2], [1, 3]), "1": run([3, 4], [2, 4])}, "30": {"1": run([5, 6], [1, 2])}},
        "offline": {"30": {"0": run([None, None], [4, 6])}},
    }
    lines = own_steps.own_steps_table({"rows": rows}).splitlines()[2:]
    assert lines == [
        "| ti++ | 60 | 2.50 [2.00, 3.00] | 2.50 [1.50, 3.50] | – |",
        "| ti++ | 30 | 5.50 [5.00, 6.00] | 1.50 [1.00, 2.00] | -1.50 [-2.00, -1.00] |",
        "| offline | 30 | – | 5.00 [4.00, 6.00] | – |",
    ]


def test_trials_are_told_with_what_differed_and_what_was_chosen():
    trials = [
        {"options": {"lr": 0.005, "decay": 1.0}, "a_mmd": 2.345},
        {"options": {"lr": 0.01}, "a_mmd": 2.2},
    ]
    found = tune.tuning_table({"lora": {"chosen": {"lr": 0.01}, "trials": [*trials, trials[1]]}})
    assert found.splitlines()[2] == "| lora | lr 0.005, merge_exponent 1 → 2.35; lr 0.01 → 2.20 | lr 0.01 |"
    classes = {"ft": {"chosen": {"lr": 0.01}, "trials": [{"options": {"lr": 0.01}, "a_n": 41.27}]}}
    assert "→ A_N |" in (found := tune.tuning_table(classes, "a_n", 1)) and "lr 0.01 → 41.3" in found


def test_steps_to_a_share_of_the_fall():
    looks = [0, 10, 20, 40]
    assert speed.steps_to(0.9, looks, [4.0, 3.0, 2.0, 2.0]) == pytest.approx(18)
    assert speed.steps_to(0.9, looks, [4.0, 1.0, 2.5, 2.0]) == pytest.approx(6)  # the first time counts
    assert speed.steps_to(0.9, looks, [4.0, 4.0, 4.0, 3.0]) == pytest.approx(38)


def test_fewer_steps_are_told_over_tasks_in_which_both_rows_gained(home, grid):
    fast, slow, worse = [4.0, 1.0, 1.0], [4.0, 4.0, 1.0], [1.0, 2.0, 3.0]  # 90 % after 9, 19 and never
    rows = {
        "c-lora": {"0": {"1": slow, "2": slow, "40": fast}, "1": {"1": slow, "40": fast}},
        "stamina": {"0": {"1": fast, "2": worse, "40": fast}, "1": {"1": fast, "40": worse}},
    }
    report = {"looks": [0, 10, 20], "rows": rows}
    early, late = (speed.fewer_steps(report, "stamina", "c-lora", late) for late in (False, True))
    assert early.mean == early.high == pytest.approx(-10) and late.mean == pytest.approx(0)
    assert speed.fewer_steps(report, "lora", "c-lora", False) is None
    assert learning_speed.speed_table(report).splitlines()[2:] == [
        "| c-lora | 5 of 5 | 19 [19, 19] | 9 [9, 9] |",
        "| stamina | 3 of 5 | 9 [9, 9] | 9 [9, 9] |",
        "| stamina minus c-lora |  | -10 [-10, -10] | 0 [0, 0] |",
    ]
    said = claims.claims_table(read_runs(home, grid), report).splitlines()[-2:]
    assert "early tasks | -10 [-10, -10] | supported |" in said[0] and "0 [0, 0] | inconclusive |" in said[1]


def test_a_gallery_shows_the_same_concepts_of_every_row_that_kept_pictures(home, grid):
    found = read_runs(home, grid)
    with pytest.raises(UserError, match="no pictures are stored in"):
        figures.side_by_side(found, home)
    names = ["c00", "c01", "c10", "c11", "c18", "c19"]
    assert figures.early_middle_late(NAMES) == names and figures.early_middle_late(NAMES[:3]) == NAMES[:3]
    shades = {("stamina.alternate.0", name): 100 + 10 * k for k, name in enumerate(names)}
    shades |= {("c-lora.alternate.0", name): 10 * k for k, name in enumerate([*names, "c05"])}
    for (run, name), shade in shades.items():
        folder = home / run / "images" / "after-020" / name
        folder.mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (4, 4), (shade + k, 0, 0)).save(folder / f"{k:02d}.png")
    other = next(f for f in found if f.run.name == "stamina.alternate.1")
    other.results["tasks"] = NAMES[::-1]  # learned in another order: not shown beside them
    (home / other.run.name / "images").mkdir()
    figure = figures.side_by_side(found, home, columns=2)
    shown = [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes]
    assert shown == [100 * row + 10 * k + n for row in (0, 1) for k in range(6) for n in (0, 1)]  # the protocol's order
    assert [axis.get_title(loc="left") for axis in figure.axes[:4]] == ["c00", "", "c01", ""]
    assert [axis.get_ylabel() for axis in figure.axes[::12]] == ["c-lora", "stamina"]
    real = {name: [Image.new("RGB", (4, 4), (200 + k, 0, 0))] * 3 for k, name in enumerate(NAMES)}
    figure = figures.side_by_side(found, home, columns=2, real=real)
    shown = [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes[:14]]
    assert shown == [200, 200, 201, 201, 210, 210, 211, 211, 218, 218, 219, 219, 0, 1]
    assert [axis.get_ylabel() for axis in figure.axes[::12]] == ["real", "c-lora", "stamina"]
    two = figures.side_by_side(found, home, 1, names=["c10", "c19"]).axes
    assert [axis.images[0].get_array()[0, 0, 0] for axis in two] == [20, 50, 120, 150]
    plt.close("all")


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("document", ["README.md", "REPRODUCIBILITY.md", "results/README.md", "results/TABLES.md"])
def test_documents_show_what_the_stored_runs_say(document):
    """Every table between marks is recomputed from results/: a number changed by hand fails here."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = publish.blocks()
    shown = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL))
    assert shown and set(shown) <= set(blocks)
    for name, table in shown.items():
        assert table == blocks[name], f"{document}: {name}: run python studies/publish.py"
