"""What is drawn when, from which noise, and what becomes of it in results.json."""

import json

import pytest
import torch

from stamina_lite import ContinualLearner, Evaluation, concepts, load_base, measures, run_sequence
from stamina_lite.diffusion.evaluation import N_SHARED_NOISE, evaluation_seed
from stamina_lite.diffusion.pictures import from_folder
from stamina_lite.measures.features import features

FEW = {"steps": 3, "batch": 2, "rank": 2, "mask_rank": 2, "n_prior": 4}


@pytest.fixture(scope="module")
def extractors():
    return features("lite0"), features("lite0", greyscale=True)


def measure(tiny_folder, photos, out, extractors, method, **options):
    found = concepts(photos)
    learner = ContinualLearner(load_base(tiny_folder, device="cpu"), method, 0, out, **FEW, **options)
    return run_sequence(learner, found, Evaluation(found, *extractors, n=6, steps=2, stages=[2]), progress=False)


@pytest.fixture(scope="module")
def lora(tiny_folder, photos, extractors, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "lora"
    return out, measure(tiny_folder, photos, out, extractors, "lora", lr=0.5)


def test_the_first_pictures_share_their_noise_and_the_others_do_not():
    seeds = [[evaluation_seed(0, "amber", k, task) for k in range(8)] for task in (1, 2)]
    assert seeds[0][:N_SHARED_NOISE] == seeds[1][:N_SHARED_NOISE] and not set(seeds[0][N_SHARED_NOISE:]) & set(seeds[1])
    assert len(set(seeds[0])) == 8 and evaluation_seed(1, "amber", 0) != evaluation_seed(0, "amber", 0)


def test_every_stage_is_measured_over_the_concepts_learned_by_then(lora, photos, extractors):
    out, results = lora
    drawn = {p.relative_to(out / "images").as_posix() for p in (out / "images").glob("*/*")}
    names = [c.name for c in concepts(photos)]
    assert drawn == {
        f"after-001/{names[0]}",
        *(f"after-002/{n}" for n in names[:2]),
        *(f"after-003/{n}" for n in names),
    }
    assert set(results["stages"]) == {2, 3} and results["stages"][3]["a_mmd"] == results["a_mmd"]
    stage, found = results["stages"][2], concepts(photos)[:2]
    real = [extractors[0](c.load_references(32)) for c in found]
    now = [extractors[0](from_folder(out / "images" / "after-002" / c.name)) for c in found]
    assert stage["a_mmd_each"] == [pytest.approx(measures.mmd2(r, x), abs=1e-6) for r, x in zip(real, now, strict=True)]
    assert stage["a_mmd"] == pytest.approx(sum(stage["a_mmd_each"]) / 2) and len(stage["f_mmd_each"]) == 1
    assert stage["concept_accuracy"] == measures.concept_accuracy(now, real)[0]


def test_results_say_what_each_picture_was_taken_for_and_how_sure_a_measure_is(lora):
    out, results = lora
    taken = results["recognised_as"]
    assert [len(row) for row in taken] == [6, 6, 6] and {k for row in taken for k in row} <= {0, 1, 2}
    assert results["concept_accuracy_each"] == [row.count(j) / 6 for j, row in enumerate(taken)]
    for (low, high), value in zip(results["a_mmd_intervals"], results["a_mmd_each"], strict=True):
        assert low < value < high
    assert results["touched"][0] is None and results["touched"][1] == pytest.approx(1.0, abs=0.01)
    assert 0 < results["alignment"][2] < 1
    assert json.loads((out / "results.json").read_text())["stages"]["2"] == results["stages"][2]


def test_a_finished_run_is_measured_again_to_the_same_numbers(lora, tiny_folder, photos, extractors):
    out, results = lora
    before = {p: p.stat().st_mtime_ns for p in out.glob("images/*/*/*.png")}
    again = measure(tiny_folder, photos, out, extractors, "lora", lr=0.5)
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(results))
    assert before == {p: p.stat().st_mtime_ns for p in before} and len(before) == 6 * (1 + 2 + 3)


def test_models_of_their_own_draw_their_own_concepts_at_the_end(tiny_folder, photos, extractors, tmp_path):
    """Had the last model drawn them all, the shared pictures would differ from those of each concept's own."""
    measure(tiny_folder, photos, tmp_path, extractors, "lora-alone", lr=0.5)
    then, now = (from_folder(tmp_path / "images" / stage / "amber") for stage in ("after-001", "after-003"))
    n = N_SHARED_NOISE
    assert torch.equal(then[:n], now[:n]) and not torch.equal(then[n:], now[n:])


def test_what_is_learned_all_at_once_has_no_drift(tiny_folder, photos, extractors, tmp_path):
    results = measure(tiny_folder, photos, tmp_path, extractors, "offline")
    assert results["plasticity"] == [None] * 3 and results["f_mmd"] is None
    assert results["concept_accuracy_when_learned"] is None and results["a_mmd"] > 0
    assert results["tasks"] == [c.name for c in concepts(photos)]
