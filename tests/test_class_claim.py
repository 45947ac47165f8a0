"""Tables of the classification half from runs whose numbers are known."""

import pytest
import torch
import yaml
from test_claim import write_run

from stamina_lite import measures
from stamina_lite.classification.datasets import class_tasks
from stamina_lite.reproduction import class_claims as tables
from stamina_lite.reproduction.grids import load_grid
from stamina_lite.reproduction.results import read_runs

CLASSES, ROWS = 40, {"ub": {}, "c-lora": {"lambda_forget": 1.0}, "coda-p": {}, "stamina": {}}


def results(row, seed, tasks, share):
    """share(label, task it came with, now) of a class's 20 test pictures, 30 where the label is odd, are told right."""
    split = class_tasks(CLASSES, tasks, seed)
    joint, order = row == "ub", sum(split, [])
    asked = [20 + 10 * (label % 2) for label in order]
    came = {label: t for t, task in enumerate(split) for label in task}
    rounds = [tasks - 1] if joint else range(tasks)
    right = [
        [round(asked[k] * share(label, came[label], now)) for k, label in enumerate(order) if came[label] <= now]
        for now in rounds
    ]
    R = [measures.accuracy_by_task(row, asked, [CLASSES // tasks] * tasks) for row in right]
    forgets = not joint and tasks > 1
    return {
        "method": row,
        "seed": seed,
        "set": "renditions",
        "tasks": split,
        "accuracy": R,
        "right": right,
        "asked": asked,
        "a_n": measures.final_mean(R),
        "a_n_running": measures.mean_of_running_means(R) if forgets else None,
        "f_n": measures.forgetting_coda(R) if forgets else None,
        "f_n_chaudhry": measures.forgetting_chaudhry(R) if forgets else None,
        "n_param": {"train": 1.0, "store": 0.5},
        "mask_density": [0.1 if row == "stamina" else None] * len(right),
        "mask_overlap": [None, *[{"overlap": 0.2, "chance": 0.1} if row == "stamina" else None] * (len(right) - 1)],
        "seconds": [30.0] * len(right),
        "peak_memory": [2**30] * len(right),
    }


SHARES = {  # C-LoRA and CODA-P forget a tenth a task, CODA-P knows .3 less; STAMINA half as much, odd classes are hard
    "ub": lambda label, came, now: 0.9,
    "c-lora": lambda label, came, now: 0.8 - 0.1 * (now - came),
    "coda-p": lambda label, came, now: 0.5 - 0.1 * (now - came),
    "stamina": lambda label, came, now: 0.8 - 0.3 * (label % 2) - 0.05 * (now - came),
}


@pytest.fixture
def grid(tmp_path):
    protocol = {"set": "renditions", "epochs": 5, "rows": ROWS}
    entries = [{"rows": [*ROWS], "seeds": [0, 1], "tasks": [2, 4]}]
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump({"protocol": protocol, "runs": entries}, sort_keys=False))
    return tmp_path / "classes.yaml"


@pytest.fixture
def found(grid, tmp_path):
    for run in load_grid(grid):
        if run.seed == 0 or run.row != "ub":
            made = results(run.row, run.seed, run.variant, SHARES[run.row])
            write_run(tmp_path / "classes", run, made)
    return read_runs(tmp_path / "classes", grid)


def test_as_they_were_drawn_measures_are_those_of_the_run(found):
    for f in found:
        R = tables.accuracies(f.results)
        assert tables.a_n(R)[0].item() == pytest.approx(f.results["a_n"])
        if f.results["f_n"] is None:
            assert tables.f_n(R) is None and tables.learned(R) is None
        else:
            assert tables.f_n(R)[0].item() == pytest.approx(f.results["f_n"])
            just = [row[-1] for row in f.results["accuracy"]]
            assert tables.learned(R)[0].item() == pytest.approx(sum(just) / len(just))


def test_draws_weigh_the_same_classes_in_every_run(found):
    """By hand: the first draw's classes, counted, in both orders of classes."""
    picks = torch.randint(CLASSES, (tables.RESAMPLES, CLASSES), generator=torch.Generator().manual_seed(0))[0].tolist()
    for f in found:
        r = f.results
        if f.run.row != "stamina":
            continue
        order, last = sum(r["tasks"], []), r["right"][-1]
        each = []
        for task in r["tasks"]:
            drawn = [order.index(label) for label in picks if label in task]
            each.append(100 * sum(last[k] for k in drawn) / sum(r["asked"][k] for k in drawn))
        assert tables.a_n(tables.accuracies(r))[1].item() == pytest.approx(sum(each) / len(each))


def test_intervals_are_as_wide_as_classes_and_runs_differ(found):
    even = tables.bootstrap(found).number("ub", 2, "a_n")
    assert even.mean == pytest.approx(90) and even.high - even.low < 1e-9, "all classes are alike"
    spread = tables.bootstrap(found).number("stamina", 2, "a_n")
    assert spread.low < spread.mean < spread.high and 3 < spread.high - spread.low < 15
    steady = torch.full((1 + tables.RESAMPLES,), 50.0, dtype=torch.float64)
    two = tables.number({0: steady, 1: steady + 10})
    assert (two.low, two.mean, two.high) == (50, 55, 60), "runs are drawn anew as well"


def test_rows_are_compared_run_by_run(found):
    drawn = tables.bootstrap(found)
    gap = drawn.difference("c-lora", "coda-p", 4, "a_n")
    assert gap.mean == pytest.approx(30, abs=1) and gap.high - gap.low < 2, "classes are drawn for both at once"
    assert drawn.difference("ub", "coda-p", 4, "f_n") is None
    assert len(drawn.values("ub", 4, "a_n")) == 1


def test_tables_tell_every_row_and_verdicts(found):
    drawn = tables.bootstrap(found)
    main = tables.main_table(drawn).splitlines()
    assert main[0].startswith("| method | runs | A_N, 2 tasks | A_N, 4 tasks | F_N, 2 tasks")
    ub = main[2].split(" | ")
    assert ub[:2] == ["| ub", "1 + 1"] and ub[2].startswith("90.0 [") and ub[4] == "–"
    c_lora = next(line for line in main if "c-lora" in line).split(" | ")
    assert c_lora[1] == "2 + 2" and c_lora[4].startswith("10.0 [")
    brief = [line.strip("| ").split(" | ") for line in tables.main_table(drawn, ("ub", "ncm"), ("a_n",)).splitlines()]
    assert brief[0] == ["method", "runs", "A_N, 2 tasks", "A_N, 4 tasks"] and [line[0] for line in brief[2:]] == ["ub"]
    assert brief[2][2] == ub[2]
    claims = tables.claims_table(drawn).splitlines()
    said = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in claims[2:]}
    assert said["C-LoRA knows more at the end than CODA-P"][3] == "supported"
    assert said["STAMINA knows more at the end than C-LoRA"][3] == "contradicted"
    assert said["STAMINA forgets less than C-LoRA"][5].strip(" |") == "supported"
    assert "STAMINA's mask helps" not in said, "no run without the mask is there"
    detail = next(line for line in tables.detail_table(drawn, 4).splitlines() if "stamina" in line).split(" | ")
    assert detail[4:] == ["1", "0.5", "2.0", "10", "0.20", "0.10 |"]
    assert len(tables.pair_table(drawn).splitlines()) == 2 + 3
    assert len(tables.pair_table(drawn, [tables.PAIRS[1]]).splitlines()) == 2 + 1


def test_one_run_fills_a_column_for_each_head(grid, tmp_path):
    content = yaml.safe_load(grid.read_text())
    content["protocol"]["heads"] = ["trained", "means"]
    plain = load_grid(grid)
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    for run, before in zip(load_grid(grid), plain, strict=True):
        assert run.arguments() == [*before.arguments(), "--head", "trained", "means"]
        assert run.checksum == before.checksum  # what has run without heads is not run again
        made = results(run.row, run.seed, run.variant, SHARES[run.row])
        if run.row == "c-lora":
            better = results(run.row, run.seed, run.variant, SHARES["ub"])
            made["heads"] = {"trained": {"right": made["right"]}, "means": {"right": better["right"]}}
        write_run(tmp_path / "classes", run, made)
    samples = tables.by_head(read_runs(tmp_path / "classes", grid))
    rows = [line.split(" | ") for line in tables.heads_table(samples).splitlines()]
    assert rows[0] == ["| method", "tasks", "runs", "A_N, trained", "A_N, means |"] and len(rows) == 4
    assert rows[2][:3] == ["| c-lora", "2", "2"] and rows[2][3].startswith("75.0") and rows[2][4].startswith("90.0")
    numbers = tables.head_numbers(samples, 2)
    assert {*numbers} == {"c-lora"} and numbers["c-lora"]["means"].mean == pytest.approx(90)


def test_rows_are_compared_with_the_same_head(grid, tmp_path):
    for run in load_grid(grid):
        made = results(run.row, run.seed, run.variant, SHARES[run.row])
        better = results(run.row, run.seed, run.variant, SHARES["ub"])
        made["heads"] = {"trained": {"right": made["right"]}, "means": {"right": better["right"]}}
        write_run(tmp_path / "classes", run, made)
    lines = tables.head_pairs_table(tables.by_head(read_runs(tmp_path / "classes", grid))).splitlines()
    assert lines[0] == "| A_N, points | claim | tasks | trained | means |"
    cells = [line.strip("| ").split(" | ") for line in lines[2:]]
    (trained, means) = next(c[3:] for c in cells if c[:3] == ["ub minus c-lora", "joint training is ahead", "2"])
    assert "ub minus ncm" not in {c[0] for c in cells}
    assert trained.startswith("15.0 [") and trained.endswith("] supported")
    assert means.startswith("0.0 [") and means.endswith("] inconclusive")


def test_accuracy_by_task_takes_tasks_of_any_size():
    right, asked = [8, 2, 5, 5, 10], [10] * 7
    assert measures.accuracy_by_task(right, asked, [3, 2, 2]) == [50, 75]
    uneven = {"method": "lora", "tasks": [[4, 0, 2], [1, 3]], "asked": [10] * 5, "right": [right[:3], right]}
    R = tables.accuracies(uneven)
    assert R.shape == (1 + tables.RESAMPLES, 2, 2) and R[0, 1].tolist() == pytest.approx([50, 75])
    assert R[0, 0, 0].item() == pytest.approx(50) and R[0, 0, 1].isnan()


def test_documents_get_the_tables_of_what_is_stored(found, tmp_path):
    blocks = tables.blocks(tmp_path, tmp_path)
    assert {*blocks} == {"classes", *(f"classes_{name}" for name in ("brief", "detail", "pairs", "claims", "missing"))}
    assert blocks["classes_missing"].startswith("14 of 16 runs") and "ub 2 of 4" in blocks["classes_missing"]
    assert blocks["classes_detail"] == tables.detail_table(tables.bootstrap(found), 4), (
        "ten tasks, or the most there are"
    )
    assert tables.blocks(tmp_path / "classes", tmp_path) == {}
