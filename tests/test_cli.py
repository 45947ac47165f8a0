"""The command line as a user meets it: what it prints, what it leaves, and one line for every mistake."""

import dataclasses
import json
import os
import re
import resource
import shutil
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from stamina_lite import cli, concepts, measures, options
from stamina_lite.core.seeds import image_seed
from stamina_lite.core.settings import GUIDANCE, ClassSettings, Settings
from stamina_lite.diffusion.bases import load_base
from stamina_lite.diffusion.evaluation import evaluation_seed
from stamina_lite.diffusion.learner import ContinualLearner, open_run, restore
from stamina_lite.diffusion.pictures import from_folder
from stamina_lite.errors import UserError, UserNotice
from stamina_lite.images import to_pil
from stamina_lite.measures.features import features
from stamina_lite.methods.registry import CLASS_METHODS, METHODS
from stamina_lite.runs.files import load_task

QUICK = ["--steps", "2", "--batch", "2", "--rank", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tiny_folder, photos, tmp_path_factory):
    """Three concepts learned in two commands."""
    out = tmp_path_factory.mktemp("cli") / "run"
    one = ["learn", str(photos / "amber"), "--method", "stamina", "--base", str(tiny_folder), "--out", str(out), *QUICK]
    assert cli.main(one) == 0
    one[1] = str(photos)
    assert cli.main(one) == 0
    return out


def mistake(capsys, *argv) -> str:
    """The one line that a user's mistake is answered with; asserts exit code 2 and no traceback."""
    capsys.readouterr()
    try:
        code = cli.main([str(a) for a in argv])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("stamina-lite: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("verb", [[], ["learn"], ["bench"], ["generate"], ["export"], ["report"], ["reproduce"]])
def test_help_imports_no_torch(verb):
    script = (
        "import sys; from stamina_lite import cli\n"
        f"try: cli.main({[*verb, '--help']})\n"
        "except SystemExit as stop: print(stop.code, [m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "usage: stamina-lite" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 []"


def test_every_setting_is_an_option():
    """Of its own name and type, and those that once had another name under that too."""
    bench = ["bench", "tune5", "--method", "lora", "--out", "run"]
    for settings in (Settings, ClassSettings):
        wanted = {f.name: f.type(getattr(settings(), f.name)) for f in dataclasses.fields(settings) if f.name != "hard"}
        given = [word for name, value in wanted.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        args = cli.parser().parse_args([*bench, *given, "--soft"])
        assert options.given_settings(args) == wanted | {"hard": False}
    args = cli.parser().parse_args([*bench, "--forget", "2", "--drawn", "3"])
    assert options.given_settings(args) == {"lambda_forget": 2.0, "n_prior": 3}


def test_only_given_settings_are_passed(run):
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert settings["steps"] == 2 and settings["rank"] == 2
    assert settings["lambda_forget"] == METHODS["stamina"].defaults["lambda_forget"] != Settings().lambda_forget
    assert settings["hard"] is True


def test_learn_goes_on_and_says_what_next(run, photos, tiny_folder, capsys):
    records = [json.loads((run / "tasks" / f"{t:03d}" / "task.json").read_text()) for t in (1, 2, 3)]
    assert [r["concept"] for r in records] == ["amber", "berry", "cyan-cup"]
    before = (run / "tasks/003/tensors.safetensors").stat().st_mtime_ns
    again = ["learn", str(photos), "--method", "stamina", "--base", str(tiny_folder), "--out", str(run), *QUICK]
    assert cli.main(again) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in out[:3]] == ["<amber>", "<berry>", "<cyan-cup>"]
    assert all("learned already" in line for line in out[:3])
    assert out[3].startswith("next: stamina-lite generate") and "<cyan-cup>" in out[3]
    assert (run / "tasks/003/tensors.safetensors").stat().st_mtime_ns == before


def test_soft_mask_is_an_option(tiny_folder, photos, tmp_path):
    out = tmp_path / "soft"
    argv = ["learn", photos / "amber", "--method", "stamina", "--base", tiny_folder, "--out", out, "--soft", *QUICK]
    assert cli.main([str(a) for a in argv]) == 0
    assert json.loads((out / "run.json").read_text())["settings"]["hard"] is False


def test_prior_images_of_a_kind_that_nobody_named_are_a_notice(tiny_folder, photos, tmp_path, recwarn):
    argv = ["learn", photos / "amber", "--method", "custom-diffusion", "--base", tiny_folder, *QUICK, "--n-prior", "2"]
    assert cli.main([*map(str, argv), "--out", str(tmp_path / "a"), "--prior-prompts", "a photo of a cup"]) == 0
    assert not [w for w in recwarn if issubclass(w.category, UserNotice)]
    assert cli.main([*map(str, argv), "--out", str(tmp_path / "b")]) == 0
    notices = [str(w.message) for w in recwarn if issubclass(w.category, UserNotice)]
    assert notices == [
        "prior images show 'a photo of a person; a photo of a waterfall': name the kind of your concepts by "
        "--prior-prompts"
    ]


def test_bench_measures_in_the_features_asked_for(tiny_folder, photos, tmp_path, capsys):
    from transformers import ViTConfig, ViTModel

    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**shape, image_size=56, patch_size=28)).save_pretrained(tmp_path / "dino")
    argv = ["bench", photos, "--concepts", "1", "--method", "lora", "--base", tiny_folder, "--pictures", "2", *QUICK]
    argv = [str(word) for word in (*argv, "--out", tmp_path / "run")]
    assert cli.main([*argv, "--features", str(tmp_path / "dino")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["features"] == str(tmp_path / "dino")
    x = features(str(tmp_path / "dino"))(from_folder(tmp_path / "run" / "images" / "after-001" / "amber"))
    real = features(str(tmp_path / "dino"))(concepts(photos)[0].load_references(32))
    assert results["a_mmd"] == pytest.approx(measures.mmd2(real, x))
    assert results["image_alignment"] == pytest.approx(measures.image_alignment(x, real))
    assert cli.main(argv) == 2 and "features" in capsys.readouterr().err  # another measure is another run
    assert cli.main([*argv[:-1], str(tmp_path / "other"), "--features", "nowhere"]) == 2
    assert "no CLIP or DINO weights" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_generate_writes_pictures_that_say_what_they_are(run, tmp_path, capsys):
    argv = ["generate", str(run), "--prompt", "a photo of <amber>", "-n", "2", "--out"]
    assert cli.main([*argv, str(tmp_path / "a"), "--seed", "3"]) == 0
    paths = capsys.readouterr().out.splitlines()
    assert len(paths) == 2 and sorted(map(str, (tmp_path / "a").iterdir())) == sorted(paths)
    first, second = (Image.open(p) for p in paths)
    assert first.size == (32, 32)
    said = {"prompt": "a photo of <amber>", "seed": "3", "guidance": str(GUIDANCE), "picture": "0", "run": "run"}
    said |= {"steps": "10", "sampler": "unipc"}
    assert first.text == said
    assert not np.array_equal(first, second)
    assert cli.main([*argv, str(tmp_path / "b"), "--seed", "3"]) == 0
    assert np.array_equal(first, Image.open(capsys.readouterr().out.splitlines()[0]))
    assert cli.main([*argv, str(tmp_path / "c"), "--seed", "3", "--guidance", "9"]) == 0
    guided = Image.open(capsys.readouterr().out.splitlines()[0])
    assert guided.text == said | {"guidance": "9.0"} and not np.array_equal(first, guided)


def test_a_grid_holds_all_pictures_and_batches_change_none(run, tmp_path, capsys):
    argv = ["generate", str(run), "--prompt", "a photo of <amber>", "-n", "3", "--grid", "--out"]
    drawn = {}
    for batch in ("1", "3"):
        assert cli.main([*argv, str(tmp_path / batch), "--batch", batch]) == 0
        *paths, whole = capsys.readouterr().out.splitlines()
        pictures = [np.asarray(Image.open(path)) for path in paths]
        grid = Image.open(whole)
        assert grid.text["pictures"] == "3" and grid.size == (64, 64)
        tiles = [np.asarray(grid)[y : y + 32, x : x + 32] for y, x in ((0, 0), (0, 32), (32, 0), (32, 32))]
        assert all(np.array_equal(tile, picture) for tile, picture in zip(tiles, pictures, strict=False))
        assert tiles[3].min() == 255 and len(pictures) == 3
        drawn[batch] = np.stack(pictures).astype(int)
    assert np.abs(drawn["1"] - drawn["3"]).max() <= 1 < np.abs(drawn["1"][0] - drawn["1"][1]).max()


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
def test_other_samplers_are_those_of_diffusers(run, tiny_folder, tmp_path, capsys, sampler):
    argv = ["generate", str(run), "--prompt", "a photo of <amber>", "-n", "1", "--steps", "4", "--out"]
    assert cli.main([*argv, str(tmp_path / "unipc")]) == 0
    assert cli.main([*argv, str(tmp_path / sampler), "--sampler", sampler]) == 0
    usual, other = (Image.open(path) for path in capsys.readouterr().out.splitlines())
    assert other.text["sampler"] == sampler and not np.array_equal(usual, other)
    pipe = open_run(run, lambda about: load_base(tiny_folder, "cpu")).pipe
    kind = {"dpm++": diffusers.DPMSolverMultistepScheduler, "ddim": diffusers.DDIMScheduler}[sampler]
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    options = {"num_inference_steps": 4, "guidance_scale": GUIDANCE, "output_type": "np"}
    plain = pipe("a photo of <amber>", generator=torch.Generator().manual_seed(0), **options).images[0]
    assert np.abs(255 * plain - np.asarray(other)).max() < 1.5


def test_generate_takes_sizes_and_a_negative_prompt_as_diffusers_does(run, tiny_folder, tmp_path, capsys):
    argv = [
        "generate",
        str(run),
        "--prompt",
        "a photo of <amber>",
        "-n",
        "1",
        "--steps",
        "4",
        "--guidance",
        "3",
        "--out",
    ]
    more = ["--negative-prompt", "a red person", "--width", "48", "--height", "40"]
    assert cli.main([*argv, str(tmp_path / "plain"), *more[2:]]) == 0
    assert cli.main([*argv, str(tmp_path / "negative"), *more]) == 0
    plain, negative = (Image.open(path) for path in capsys.readouterr().out.splitlines())
    assert plain.size == negative.size == (48, 40) and not np.array_equal(plain, negative)
    assert negative.text["negative_prompt"] == "a red person" and "negative_prompt" not in plain.text
    pipe = open_run(run, lambda about: load_base(tiny_folder, "cpu")).pipe
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    stock = pipe(
        "a photo of <amber>", negative_prompt="a red person", width=48, height=40, num_inference_steps=4,
        guidance_scale=3.0, generator=torch.Generator().manual_seed(image_seed(0, 0)), output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(255 * stock - np.asarray(negative)).max() < 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "31"], "height and width must be multiples of 2, not 32, 31"),
        (["--negative-prompt", "a <cat>"], "unknown token <cat>: choose <amber>"),
        (["--negative-prompt", "red", "--guidance", "1"], "a negative prompt has no effect at guidance 1.0: raise it"),
    ],
)
def test_what_generate_cannot_do_is_one_line(run, tmp_path, capsys, options, message):
    assert cli.main(["generate", str(run), "--prompt", "a photo", "--out", str(tmp_path / "x"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_no_pictures_are_an_empty_list(tiny):
    assert ContinualLearner(tiny, steps=1).generate("a photo", n=0) == []


def test_a_pipeline_with_a_lora_is_refused_until_it_is_unloaded(tiny):
    from peft import LoraConfig

    tiny.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(UserError, match="the pipeline has a LoRA loaded: call pipe.unload_lora_weights"):
        ContinualLearner(tiny, "lora", steps=1)
    tiny.fuse_lora()
    tiny.unload_lora_weights()
    assert ContinualLearner(tiny, "lora", steps=1).model.layers


def test_generate_stands_where_the_run_stopped(run, tiny, tmp_path, capsys):
    """The pictures are the learned model's, not the base's."""
    assert cli.main(["generate", str(run), "--prompt", "a photo", "-n", "1", "--out", str(tmp_path)]) == 0
    drawn = Image.open(capsys.readouterr().out.strip())
    assert not np.array_equal(drawn, ContinualLearner(tiny, steps=1).generate("a photo", n=1)[0])


@pytest.fixture(scope="module")
def benched(tiny_folder, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "bench"
    argv = ["bench", str(photos), "--method", "lora", "--seed", "1", "--base", str(tiny_folder), "--out", str(out)]
    argv += ["--concepts", "2", "--pictures", "2", "--lr", "0.5", "--guidance", "4", *QUICK]
    assert cli.main(argv) == 0
    return out, argv


def test_bench_prints_its_results(benched, photos, capsys):
    out, argv = benched
    assert cli.main(argv) == 0  # finished: only printed again
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["tasks"] == ["amber", "berry"] and results["seed"] == 1
    for name, key in (("A_mmd", "a_mmd"), ("F_mmd", "f_mmd"), ("KID", "kid"), ("Accuracy", "concept_accuracy")):
        line = next(line for line in printed.splitlines() if line.startswith(name))
        assert f"{results[key]:.3f}" in line and len(line) > 40
    about = json.loads((out / "run.json").read_text())
    assert about["set"] == photos.name and about["pictures"] == 2 and len(about["set_hash"]) == 64
    assert about["settings"]["guidance"] == 4.0


def test_a_run_draws_with_its_own_guidance(benched, tmp_path, capsys):
    """What it was measured with is what `generate` takes, if nothing else is asked for."""
    out, _ = benched
    seeds = [evaluation_seed(1, "amber", k, 1) for k in range(2)]
    learner = open_run(out, lambda about: load_base(about["base_model"], "cpu"))
    restore(learner.model, load_task(out / "tasks" / "001")[0])
    for guidance, same in ((4.0, True), (GUIDANCE, False)):
        drawn = to_pil(learner.model.generate(["a photo of <amber>"] * 2, seeds, guidance=guidance))
        kept = Image.open(out / "images" / "after-001" / "amber" / "01.png")
        assert np.array_equal(drawn[1], kept) is same
    argv = ["generate", str(out), "--prompt", "a photo of <amber>", "-n", "1", "--out", str(tmp_path)]
    assert cli.main(argv) == 0
    assert Image.open(capsys.readouterr().out.strip()).text["guidance"] == "4.0"


def test_the_drift_of_each_concept_can_be_had_again_from_the_pictures(benched):
    out, _ = benched
    results = json.loads((out / "results.json").read_text())
    then, now = (features("lite0")(from_folder(out / f"images/after-{task:03d}/amber")) for task in (1, 2))
    drift = measures.mmd2(then, now, paired=True)
    assert abs(drift) > 1e-4  # the second concept moved the first
    assert results["f_mmd_each"] == [pytest.approx(drift, abs=1e-5)]
    assert results["f_mmd"] == pytest.approx(drift, abs=1e-5)


def test_report_of_a_run_folder(benched, tmp_path, capsys):
    assert cli.main(["report", str(benched[0].parent), "--out", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_methods_and_info(capsys):
    assert cli.main(["methods"]) == 0
    printed = capsys.readouterr().out
    concepts, classes = printed.split("methods for classes")
    listed = [[line.split()[0] for line in half.splitlines()[1:] if line] for half in (concepts, classes)]
    assert listed[0][: len(METHODS)] == [*METHODS] and listed[1][: len(CLASS_METHODS)] == [*CLASS_METHODS]
    assert "lambda_forget=3.0" in concepts and "steps=120" in concepts and "epochs=5" in classes
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in printed and "mini50" in printed and "CPU" in printed


def test_a_reader_that_has_gone_is_no_fault():
    """As in `stamina-lite methods | head -1`: no traceback, and no word of the interpreter's at its end."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "stamina_lite.cli", "methods"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_mistakes_before_learning_leave_nothing(tiny_folder, photos, tmp_path, capsys):
    out = tmp_path / "run"

    def learn(*options, folders=(photos,), method="lora"):
        fixed = ["--base", tiny_folder, "--out", out, "--device", "cpu", "--method", method]
        return mistake(capsys, "learn", *folders, *fixed, *options)

    assert "unknown method loraa" in learn(method="loraa")
    assert "unrecognized arguments: --rnk 4" in learn("--rnk", "4")
    assert "argument --steps: invalid int value: 'many'" in learn("--steps", "many")
    assert "steps must be above 0" in learn("--steps", "0")
    assert "unknown mask free-hand" in learn("--mask", "free-hand", method="stamina")
    assert "no device tpu9" in learn("--device", "tpu9")
    assert "amber is in two of the folders" in learn(folders=[photos, photos / "amber"])
    assert "is called" in learn(folders=[photos, tmp_path / "nowhere"])
    assert "no base model" in learn("--base", "./no-model")
    (tmp_path / "red").mkdir()
    shutil.copy(photos / "amber" / "0.png", tmp_path / "red")
    assert "red is a word" in learn(folders=[tmp_path / "red"])
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "0.png").write_bytes((photos / "amber" / "0.png").read_bytes()[:60])
    assert "torn/0.png" in learn(folders=[photos, tmp_path / "torn"])
    assert not out.exists()


def test_mistakes_about_the_run_folder(run, tiny_folder, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    learn = ["learn", photos / "amber", "--base", tiny_folder, *QUICK, "--method", "lora", "--out"]
    assert "is a file" in mistake(capsys, *learn, tmp_path / "file")
    assert "cannot write" in mistake(capsys, *learn, tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"
    before = (run / "run.json").read_text()
    assert "another run" in mistake(capsys, *learn, run)
    bench = ["bench", photos, "--base", tiny_folder, *QUICK, "--method", "stamina", "--out", run]
    assert "another run" in mistake(capsys, *bench)  # same settings, but a set's
    assert (run / "run.json").read_text() == before


def test_mistakes_of_the_other_verbs(run, tmp_path, capsys):
    draw = ["generate", run, "--out", tmp_path / "drawn", "--prompt"]
    assert "<berri>" in mistake(capsys, *draw, "a photo of <berri>")
    assert "-n" in mistake(capsys, *draw, "a photo", "-n", "0")
    for scale in ("0.5", "nan", "much"):
        assert "--guidance" in mistake(capsys, *draw, "a photo", "--guidance", scale)
    assert "run.json" in mistake(capsys, "generate", tmp_path / "nowhere", "--prompt", "a photo")
    assert "no device tpu9" in mistake(capsys, *draw, "a photo", "--device", "tpu9")
    assert not (tmp_path / "drawn").exists()
    (tmp_path / "file").write_text("")
    assert "cannot write" in mistake(capsys, *draw, "a photo", "-n", "1", "--out", tmp_path / "file" / "below")
    assert "mini51: choose" in mistake(capsys, "bench", "mini51", "--method", "lora", "--out", tmp_path / "x")
    assert "51 concepts" in mistake(
        capsys, "bench", "mini50", "--concepts", "51", "--method", "lora", "--out", tmp_path / "x"
    )
    assert "VERB" in mistake(capsys)
    assert "lern" in mistake(capsys, "lern")
    assert "no folder" in mistake(capsys, "report", tmp_path / "nowhere", "--out", tmp_path / "r.html")


def test_numbers_that_cannot_be_drawn_with_are_refused_and_large_ones_are_not(run, tmp_path, capsys):
    draw = ["generate", run, "--out", tmp_path / "drawn", "-n", "1", "--device", "cpu", "--prompt"]
    assert "steps must be 1 to 1000" in mistake(capsys, *draw, "a photo", "--steps", "1001")
    assert "write <amber>" in mistake(capsys, *draw, "a photo of <AMBER>")
    assert "must not be empty" in mistake(capsys, "generate", run, "--prompt", "a photo", "--out", "")
    assert cli.main([str(a) for a in (*draw, "a photo", "--seed", 2**62, "--steps", "2")]) == 0
    for more in (("a (photo)",), ("a photo", "--steps", "3"), ("",)):
        assert cli.main([str(a) for a in (*draw, *more, "--steps", "2")][: None if len(more) < 2 else -2]) == 0
    drawn = {file.name for file in (tmp_path / "drawn").iterdir()}
    assert len(drawn) == 4 and sum(name.startswith("picture-seed0") for name in drawn) == 1


def test_options_of_the_other_half_are_refused(photos, tmp_path, capsys):
    out = ["--method", "lora", "--out", tmp_path / "x"]
    assert "--tasks is for classes" in mistake(capsys, "bench", photos, *out, "--tasks", "3")
    assert "--stages names 9 concepts" in mistake(capsys, "bench", photos, *out, "--stages", "9")
    for option in (["--stages", "3"], ["--shuffle", "1"], ["--pictures", "4"]):
        assert f"{option[0]} is for concepts" in mistake(capsys, "bench", "renditions", *out, *option)
    message = mistake(capsys, "bench", "renditions", *out, "--order", "people-first")
    assert "cannot read people-first: give --order a text file" in message
    assert "no set or folder is called rendition" in mistake(capsys, "bench", "rendition", *out, "--epochs", "1")
    assert "give --data DIR" in mistake(capsys, "bench", "imagenet-r", *out)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda r: (r / "run.json").write_text("[1]"), "run.json says no method"),
        (lambda r: (r / "tasks" / "002" / "task.json").write_text("[]"), "delete .*tasks/002 and later tasks"),
        (lambda r: (r / "tasks" / "002" / "task.json").write_text('{"sha256": {}}'), "delete .*tasks/002 and later"),
        (lambda r: (r / "tasks" / "002" / "task.json").unlink(), "delete .*tasks/002 and later tasks"),
        (lambda r: edit(r / "run.json", settings=5), "run.json is damaged .settings"),
        (lambda r: edit(r / "run.json", half="classification"), "has learned classes, which cannot be drawn"),
    ],
)
def test_a_run_folder_that_was_changed_is_told(run, tmp_path, capsys, harm, said):
    shutil.copytree(run, tmp_path / "run")
    harm(tmp_path / "run")
    assert re.search(said, mistake(capsys, "generate", tmp_path / "run", "--prompt", "a photo"))


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_damaged_log_and_a_copy_of_a_task_do_no_harm(run, tiny_folder, photos, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"task": 3, "lo\n\x00}\n[1]\n')
    shutil.copytree(run / "tasks" / "002", tmp_path / "run" / "tasks" / "002.bak")
    learn = ["learn", photos, "--method", "stamina", "--base", tiny_folder, "--out", tmp_path / "run", *QUICK]
    assert cli.main([str(a) for a in learn]) == 0
    assert log.read_text() == whole


def test_training_that_runs_away_is_told_and_nothing_of_it_is_kept(tiny_folder, photos, tmp_path, capsys):
    learn = ["learn", photos / "amber", "--method", "stamina", "--base", tiny_folder, "--out", tmp_path / "run", *QUICK]
    assert cli.main([str(a) for a in (*learn, "--lr", "1e30", "--steps", "4")]) == 2
    told = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert told.startswith("stamina-lite: the loss is ") and "lower the learning rates" in told
    assert not [*(tmp_path / "run" / "tasks").iterdir()]


def test_a_full_disk_stops_a_run_that_then_goes_on(tiny_folder, photos, tmp_path):
    """As on a full disk, no file can grow beyond 20 kB; afterwards there is room."""
    learn = ["learn", photos / "amber", "--method", "lora", "--base", tiny_folder, "--out", tmp_path / "run", *QUICK]
    command = [sys.executable, "-B", "-m", "stamina_lite.cli", *map(str, learn)]

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=little_room)
    told = done.stderr.replace("\r", "\n").splitlines()[-1]
    assert done.returncode == 2 and told.startswith("stamina-lite: cannot write to ") and "make room and" in told
    assert not [*(tmp_path / "run" / "tasks").iterdir()]
    assert cli.main([str(a) for a in learn]) == 0 and (tmp_path / "run" / "tasks" / "001").is_dir()


def test_a_mistake_is_one_line_in_a_real_terminal(run):
    """Of all that is imported and loaded nothing else is said."""
    command = [sys.executable, "-m", "stamina_lite.cli", "generate", str(run), "--prompt", "a photo of <nobody>"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("stamina-lite: unknown token <nobody>") and done.stderr.count("\n") == 1


def test_interrupted_learning_goes_on_with_the_same_command(run, tiny_folder, photos, tmp_path, capsys, monkeypatch):
    whole = ContinualLearner.learn

    def until_berry(learner, concept, *options):
        if concept.name == "berry":
            raise KeyboardInterrupt
        return whole(learner, concept, *options)

    out = tmp_path / "run"
    argv = ["learn", str(photos), "--method", "stamina", "--base", str(tiny_folder), "--out", str(out), *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr(ContinualLearner, "learn", until_berry)
        assert cli.main(argv) == 130
    assert "same command" in capsys.readouterr().err
    assert [f.name for f in (out / "tasks").iterdir()] == ["001"]
    assert cli.main(argv) == 0
    assert len(list((out / "tasks").iterdir())) == 3


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*args, **options):
        raise ValueError("not the user's")

    monkeypatch.setattr("stamina_lite.diffusion.concepts.concepts", broken)
    with pytest.raises(ValueError, match="not the user's"):
        cli.main(["learn", "x", "--method", "lora", "--out", "y"])
