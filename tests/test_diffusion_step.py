"""The benchmark of a step at the size of Stable Diffusion: its shapes are the real ones, and its rows measure work."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import diffusion_step  # noqa: E402
import stable_diffusion  # noqa: E402
import step_arithmetic  # noqa: E402
import step_memory  # noqa: E402
import step_tables  # noqa: E402
from memory_tracker import MemoryTracker  # noqa: E402
from stock_loops import LOOPS, make_loop  # noqa: E402

from stamina_lite import load_base

CPU = torch.device("cpu")


@pytest.fixture
def built():
    return stable_diffusion.build("tiny")


def test_sd15_has_as_many_weights_as_the_real_one():
    """U-Net, K and V and the adapters as the papers count them; VAE and text encoder as their published files hold."""
    assert diffusion_step.counts("sd15") == {
        "unet": 859_520_964,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "matrices": 32,
        "adapted": 19_169_280,
        "adapter": 792_576,
    }


@pytest.mark.parametrize("shape, entries, positions", [("sd15", 49_408, 77), ("tiny", 600, 40)])
def test_its_tokenizer_needs_no_hub_and_has_every_entry(shape, entries, positions):
    tokenizer = stable_diffusion.make_tokenizer(shape)
    assert len(tokenizer) == tokenizer.vocab_size == entries and tokenizer.model_max_length == positions
    ids = tokenizer("a photo of a person").input_ids
    assert len(ids) == 7 and ids[0] == entries - 2 and ids[-1] == entries - 1
    assert tokenizer.decode(tokenizer("zebra, naïve").input_ids, skip_special_tokens=True).split() == [
        "zebra",
        ",",
        "naïve",
    ]


def test_what_is_written_is_read_as_a_base(tmp_path):
    stable_diffusion.main([str(tmp_path / "model"), "--shape", "tiny"])
    pipe, same = load_base(tmp_path / "model", device="cpu"), stable_diffusion.build("tiny")
    assert torch.equal(pipe.unet.conv_in.weight, same.unet.conv_in.weight)
    assert pipe.tokenizer.get_vocab() == same.tokenizer.get_vocab()


def test_all_rows_are_measured_and_written(tmp_path, capsys):
    out = tmp_path / "step.json"
    few = "--shape tiny --device cpu --latent 8 --steps 2 --batches 1 --concepts 2 --out"
    diffusion_step.main([*few.split(), str(out)])
    report = json.loads(out.read_text())
    names = {"floor", *diffusion_step.METHODS, *LOOPS}
    for rows in (report["rows"]["1"], report["predicted"]["1"]):
        assert set(rows) == names
        assert all(0 < row[key] < math.inf for row in rows.values() for key in ("seconds", "ratio"))
    assert all(row["peak_memory"] > 4 * report["counts"]["unet"] for row in report["predicted"]["1"].values())
    assert set(report["projection"]["hours"]) == names - {"floor"}
    seconds = report["rows"]["1"]["lora"]["seconds"]
    assert report["projection"]["hours"]["lora"] == pytest.approx(50 * 500 * seconds / 3600)
    assert report["folded"]["ratio"] > 0 and len(report["concepts"]["tasks"]) == 2
    assert all(task["bytes"] > 4 * report["counts"]["adapted"] for task in report["concepts"]["tasks"])
    assert report["rows"]["1"]["c-lora"]["trained"] == report["counts"]["adapter"] + 32  # factors, and a token's row
    assert torch.__version__.startswith(report["versions"]["torch"]) and "stamina" in capsys.readouterr().out
    where, _, head, _, *lines = step_tables.step_table(report).splitlines()
    assert where.startswith(report["device"]) and "latents of 8, 2 steps" in where and len(lines) == len(names)
    row = dict(zip(head.split(" | "), lines[0].split(" | "), strict=True))
    assert row["× floor"] == "1.00" and row["s a step"] == f"{report['rows']['1']['floor']['seconds']:.2f}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOOPS)
def test_published_loops_train_what_they_should_and_no_more(name, dtype):
    pipe = stable_diffusion.build("tiny", dtype=dtype)
    frozen = {f"{m}.{n}": p for m in ("unet", "vae") for n, p in getattr(pipe, m).named_parameters()}
    before = {n: p.detach().clone() for n, p in frozen.items()}
    loop = make_loop(name, pipe, torch.rand(4, 3, 32, 32) * 2 - 1)
    started = [p.detach().clone() for p in loop.trained]
    assert all(p.dtype == torch.float32 for p in loop.trained)
    assert all(math.isfinite(loop.step()) for _ in range(2))
    assert all(not torch.equal(a, b) for a, b in zip(started, loop.trained, strict=True))
    assert all(torch.equal(before[n], frozen[n]) for n in before)
    matrices = {"dreambooth-lora": 16 * 4, "custom-diffusion": 8 + 1}  # LoRA's A and B; K, V and the token table
    assert len(loop.trained) == matrices.get(name, 16)


def test_the_floor_reaches_the_words_and_no_weight(built):
    unet = built.unet.requires_grad_(False)
    step, words = diffusion_step.floor_step(unet, 2, 40)
    step()
    assert words.grad.shape == (2, 40, 32) and words.grad.abs().amin(dim=2).gt(0).all()
    assert all(p.grad is None for p in unet.parameters())


def test_counted_work_is_that_of_arithmetic():
    """One product; what LoRA adds to a token: its factors' product and gradients, and the gradients of K and V."""
    x, weight = torch.empty(5, 3, device="meta", requires_grad=True), torch.empty(7, 3, device="meta")
    work = step_arithmetic.counted(lambda: torch.nn.functional.linear(x, weight).sum(), trained=10)
    assert work.flops == 2 * (2 * 5 * 3 * 7) and work.drawn == 0
    assert work.moved > 4 * 2 * (5 * 3 + 7 * 3 + 5 * 7) + 28 * 10
    token, lora = (step_arithmetic.added(name, "tiny", 3, torch.float32) for name in ("ti++", "lora"))
    of_all_matrices = 16_384 * (3 * 2 * 16 + 2 * 3 * 40)  # rank 16; 3 pictures of 40 words
    assert lora.flops - token.flops == of_all_matrices


def test_what_methods_add_is_counted():
    """Latents grow the floor and nothing that is added; masks draw one number a weight and have the most to launch."""
    floor = [step_arithmetic.floor("tiny", 1, torch.float32, latent) for latent in (8, 16)]
    assert floor[1].flops > 3 * floor[0].flops and floor[0].launches == floor[1].launches
    added = [step_arithmetic.added(name, "tiny", 1, torch.float32) for name in diffusion_step.METHODS]
    assert [work.drawn for work in added] == [0, 0, 0, 16_384]
    launches = [work.launches for work in added]
    assert launches == sorted(launches) and launches[0] > 0
    assert [work.moved for work in added] == sorted(work.moved for work in added)


def test_a_gpu_waits_for_the_slower_of_launches_and_kernels():
    work = step_arithmetic.Work(flops=200, moved=10, launches=3, drawn=5)
    rates = {"flops": 100.0, "moved": 10.0, "launch": 0.5, "drawn": 0.1}
    assert step_arithmetic.Machine(torch.device("cuda"), **rates).seconds(work) == 3 + 0.5
    assert step_arithmetic.Machine(CPU, **rates).seconds(work) == 3 + 1.5 + 0.5


def test_held_memory_is_that_of_arithmetic():
    """A weight, what its product keeps, the gradients, two moments; what nothing needs any more does not count."""
    with MemoryTracker() as memory:
        a = torch.empty(1000, device="meta")
        view, b = a.view(10, 100), a + 1
        assert memory.current == memory.peak == 8000
        del b
        assert memory.current == 4000 and memory.peak == 8000 and view.shape == (10, 100)
        c = torch.exp(a)
        assert memory.current == memory.peak == 8000 and c.shape == a.shape

    def make():
        weight, x = torch.empty(500, 400, device="meta", requires_grad=True), torch.empty(3, 400, device="meta")
        return lambda: torch.nn.functional.linear(x, weight).square().sum().backward(), [weight]

    weight = 4 * 500 * 400  # itself, its gradient, two moments, and two more inside AdamW's step
    assert step_memory.peak(make) == pytest.approx(6 * weight, rel=0.01)


def test_memory_is_counted_by_method_batch_precision_and_checkpointing():
    held = {name: step_memory.ours(name, "tiny", 1, torch.float32) for name in diffusion_step.METHODS}
    floor = step_memory.floor("tiny", 1, torch.float32)
    assert floor < held["ti++"] < held["lora"] <= held["c-lora"] < held["stamina"] < 3 * floor
    weights = sum(diffusion_step.counts("tiny")[name] for name in ("unet", "vae", "text_encoder"))
    more, half, again = (
        step_memory.ours("stamina", "tiny", 4, dtype, checkpointing=checkpointing)
        for dtype, checkpointing in ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True))
    )
    assert 4 * weights < held["stamina"] < more and again < more and 0.4 * more < half < 0.8 * more
    stock = [step_memory.stock("dreambooth-lora", "tiny", batch) for batch in (1, 4)]
    assert 4 * weights < stock[0] < stock[1]


@pytest.mark.parametrize("name", step_memory.METHODS)
def test_counted_memory_is_that_of_a_task_that_is_computed(name):
    """Of a batch of 4; of less, encoding the pictures holds more at this size than a step does."""
    counted = step_memory.ours(name, "tiny", 4, torch.float32)
    assert step_memory.computed(name, "tiny", 4) == pytest.approx(counted, rel=0.01)


def test_counted_memory_is_written_and_told(tmp_path, capsys):
    """A row of the table has its GiB in the column of its kind, and no number where nothing was counted."""
    step_memory.main(["--shape", "tiny", "--batches", "2", "--out", str(tmp_path / "memory.json")])
    report = json.loads((tmp_path / "memory.json").read_text())
    assert set(report["rows"]) == {"floor", *step_memory.METHODS, *LOOPS}
    report["rows"]["stamina"]["bf16, batch 2, checkpointing"] = 3 * 2**30 + 2**28
    head, _, *lines = step_tables.memory_table(report).splitlines()
    place = head.split(" | ").index("bf16, batch 2, checkpointing")
    shown = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[place].strip(" |") for line in lines}
    assert shown["stamina"] == "3.2" and shown["floor"] == shown["custom-diffusion"] == "–"
    assert "custom-diffusion" in capsys.readouterr().out


def test_a_count_is_told_beside_the_computed(capsys):
    step_memory.main("--shape tiny --batches 4 --compute lora".split())
    counted, computed = (float(number) for number in re.findall(r"[\d.]+(?= GiB)", capsys.readouterr().out))
    assert 0.01 < counted < 0.03 and computed == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("wrong", ["--concepts 1", "--steps 0", "--batches 4 0"])
def test_too_few_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        diffusion_step.main(wrong.split())
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--shape sdxl", "--parts floors", "--methods loras", "--dtype float64"])
def test_unknown_choices_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        diffusion_step.main(wrong.split())
    assert "invalid choice" in capsys.readouterr().err
