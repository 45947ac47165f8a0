import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from stamina_lite import ContinualLearner, cli, concepts, load_base
from stamina_lite.diffusion.learner import open_run
from stamina_lite.errors import UserError

FEW = {"steps": 4, "batch": 2, "rank": 2, "mask_rank": 2, "n_prior": 4}

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from stamina_lite import ContinualLearner, load_base, concepts
base, photos, out = sys.argv[1:]
learner = ContinualLearner(load_base(base, device="cpu"), "stamina", 3, out, steps=25, batch=2, rank=2, mask_rank=2)
for concept in concepts(photos):
    learner.learn(concept, progress=False)
    print("learned", flush=True)
"""


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "tensors.safetensors")


def run_to_end(base, photos, out):
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(base), str(photos), str(out)], check=True, stdout=subprocess.DEVNULL
    )


def test_a_killed_run_ends_bit_identical_to_one_left_alone(tiny_folder, photos, tmp_path):
    """Killed by SIGKILL in the middle of the second concept, then started again with the same command."""
    run_to_end(tiny_folder, photos, tmp_path / "alone")
    command = [sys.executable, "-c", SCRIPT, str(tiny_folder), str(photos), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "learned\n"
    time.sleep(0.15)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list((tmp_path / "killed" / "tasks").glob("[0-9]*")))
    assert 1 <= done < 3, "the kill came too late to prove anything"
    run_to_end(tiny_folder, photos, tmp_path / "killed")
    for task in ("001", "002", "003"):
        alone, killed = (weights(tmp_path / run / "tasks" / task) for run in ("alone", "killed"))
        assert set(alone) == set(killed) and all(torch.equal(alone[k], killed[k]) for k in alone)
    steps = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert [(s["task"], s["step"]) for s in steps] == [(t, s) for t in (1, 2, 3) for s in range(25)]


REMEMBERING = ["custom-diffusion-ewc", "lora-ewc", "custom-diffusion-merge", "replay", "dreambooth"]
REMEMBERING += ["lora-alone", "lora-scaled"]


@pytest.mark.parametrize("name", [*REMEMBERING, "offline"])
def test_a_run_taken_up_again_ends_as_one_left_alone(tiny_folder, photos, tmp_path, name):
    """What a method keeps of past tasks, and the order of their tokens, is taken up too."""
    found = concepts(photos)[::-1]  # not the order of the alphabet

    def go_on(out, count):
        learner = ContinualLearner(load_base(tiny_folder, device="cpu"), name, 5, tmp_path / out, **FEW)
        if name == "offline":
            rounds = [*range(len(learner.records), count)]
            for _ in rounds:
                learner._learn(found, f"round {len(learner.records) + 1}", progress=False)
        for concept in [] if name == "offline" else found[:count]:
            learner.learn(concept, progress=False)
        return learner

    go_on("alone", 3)
    go_on("again", 2)
    go_on("again", 3)
    alone, again = (weights(tmp_path / run / "tasks" / "003") for run in ("alone", "again"))
    assert set(alone) == set(again) and all(torch.equal(alone[k], again[k]) for k in alone)
    kept = {k.split(".")[1] for k in alone if k.startswith("memory.")}
    assert kept == {
        "custom-diffusion-ewc": {"fisher"},
        "lora-ewc": {"fisher"},
        "custom-diffusion-merge": {"keys", "values"},
    }.get(name, set())


def test_a_model_a_concept_is_recalled_by_its_name(tiny, tiny_folder, photos, tmp_path):
    found = concepts(photos)[:2]
    learner, drawn = ContinualLearner(tiny, "lora-alone", 0, tmp_path / "run", lr=0.5, **FEW), []
    for concept in found:
        learner.learn(concept, progress=False)
        drawn.append(learner.generate(f"a photo of {concept.token}", n=1, steps=2)[0].tobytes())
    again = open_run(tmp_path / "run", lambda there: load_base(tiny_folder, device="cpu"))
    for model in (learner, again):
        for k in (1, 0, 1):
            assert model.generate(f"a photo of {found[k].token}", n=1, steps=2)[0].tobytes() == drawn[k]
    with pytest.raises(UserError, match="lora-alone has no model that knows amber and berry: name one"):
        learner.generate("a photo of <amber> with <berry>")
    assert learner.records[-1]["n_param"]["store"] == pytest.approx(2 * learner.records[-1]["n_param"]["adapted"])
    homeless = ContinualLearner(load_base(tiny_folder, device="cpu"), "lora-alone", 0, None, **FEW)
    for concept in found:
        homeless.learn(concept, progress=False)
    with pytest.raises(UserError, match="keeps a model a concept: give the run a folder"):
        homeless.generate("a photo of <amber>")


def test_all_at_once_wants_all_concepts(tiny, photos, tmp_path):
    learner = ContinualLearner(tiny, "offline", 0, tmp_path / "run", **{**FEW, "steps": 1})
    with pytest.raises(UserError, match="offline learns all concepts at once"):
        learner.learn(concepts(photos)[0], progress=False)
    records = learner.learn_jointly(concepts(photos), progress=False)
    assert [r["concept"] for r in records] == ["round 1", "round 2", "round 3"]
    with pytest.raises(UserError, match="has learned other concepts"):
        learner.learn_jointly(concepts(photos)[:2], progress=False)


def test_concept_after_concept_costs_the_same_but_for_a_token_row(tiny, photos, tmp_path):
    learner = ContinualLearner(tiny, "stamina", 0, tmp_path / "run", **FEW)
    sizes, parameters = [], []
    for concept in concepts(photos):
        learner.learn(concept, progress=False)
        saved = weights(tmp_path / "run" / "tasks" / f"{len(learner.records):03d}")
        sizes.append(sum(t.numel() * t.element_size() for t in saved.values()))
        parameters.append(sum(p.numel() for p in tiny.unet.parameters()))
    row = tiny.text_encoder.get_input_embeddings().weight.shape[1] * 4
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == row
    assert len(set(parameters)) == 1
    assert len({r["n_param"]["train"] for r in learner.records}) == 1
    assert learner.records[-1]["n_param"]["store"] == 0 < learner.records[-1]["n_param"]["train"]


def test_earlier_rows_stay_bit_equal_and_earlier_weights_move(tiny, photos, tmp_path):
    learner = ContinualLearner(tiny, "lora", 0, tmp_path / "run", **FEW)
    for concept in concepts(photos):
        learner.learn(concept, progress=False)
    first, last = (weights(tmp_path / "run" / "tasks" / t) for t in ("001", "003"))
    assert torch.equal(first["token.<amber>"], last["token.<amber>"])
    moved = [k for k in first if k.startswith("weight.")]
    assert moved and all(not torch.equal(first[k], last[k]) for k in moved)


def test_steps_can_be_watched_while_their_update_is_attached(tiny, photos):
    learner, seen = ContinualLearner(tiny, "lora", 0, **FEW), []

    def on_step(step, numbers):
        norm = torch.stack([layer.delta().norm() for layer in learner.model.layers]).mean().item()
        seen.append((step, set(numbers), norm))

    record = learner.learn(concepts(photos)[0], on_step=on_step)
    assert [step for step, *_ in seen] == [*range(FEW["steps"])]
    assert all(names == {"loss", "diffusion"} for _, names, _ in seen)
    assert 0 < seen[0][2] < seen[-1][2] == pytest.approx(record["step_change"], rel=1e-4)


def test_the_record_holds_the_norms_of_the_folded_weights(tiny, photos, tmp_path):
    learner = ContinualLearner(tiny, "lora", 0, tmp_path / "run", **FEW)
    start = [layer.start.clone() for layer in learner.model.layers]
    previous = start
    for concept in concepts(photos)[:2]:
        record = learner.learn(concept, progress=False)
        now = [layer.module.weight.detach().clone() for layer in learner.model.layers]
        change = torch.stack([(a - b).norm() for a, b in zip(now, start, strict=True)]).mean()
        step = torch.stack([(a - b).norm() for a, b in zip(now, previous, strict=True)]).mean()
        assert record["weight_change"] == pytest.approx(change.item(), rel=1e-4) and change > 0
        assert record["step_change"] == pytest.approx(step.item(), rel=1e-3)
        previous = now


def test_the_record_holds_the_masks_overlap_with_the_task_before(tiny_folder, photos, tmp_path):
    """Also where the task before was learned by a process that is gone."""
    from stamina_lite.measures.masks import mask_overlap

    for count in (1, 2):
        learner = ContinualLearner(load_base(tiny_folder, device="cpu"), "stamina", 0, tmp_path / "run", **FEW)
        for concept in concepts(photos)[:count]:
            record = learner.learn(concept, progress=False)
    first, second = (weights(tmp_path / "run" / "tasks" / t) for t in ("001", "002"))
    masks = [k for k in second if k.startswith("mask.")]
    pairs = [mask_overlap(first[k], second[k]) for k in masks]
    assert len(masks) == 8 and learner.records[0]["mask_overlap"] is None
    assert record["mask_overlap"]["overlap"] == pytest.approx(sum(p[0] for p in pairs) / 8)
    assert record["mask_overlap"]["chance"] == pytest.approx(sum(p[1] for p in pairs) / 8)
    assert 0.1 < record["mask_overlap"]["overlap"] < 0.6
    assert record["mask_density"] == pytest.approx(sum(second[k].float().mean().item() for k in masks) / 8)


def test_open_run_generates_what_the_learner_did(tiny, tiny_folder, photos, tmp_path):
    learner = ContinualLearner(tiny, "stamina", 0, tmp_path / "run", **FEW)
    learner.learn(concepts(photos)[0], progress=False)
    before = learner.generate("a photo of <amber>", n=2, steps=2)
    again = open_run(tmp_path / "run", lambda there: load_base(tiny_folder, device="cpu"))
    after = again.generate("a photo of <amber>", n=2, steps=2)
    assert [a.tobytes() for a in before] == [a.tobytes() for a in after]
    assert before[0].tobytes() != before[1].tobytes()


def test_a_run_is_opened_as_it_stood_after_any_task(tiny, tiny_folder, photos, tmp_path):
    def drawn(model):
        return model.generate("a photo", n=1, steps=2)[0].tobytes()

    learner, found = ContinualLearner(tiny, "lora", 0, tmp_path / "run", lr=0.5, **FEW), concepts(photos)
    stood = [drawn(learner)]
    for concept in found[:2]:
        learner.learn(concept, progress=False)
        stood.append(drawn(learner))
    assert len({*stood}) == 3
    opened = [open_run(tmp_path / "run", lambda there: load_base(tiny_folder, device="cpu"), n) for n in (0, 1, 2)]
    assert [drawn(model) for model in opened] == stood
    record = opened[1].learn(found[1], progress=False)  # as it was learned then
    assert drawn(opened[1]) == stood[2] and record["task"] == 2 and len(list((tmp_path / "run/tasks").iterdir())) == 2
    for n in (3, -1):
        with pytest.raises(UserError, match=f"has learned 2 tasks: {n} cannot be opened"):
            open_run(tmp_path / "run", lambda there: load_base(tiny_folder, device="cpu"), n)


def test_a_folded_pipeline_is_stock_and_loads_where_we_are_not(tiny, photos, tmp_path):
    learner = ContinualLearner(tiny, "stamina", 0, None, **FEW)
    learner.learn(concepts(photos)[0], progress=False)
    picture = learner.generate("a photo of <amber>", n=1, seed=1, steps=2)[0]
    tiny.save_pretrained(tmp_path / "model")
    script = (
        "import sys, torch; from diffusers import StableDiffusionPipeline as P, UniPCMultistepScheduler as S;"
        "p = P.from_pretrained(sys.argv[1]); p.scheduler = S.from_config(p.scheduler.config);"
        "im = p('a photo of <amber>', num_inference_steps=2, guidance_scale=1.5, "
        "generator=[torch.Generator().manual_seed(100_003)]).images[0]; im.save(sys.argv[2]);"
        "assert not any(m.startswith('stamina_lite') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "model"), str(tmp_path / "p.png")], check=True)
    import numpy as np
    from PIL import Image

    difference = np.abs(np.asarray(Image.open(tmp_path / "p.png"), int) - np.asarray(picture, int)).max()
    assert difference <= 1


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 1}, "seed"), ({"method": "lora"}, "method"), ({"steps": 9}, "settings")]
)
def test_a_folder_of_another_run_is_refused_and_kept(tiny_folder, photos, tmp_path, change, named):
    def start(**changed):
        options = {"method": "c-lora", "seed": 0, **FEW, **changed}
        return ContinualLearner(load_base(tiny_folder, device="cpu"), out=tmp_path / "run", **options)

    start().learn(concepts(photos)[0], progress=False)
    before = {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}
    with pytest.raises(UserError, match=f"holds another run .*{named}"):
        start(**change)
    assert before == {f: f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file()}


def test_out_that_is_a_file_or_damaged_is_refused(tiny_folder, photos, tmp_path):
    def start(out):
        return ContinualLearner(load_base(tiny_folder, device="cpu"), "lora", 0, out, **FEW)

    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        start(tmp_path / "file")
    learner = start(tmp_path / "run")
    learner.learn(concepts(photos)[0], progress=False)
    saved = tmp_path / "run" / "tasks" / "001" / "tensors.safetensors"
    saved.write_bytes(saved.read_bytes()[:-9])
    with pytest.raises(UserError, match="truncated or altered"):
        start(tmp_path / "run")


def test_a_learned_concept_is_not_learned_again_and_other_pictures_are_refused(tiny, photos, tmp_path):
    import shutil

    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    learner = ContinualLearner(tiny, "lora", 0, tmp_path / "run", **FEW)
    record = learner.learn(concepts(mine)[0], progress=False)
    assert learner.learn(concepts(mine)[0], progress=False) is record and len(learner.records) == 1
    (mine / "amber" / "0.png").write_bytes((mine / "berry" / "0.png").read_bytes())
    with pytest.raises(UserError, match="learned from other pictures"):
        learner.learn(concepts(mine)[0], progress=False)


def test_a_run_of_another_base_is_refused_by_both_names(tiny_folder, photos, tmp_path):
    """As when the embedded base has become another: the command that goes on, and one that opens the run."""
    out, about = tmp_path / "run", {"base_model": "mini"}
    ContinualLearner(load_base(tiny_folder, "cpu"), "lora", 0, out, about, **FEW)
    begun = json.loads((out / "run.json").read_text())["base"]
    other = load_base(tiny_folder, "cpu")
    for name, weight in other.unet.state_dict().items():
        weight += name.endswith("attn2.to_k.weight")
    given = ContinualLearner(other, "lora", **FEW).identity["base"]
    told = re.escape(f"run was begun on the base mini ({begun}), not on mini ({given}): give --base")
    with pytest.raises(UserError, match=told):
        ContinualLearner(other, "lora", 0, out, about, **FEW)
    with pytest.raises(UserError, match=told):
        open_run(out, lambda about: other)


def test_a_run_finds_its_base_where_it_was_moved_to(tiny_folder, photos, tmp_path, capsys):
    """`learn` goes on and notes the new place; generate and export take it; another base is refused as before."""
    shutil.copytree(tiny_folder, tmp_path / "old")
    out, one, quick = tmp_path / "run", tmp_path / "one", ["--steps", "2", "--batch", "2", "--device", "cpu"]
    shutil.copytree(photos / "amber", one / "amber")

    def command(*words) -> tuple[int, str]:
        code = cli.main([str(word) for word in words])
        return code, capsys.readouterr().err

    begin = ["learn", one, "--method", "lora", *quick, "--out", out, "--base"]
    assert command(*begin, tmp_path / "old")[0] == 0
    (tmp_path / "old").rename(tmp_path / "new")
    drawing = ["generate", out, "--prompt", "a <amber>", "-n", "1", "--steps", "2", "--device", "cpu"]
    code, error = command(*drawing)
    assert code == 2 and f"no longer at {tmp_path / 'old'}: give its new place with --base" in error
    assert command(*drawing, "--base", tmp_path / "new")[0] == 0
    assert command("export", out, "--to", "tokens", "--out", tmp_path / "t", "--base", tmp_path / "new")[0] == 0
    assert command("report", out, "--out", tmp_path / "report.html")[0] == 0
    assert json.loads((out / "run.json").read_text())["base_model"] == str(tmp_path / "old")
    shutil.copytree(photos / "berry", one / "berry")
    code, error = command(*begin, "mini")
    assert code == 2 and "was begun on the base" in error
    assert command(*begin, tmp_path / "new")[0] == 0
    assert json.loads((out / "run.json").read_text())["base_model"] == str(tmp_path / "new")
    assert command(*drawing)[0] == 0 and len(list((out / "tasks").iterdir())) == 2


def test_a_base_changed_beside_k_and_v_is_noticed(tiny_folder, photos, tmp_path):
    """In its text encoder, say, which K and V do not tell; a run of before this was written down goes on."""
    out, found = tmp_path / "run", concepts(photos)

    def learner(change=0.0):
        pipe = load_base(tiny_folder, "cpu")
        with torch.no_grad():
            pipe.text_encoder.get_input_embeddings().weight[3, 0] += change
        return ContinualLearner(pipe, "lora", 0, out, **FEW), pipe

    learner()[0].learn(found[0], progress=False)
    learner()[0].learn(found[1], progress=False)
    with pytest.raises(UserError, match=r"another run \(base_weights is \w+ there and \w+ here\)"):
        learner(0.5)
    pipe = load_base(tiny_folder, "cpu")
    with torch.no_grad():
        pipe.vae.decoder.conv_in.bias += 1
    with pytest.raises(UserError, match="learned on another base"):
        open_run(out, lambda about: pipe)
    about = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({k: v for k, v in about.items() if k != "base_weights"}))
    assert len(learner()[0].records) == 2 and len(open_run(out, lambda about: pipe).records) == 2
