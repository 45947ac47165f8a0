"""The base model's training: on pictures as they are drawn, within a budget; it goes on where it was killed."""

import json
import sys

import base_set
import numpy as np
import pretrain_diffusion
import pytest
import torch
from base_models import make_text_encoder, make_tokenizer
from base_set import BaseSet, draw_base_set, start_drawing, stop_drawing
from diffusers import StableDiffusionPipeline
from pretrain_diffusion import ProductEmbedding, grow, min_snr, text_share
from training_state import Budget, Run, average_gradients, rate

from stamina_lite import load_base
from stamina_lite.core.tokens import random_start


class Killed(Exception):
    pass


def trained(folder, kill_at=None, log=()):
    """Six steps of a small regression, killed in one of them or not: the Run and the numbers it drew."""
    torch.manual_seed(0)
    model, drawn = torch.nn.Linear(3, 1), []
    run = Run(folder, "line", {"model": model}, Budget(6), 1e-1, 4, "cpu", decay=0.9, log=list(log))

    def loss(draw):
        if run.step == kill_at:
            raise Killed
        x = torch.randn(4, 3, generator=draw)
        drawn.append(x)
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return value, {"loss": value.detach()}

    run.train(loss, lambda step: None, save_seconds=0)
    return run, drawn


@pytest.mark.parametrize("kill_at", [1, 4])
def test_killed_training_ends_the_same(tmp_path, kill_at):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, drawn = trained(tmp_path / "a")
    with pytest.raises(Killed):
        trained(tmp_path / "b", kill_at)
    resumed, rest = trained(tmp_path / "b")
    assert len(rest) == 6 - kill_at and all(map(torch.equal, rest, drawn[kill_at:]))
    for ours, theirs in zip(resumed.parameters, whole.parameters, strict=True):
        assert torch.equal(ours, theirs)  # the moving average, which is what is left after training
    for ours, theirs in zip(resumed.average.average, whole.average.average, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(whole.parameters[0], whole.average.average[0])


def test_a_budget_is_over_with_its_steps_or_its_seconds():
    both = Budget(steps=10, seconds=100)
    assert [both.spent(*used) for used in ((0, 0), (5, 10), (1, 80), (3, 500), (10, 1))] == [0, 0.5, 0.8, 1, 1]
    assert Budget(0).spent(0, 0) == 1 and Budget(seconds=4).spent(1000, 1) == 0.25
    with pytest.raises(ValueError, match="steps or seconds"):
        Budget()
    assert rate(0, 0, 1.0) < rate(300, 0.3, 1.0) == rate(300, 0.5, 1.0) == 1 > rate(300, 0.9, 1.0) > rate(300, 1, 1.0)


def share(me, folder):
    """One of two workers: gradients of its own, averaged and written down."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=me, world_size=2)
    a, b = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))
    a.grad, b.grad = torch.arange(6.0).view(2, 3) * (1 + me), torch.full((4,), 10.0 * me)
    average_gradients([a, b])
    np.savez(folder / f"{me}.npz", a=a.grad, b=b.grad)
    torch.distributed.destroy_process_group()


def test_workers_train_on_the_mean_of_their_gradients(tmp_path):
    torch.multiprocessing.spawn(share, (tmp_path,), nprocs=2)
    for me in range(2):
        told = np.load(tmp_path / f"{me}.npz")
        assert np.array_equal(told["a"], 1.5 * np.arange(6.0).reshape(2, 3)) and np.array_equal(told["b"], [5.0] * 4)
    alone = torch.nn.Parameter(torch.zeros(2))
    alone.grad = torch.tensor([1.0, 2.0])
    average_gradients([alone])
    assert alone.grad.tolist() == [1.0, 2.0]


def test_training_counts_on_from_its_start(tmp_path):
    """A start that has had 4 steps is not shown their draws once more."""
    for name in ("fresh", "started"):
        (tmp_path / name).mkdir()
    fresh, first = trained(tmp_path / "fresh")
    started, later = trained(tmp_path / "started", log=[{"step": 4, "samples": 400}])
    assert (fresh.before, started.before) == (0, 4)
    assert torch.equal(later[0], first[4]) and not torch.equal(later[0], first[0])
    started.note(loss=1.0)
    assert started.log == [{"step": 4, "samples": 400}, {"step": 10, "samples": 424, "loss": 1.0}]


def test_pictures_are_drawn_while_they_are_read(tmp_path):
    """Chunk by chunk; a process that is stopped leaves whole chunks, and drawing goes on to the same set."""
    drawing = start_drawing(tmp_path / "a", 1000, 32, 1)
    base = BaseSet.begun(tmp_path / "a", 1000, 32, drawing, 100)
    stop_drawing(drawing)
    assert drawing.poll() is not None
    first = base.ready
    assert len(first) >= 100 and len(first) % 100 == 0
    draw_base_set(tmp_path / "a", 1000, 32, 2)
    again = [base_set.base_picture(int(k), 32) for k in (0, 99, 555, 999)]
    assert base.refresh() and len(base.ready) == 1000 and not base.refresh()
    for k, (picture, caption) in zip((0, 99, 555, 999), again, strict=True):
        assert np.array_equal(base.images[k], picture) and base.captions(k // 100)[k % 100] == caption
    with pytest.raises(SystemExit, match="holds 1000 pictures of 32 px"):
        draw_base_set(tmp_path / "a", 1000, 64)
    with pytest.raises(SystemExit, match="holds 1000 pictures of 32 px, not 900"):
        BaseSet.begun(tmp_path / "a", 900, 32, drawing, 100)


def test_one_command_makes_a_base_and_goes_on_from_it(tmp_path, monkeypatch, capsys):
    """From nothing to a folder that stock code draws with; then from that folder, whose encoder is kept."""
    monkeypatch.setattr(pretrain_diffusion, "SIZE", 32)
    monkeypatch.setattr(pretrain_diffusion, "FEWEST", 300)
    monkeypatch.setattr(pretrain_diffusion, "PROMPTS", ("a photo of a person",))

    def run(out, *more):
        work = tmp_path / f"work-{out}"
        steps = "--unet-steps 2 --decoder-steps 1 --unet-batch 4 --decoder-batch 2 --device cpu".split()
        folders = ["--data", tmp_path / "base", "--count", 300, "--work", work, "--out", tmp_path / out]
        monkeypatch.setattr(sys, "argv", ["pretrain_diffusion.py", *map(str, folders), *steps, *map(str, more)])
        pretrain_diffusion.main()
        assert (work / "samples.png").exists() and (work / "vae.png").exists()
        return StableDiffusionPipeline.from_pretrained(tmp_path / out), json.loads(
            (tmp_path / out / "training.json").read_text()
        )

    first, log = run("first", "--vae-seconds", 0.5, "--vae-batch", 2)
    assert [log[stage][-1]["step"] for stage in ("unet", "decoder")] == [2, 1] and log["vae"][-1]["step"] >= 1
    assert log["unet"][-1]["samples"] == 8 and {"held_out", "held_out_singles", "pictures"} <= log["unet"][-1].keys()
    second, log = run("second", "--start", tmp_path / "first", "--bf16", "--pairs", 1)
    assert log["unet"][-1]["step"] == 4 and log["unet"][-1]["samples"] == 16
    weights = [pipe.vae.state_dict() | pipe.unet.state_dict() for pipe in (first, second)]
    changed = {name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])}
    assert changed and not any(name.startswith(("encoder", "quant_conv")) for name in changed)
    assert first.vae.config.scaling_factor == second.vae.config.scaling_factor != 0.18215


def test_rows_looked_up_by_a_product_are_the_same_rows():
    table = torch.nn.Embedding(7, 3)
    ids = torch.tensor([[1, 1, 6], [0, 1, 2]])
    table(ids).square().sum().backward()
    rows, gradient = table(ids), table.weight.grad.clone()
    table.zero_grad()
    table.__class__ = ProductEmbedding
    table(ids).square().sum().backward()
    assert torch.allclose(table(ids), rows) and torch.allclose(table.weight.grad, gradient) and gradient.any()


def test_min_snr_weighs_steps_that_are_all_signal_or_all_noise_least():
    alphas = torch.tensor([0.999, 0.9, 5 / 6, 0.5, 0.1, 0.0])
    weights = min_snr(alphas)
    assert weights.mean().item() == pytest.approx(1) and weights.argmax() == 2
    assert (weights / weights[2] * 5 / 6).tolist() == pytest.approx([0.1, 0.5, 5 / 6, 0.5, 0.1, 0.1])


@torch.no_grad()
def test_a_grown_vocabulary_reads_old_captions_as_before(tmp_path):
    captions = ["a photo of a person", "a photo of a waterfall at night"]
    old_tokenizer = make_tokenizer(captions, tmp_path / "old")
    new_tokenizer = make_tokenizer([*captions, "a photo of nepiti at night"], tmp_path / "new")
    old, new = make_text_encoder(old_tokenizer).eval(), make_text_encoder(new_tokenizer).eval()
    row = new.get_input_embeddings().weight[new_tokenizer.convert_tokens_to_ids("nepiti</w>")].clone()

    def read(text, tokenizer, caption):
        return text(tokenizer(caption, padding="max_length", return_tensors="pt").input_ids)[0]

    before = read(new, new_tokenizer, captions[1])
    grow(new, new_tokenizer, old, old_tokenizer)
    after = read(new, new_tokenizer, captions[1])
    assert torch.equal(after, read(old, old_tokenizer, captions[1])) and not torch.allclose(after, before)
    assert torch.equal(row, new.get_input_embeddings().weight[new_tokenizer.convert_tokens_to_ids("nepiti</w>")])
    assert len(new_tokenizer) > len(old_tokenizer)


def test_layers_of_the_text_encoder_learn_slowly_and_its_rows_fast(tmp_path):
    tokenizer = make_tokenizer(["a photo"], tmp_path / "words")
    modules = {"unet": torch.nn.Linear(2, 2), "text": make_text_encoder(tokenizer)}
    run = Run(tmp_path, "both", modules, Budget(10), 1e-3, 4, "cpu", decay=0.9, log=[], share=text_share)
    shares = {id(p): group["share"] for group in run.optimizer.param_groups for p in group["params"]}
    assert len(shares) == len(run.parameters)
    assert {shares[id(p)] for p in modules["unet"].parameters()} == {1.0}
    text = modules["text"]
    assert shares[id(text.get_input_embeddings().weight)] == 2.0
    assert {shares[id(p)] for n, p in text.named_parameters() if "layer" in n} == {0.2}


@torch.no_grad()
def test_what_a_token_row_says_reaches_keys_and_values():
    """Random rows in a token's place move its features far and in many directions, or no concept could be told.

    In an edition whose layers had outgrown its rows: 11 directions, and a deviation of 5 % of the features' norm.
    """
    pipe = load_base("mini")
    table, draw = pipe.text_encoder.get_input_embeddings(), torch.Generator().manual_seed(0)
    ids = pipe.tokenizer("a photo of person", padding="max_length", return_tensors="pt").input_ids
    token = pipe.tokenizer.convert_tokens_to_ids("person</w>")
    features = []
    for _ in range(128):
        table.weight[token] = random_start(table, len(pipe.tokenizer), draw)
        features.append(pipe.text_encoder(ids)[0][ids == token][0].float())
    features = torch.stack(features)
    spread = torch.linalg.svdvals(features - features.mean(0))
    assert spread.sum() ** 2 / spread.square().sum() > 30
    assert spread.square().sum().div(len(features)).sqrt() > 0.4 * features.norm(dim=1).mean()
