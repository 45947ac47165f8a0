"""Exports: what a stock pipeline makes of them, what other tools' keys are, and that nothing is left half-written."""

import json
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from stamina_lite import ContinualLearner, cli, concepts, load_base
from stamina_lite.core.seeds import seeded
from stamina_lite.diffusion.export import LORA, answers, export, factorise, lora_key
from stamina_lite.diffusion.history import PAST
from stamina_lite.errors import UserError
from stamina_lite.methods.registry import make_method

QUICK = {"steps": 2, "batch": 2, "rank": 2, "lr": 0.05}
PROMPTS = ["a photo of <amber>", "a picture of <berry> in front of <amber>"]


def learned(folder, photos, method, **options):
    """amber and berry, learned on the tiny pipeline."""
    learner = ContinualLearner(load_base(folder, "cpu"), method, **{**QUICK, **options})
    if learner.method.joint:
        learner.learn_jointly(concepts(photos)[:2], progress=False)
    else:
        for concept in concepts(photos)[:2]:
            learner.learn(concept, progress=False)
    return learner


@pytest.fixture
def base(tiny_folder):
    return lambda: load_base(tiny_folder, "cpu")


@pytest.fixture(scope="module")
def stamina(tiny_folder, photos):
    return learned(tiny_folder, photos, "stamina")


def far(a, b) -> float:
    return (a - b).abs().max().item()


def test_a_lora_file_gives_the_folded_unet_and_can_be_taken_off_again(stamina, base, tmp_path):
    told = export(stamina, "lora", tmp_path / "lora", base)
    words, ours = answers(stamina.pipe, PROMPTS)
    stock = base()
    before = answers(stock, PROMPTS, words)[1]
    stock.load_lora_weights(tmp_path / "lora")
    assert far(answers(stock, PROMPTS, words)[1], ours) < 1e-5 < 1e-2 < far(before, ours)
    stock.fuse_lora()
    assert far(answers(stock, PROMPTS, words)[1], ours) < 1e-5
    stock.unfuse_lora()
    stock.unload_lora_weights()
    assert far(answers(stock, PROMPTS, words)[1], before) < 1e-5
    assert told.difference < 1e-5 and told.effect > 1e-2 and "loaded 8 of 8 layers" in str(told)


def test_a_lower_rank_is_the_nearest_and_says_what_it_leaves_out(stamina, base, tmp_path):
    told = export(stamina, "lora", tmp_path / "lora", base, rank=3)
    file, left, whole = load_file(tmp_path / "lora" / LORA), 0.0, 0.0
    for layer in stamina.model.layers:
        key = lora_key(layer.name)
        up, down = file[f"{key}.lora_up.weight"], file[f"{key}.lora_down.weight"]
        assert up.shape[1] == len(down) == file[f"{key}.alpha"] == 3
        left += torch.linalg.svdvals(layer.past)[3:].square().sum().item()
        whole += layer.past.square().sum().item()
        assert far(up @ down, layer.past) > 1e-4
    assert f"{100 * (left / whole) ** 0.5:.2g} % of the update left out" in str(told)
    assert told.difference > 1e-3


def test_keys_are_those_of_kohyas_scripts(stamina, base, tmp_path):
    """lora_unet_ and the diffusers name with underscores: what ComfyUI and A1111 look up; one rank, alpha the rank."""
    export(stamina, "lora", tmp_path / "lora", base)
    file = load_file(tmp_path / "lora" / LORA)
    names = [n for n, m in stamina.pipe.unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))]
    parts = ("lora_up.weight", "lora_down.weight", "alpha")
    assert {*file} == {f"lora_unet_{n.replace('.', '_')}.{part}" for n in names for part in parts} and len(names) == 8
    ranks = {v.shape[1] for k, v in file.items() if k.endswith("up.weight")}
    assert ranks == {v.item() for k, v in file.items() if k.endswith("alpha")} and len(ranks) == 1


def test_keys_of_stable_diffusion_are_of_the_form_that_a1111_translates():
    """Its converter knows attention blocks by lora_unet_(down|up)_blocks_N_attentions_N_ and lora_unet_mid_block_..."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)  # every other number of Stable Diffusion 1 is its default
    keys = [lora_key(name) for name, _ in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    place = r"((down|up)_blocks_\d_attentions_\d|mid_block_attentions_0)"
    assert (
        len(keys)
        == 32
        == sum(bool(re.fullmatch(f"lora_unet_{place}_transformer_blocks_0_attn2_to_[kv]", k)) for k in keys)
    )


def test_token_files_give_bit_equal_rows(stamina, base, tmp_path):
    told = export(stamina, "tokens", tmp_path / "tokens", base)
    stock, table = base(), stamina.model.embedding.weight
    for name in ("amber", "berry"):
        stock.load_textual_inversion(tmp_path / "tokens" / f"{name}.safetensors")
        row = stock.text_encoder.get_input_embeddings().weight[stock.tokenizer.convert_tokens_to_ids(f"<{name}>")]
        assert torch.equal(row, table[stamina.model.token_ids[f"<{name}>"]]) and row.abs().max() > 0
    assert told.difference == 0 and "loaded 2 of 2 tokens" in str(told)


def test_lora_and_tokens_together_are_the_model(stamina, base, tmp_path):
    export(stamina, "lora", tmp_path / "lora", base)
    export(stamina, "tokens", tmp_path / "tokens", base)
    stock = base()
    unknown = answers(stock, PROMPTS)[1]
    stock.load_lora_weights(tmp_path / "lora")
    for file in sorted((tmp_path / "tokens").iterdir()):
        stock.load_textual_inversion(file)
    ours = answers(stamina.pipe, PROMPTS)[1]
    assert far(answers(stock, PROMPTS)[1], ours) < 1e-5 < 1e-2 < far(unknown, ours)


def test_a_folder_is_loaded_where_we_are_not(stamina, base, tmp_path):
    told = export(stamina, "diffusers", tmp_path / "model", base)
    script = (
        "import sys, torch; from diffusers import StableDiffusionPipeline; from safetensors.torch import save_file\n"
        "pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])\n"
        "draw = torch.Generator().manual_seed(1)\n"
        "x = pipe('a photo of <amber>', num_inference_steps=2, generator=draw, output_type='latent').images\n"
        "save_file({'x': x}, sys.argv[2]); print('stamina_lite' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model"), str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    draw, options = torch.Generator().manual_seed(1), {"num_inference_steps": 2, "output_type": "latent"}
    ours = stamina.pipe("a photo of <amber>", generator=draw, **options).images
    assert far(load_file(tmp_path / "x.safetensors")["x"], ours) < 1e-4
    assert far(base()("a photo of <amber>", generator=draw.manual_seed(1), **options).images, ours) > 1e-2
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers") and "`<amber>`, `<berry>`" in card
    assert not [file for file in (tmp_path / "model").rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    assert told.difference < 1e-5


@pytest.mark.parametrize("method", ["stamina", "custom-diffusion-ewc"])
def test_an_exported_folder_is_gone_on_from_as_the_run_itself(tiny_folder, photos, base, tmp_path, method):
    options = {"n_prior": 2, "lambda_forget": 1e3}
    learner = learned(tiny_folder, photos, method, **options)
    export(learner, "diffusers", tmp_path / "model", base)
    other = ContinualLearner(load_base(tmp_path / "model", "cpu"), method, **{**QUICK, **options})
    assert other.model.token_ids == learner.model.token_ids
    assert other.model.vocabulary_size == learner.model.vocabulary_size
    third, rule = concepts(photos)[2], make_method(method, **{**QUICK, **options})
    losses = [model.learn(third, rule, 0, 3 - model.n_past_tasks).steps for model in (learner.model, other.model)]
    assert losses[0] == losses[1]
    for mine, theirs in zip(other.model.layers, learner.model.layers, strict=True):
        assert torch.equal(mine.current, theirs.current) and mine.past.any()
    (tmp_path / "model" / PAST).unlink()
    without = ContinualLearner(load_base(tmp_path / "model", "cpu"), method, **{**QUICK, **options})
    assert without.model.learn(third, rule, 0, 3).steps != losses[0], "the past is what made the difference"


def test_a_damaged_or_foreign_past_is_refused(stamina, base, tmp_path):
    export(stamina, "diffusers", tmp_path / "model", base)
    file = tmp_path / "model" / PAST
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=f"{PAST} is damaged"):
        ContinualLearner(load_base(tmp_path / "model", "cpu"))
    save_file({"start.nothing": torch.zeros(1)}, file, {"tokens": json.dumps(["<nobody>"])})
    with pytest.raises(UserError, match="is of another model .<nobody> is not in its tokenizer"):
        ContinualLearner(load_base(tmp_path / "model", "cpu"))


@pytest.mark.parametrize(
    ("method", "kind", "rank", "message"),
    [
        ("stamina", "onnx", None, "unknown export onnx: choose diffusers, lora, tokens"),
        ("stamina", "tokens", 4, "a rank, from 1, is for --to lora only"),
        ("ti", "lora", None, "ti has changed no weights: export its tokens"),
        ("dreambooth", "lora", None, "dreambooth changes every weight, which no LoRA holds"),
        ("lora-alone", "diffusers", None, "lora-alone keeps a model a concept, not one of all: choose one with --conc"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(
    tiny_folder, photos, base, tmp_path, method, kind, rank, message
):
    options = {"out": tmp_path / "run"} if method == "lora-alone" else {}
    learner = learned(tiny_folder, photos, method, n_prior=2, **options)
    with pytest.raises(UserError, match=message):
        export(learner, kind, tmp_path / "out", base, rank)
    assert {p.name for p in tmp_path.iterdir()} <= {"run"}


@pytest.mark.parametrize(
    ("kind", "concept", "message"),
    [
        ("diffusers", "amber", "one concept is exported by --to lora or --to tokens"),
        ("lora", "cyan-cup", "this run has not learned cyan-cup: choose amber, berry"),
        ("lora", "amber", "the update of one concept is read from the run's folder"),
    ],
)
def test_a_concept_that_cannot_be_exported_alone_is_said(stamina, base, tmp_path, kind, concept, message):
    with pytest.raises(UserError, match=message):
        export(stamina, kind, tmp_path / "out", base, concept=concept)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["stamina", "lora-alone"])
def test_the_lora_of_one_concept_is_its_own_tasks_update(tiny_folder, photos, base, tmp_path, method):
    """Of the second concept: what its task added to the weights; and its token in the same folder."""
    learner = learned(tiny_folder, photos, method, out=tmp_path / "run")
    weights = [load_file(tmp_path / "run" / "tasks" / f"{t:03}" / "tensors.safetensors") for t in (1, 2)]
    told = export(learner, "lora", tmp_path / "berry", base, concept="berry")
    assert sorted(p.name for p in (tmp_path / "berry").iterdir()) == ["berry.safetensors", LORA]
    assert 0 < told.effect and told.difference < 1e-3 * told.effect
    pipe, plain = base(), dict(base().unet.named_parameters())
    pipe.load_lora_weights(tmp_path / "berry", weight_name=LORA)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for layer in learner.model.layers:
        before = plain[f"{layer.name}.weight"] if method == "lora-alone" else weights[0][f"weight.{layer.name}"]
        update = weights[1][f"weight.{layer.name}"] - before
        found = pipe.unet.get_submodule(layer.name).weight - plain[f"{layer.name}.weight"]
        assert update.abs().max() > 1e-3 and far(found, update) < 1e-5
    pipe.load_textual_inversion(tmp_path / "berry", weight_name="berry.safetensors")
    assert "<berry>" in pipe.tokenizer.get_vocab() and "<amber>" not in pipe.tokenizer.get_vocab()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["diffusers", "lora", "tokens"])
def test_files_have_the_dtype_asked_for(stamina, base, tmp_path, kind, dtype):
    """And are verified as they were rounded; the text encoder of a folder stays fp32, as stock code needs it."""
    told = export(stamina, kind, tmp_path / kind, base, dtype=dtype)
    assert told.difference < told.effect and stamina.pipe.unet.dtype == torch.float32
    dtypes = {f.parent.name: {v.dtype for v in load_file(f).values() if v.is_floating_point() and v.ndim}
              for f in (tmp_path / kind).rglob("*.safetensors") if f.name != PAST}  # fmt: skip
    expected = {"unet": {dtype}, "vae": {dtype}, "text_encoder": {torch.float32}}
    assert dtypes == (expected if kind == "diffusers" else {kind: {dtype}})


def test_a_pipeline_with_a_loaded_lora_and_embedding_goes_on(stamina, base, tmp_path, photos):
    """As models of others are gone on from: fused, its tokens loaded, and the next concept learned on top."""
    export(stamina, "lora", tmp_path / "lora", base)
    export(stamina, "tokens", tmp_path / "tokens", base)
    pipe = base()
    pipe.load_lora_weights(tmp_path / "lora", weight_name=LORA)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for name in ("amber", "berry"):
        pipe.load_textual_inversion(tmp_path / "tokens", weight_name=f"{name}.safetensors")
    learner = ContinualLearner(pipe, "lora", **QUICK)
    images = learner.generate("a photo of <amber>", n=1)
    assert images[0] == stamina.generate("a photo of <amber>", n=1)[0]
    with pytest.raises(UserError, match="the model knows <amber> already"):
        learner.learn(concepts(photos)[0], progress=False)
    learner.learn(concepts(photos)[2], progress=False)
    assert learner.generate("a photo of <cyan-cup> and <amber>", n=1)[0].size == (32, 32)


def test_another_model_is_not_called_verified(stamina, base, tmp_path):
    """A base that is not the one the run began with: the LoRA does not give our model, and nothing is kept."""

    def other():
        pipe = base()
        with torch.no_grad():
            for weight in pipe.unet.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=seeded(1))
        return pipe

    with pytest.raises(RuntimeError, match="stock code reads another model than was exported"):
        export(stamina, "lora", tmp_path / "out", other)
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run(tiny_folder, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "run"
    quick = ["--steps", "1", "--batch", "2", "--rank", "2", "--lr", "0.05", "--device", "cpu"]
    learn = ["learn", str(photos / "amber"), "--method", "c-lora", "--base", str(tiny_folder), "--out", str(out)]
    assert cli.main([*learn, *quick]) == 0
    return out


@pytest.mark.parametrize("kind", ["diffusers", "lora", "tokens"])
def test_the_command_says_what_it_verified(run, tmp_path, capsys, kind):
    out = tmp_path / "model"
    out.mkdir()
    capsys.readouterr()
    assert cli.main(["export", str(run), "--to", kind, "--out", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("verified: ") and "max difference" in said[0] and said[1] == str(out)
    assert any(out.iterdir()) and [p.name for p in tmp_path.iterdir()] == ["model"]
    assert cli.main(["export", str(run), "--to", kind, "--out", str(out), "--device", "cpu"]) == 2
    assert "is there already: choose another --out, or delete it" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["diffusers", "lora"])
def test_a_full_disk_is_told_and_leaves_nothing(run, tmp_path, kind):
    """As on a full disk, no file can grow beyond 2 kB."""

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))

    command = [sys.executable, "-B", "-m", "stamina_lite.cli", "export", str(run), "--to", kind]
    command += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=little_room)
    assert done.returncode == 2 and done.stderr.startswith("stamina-lite: cannot write "), done.stderr
    assert "make room, or choose another --out" in done.stderr and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_run_that_has_learned_nothing_is_no_export(run, tmp_path, capsys):
    empty = tmp_path / "run"
    shutil.copytree(run, empty)
    shutil.rmtree(empty / "tasks" / "001")
    assert cli.main(["export", str(empty), "--to", "tokens", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert "this run has learned nothing yet" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["diffusers", "lora", "tokens"])
def test_what_half_precision_learned_is_verified_exactly(tiny_folder, photos, tmp_path, dtype, kind, monkeypatch):
    """In fp32: bf16 could not tell a LoRA from its half. That half is refused."""

    def base():
        return load_base(tiny_folder, "cpu", dtype)

    learner = ContinualLearner(base(), "stamina", **QUICK)
    for concept in concepts(photos)[:2]:
        learner.learn(concept, progress=False)
    told = export(learner, kind, tmp_path / kind, base)
    assert told.difference <= 1e-5 < 1e-3 < told.effect
    assert learner.model.unet.dtype == dtype, "the model itself stays as it was"
    if kind == "lora":
        monkeypatch.setattr("stamina_lite.diffusion.export.factorise", lambda change, rank: factorise(change / 2, rank))
        with pytest.raises(RuntimeError, match="stock code reads another model"):
            export(learner, kind, tmp_path / "half", base)


@pytest.fixture(scope="module")
def gone_on(stamina, tiny_folder, photos, tmp_path_factory):
    """The exported amber and berry, and a learner that has gone on from there to a third concept."""
    folder = tmp_path_factory.mktemp("on") / "model"
    export(stamina, "diffusers", folder, lambda: load_base(tiny_folder, "cpu"))
    learner = ContinualLearner(load_base(folder, "cpu"), "stamina", **QUICK)
    learner.learn(concepts(photos)[2], progress=False)
    return folder, learner


def test_going_on_draws_other_numbers_than_the_first_task_did(gone_on, tiny_folder, photos):
    """As the run itself would have gone on: its third task, and not its first once more."""
    whole = learned(tiny_folder, photos, "stamina")
    wanted = whole.learn(concepts(photos)[2], progress=False)
    assert gone_on[1].records[0]["loss"] == wanted["loss"] != whole.records[0]["loss"]
    assert gone_on[1].records[0]["step_change"] == wanted["step_change"]


@pytest.mark.parametrize("rank", [None, 4])
def test_a_lora_of_a_run_that_went_on_holds_what_its_base_lacks(gone_on, tmp_path, rank):
    folder, learner = gone_on
    told = export(learner, "lora", tmp_path / "lora", lambda: load_base(folder, "cpu"), rank)
    stock, words = load_base(folder, "cpu"), answers(learner.pipe, PROMPTS)[0]
    before = far(answers(stock, PROMPTS, words)[1], answers(learner.pipe, PROMPTS, words)[1])
    stock.load_lora_weights(tmp_path / "lora")
    after = far(answers(stock, PROMPTS, words)[1], answers(learner.pipe, PROMPTS, words)[1])
    assert after < (1e-5 if rank is None else 0.9 * before) and told.difference < told.effect
    export(learner, "tokens", tmp_path / "tokens", lambda: load_base(folder, "cpu"))
    assert [file.stem for file in (tmp_path / "tokens").iterdir()] == [learner.records[0]["concept"]]


def test_an_exported_folder_has_what_older_transformers_read_and_no_path(stamina, base, tmp_path):
    """Version 4 reads vocab.json and merges.txt, and knows the text encoder's weights as text_model.*."""
    export(stamina, "diffusers", tmp_path / "model", base)
    home = tmp_path / "model"
    vocabulary = json.loads((home / "tokenizer" / "vocab.json").read_text())
    added = json.loads((home / "tokenizer" / "added_tokens.json").read_text())
    assert vocabulary.items() <= stamina.pipe.tokenizer.get_vocab().items()
    assert {*vocabulary, *added} == {*stamina.pipe.tokenizer.get_vocab()} and (home / "tokenizer/merges.txt").is_file()
    assert added["<amber>"] == stamina.model.token_ids["<amber>"]
    names = load_file(home / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    assert all("_name_or_path" not in json.loads(file.read_text()) for file in home.rglob("config.json"))
    assert "_name_or_path" not in json.loads((home / "model_index.json").read_text())
    modes = {file.stat().st_mode for file in home.rglob("*") if file.is_file()}
    assert len(modes) == 1, "all files may be read by the same people"


def test_an_effect_too_small_to_measure_is_no_fault(tiny_folder, photos, base, tmp_path):
    learner = learned(tiny_folder, photos, "lora", lr=1e-9)
    assert export(learner, "lora", tmp_path / "lora", base).effect < 1e-5
