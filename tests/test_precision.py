"""Half precision, and what is done where memory is short."""

import json
import re

import pytest
import torch
from base_files import FEW, learn_to, same
from diffusers import UNet2DConditionModel

from stamina_lite import ContinualLearner, cli, concepts, load_base, make_method
from stamina_lite.core.seeds import seeded
from stamina_lite.diffusion import bases
from stamina_lite.diffusion.bases import load_recorded, precision
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.errors import UserError


def test_precision_is_what_the_device_is_good_at(monkeypatch):
    assert precision("cpu") == torch.float32
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s)
        assert precision("cuda:1") == dtype


def test_half_precision_trains_fp32_parameters_as_fp32_does(tiny_folder, photos):
    """Step by step the loss is that of a model in fp32, to a few roundings, and it falls; every gradient is finite."""
    found, method, curves = concepts(photos), make_method("stamina", lr=0.03, **{**FEW, "steps": 5}), []
    for dtype in (torch.bfloat16, torch.float32):
        model, seen, fixed = TextToImage(load_base(tiny_folder, "cpu", dtype)), [], []

        def look(step, numbers, model=model, seen=seen):
            adapter, token = model.layers[0].adapter, model.embedding.parametrizations.weight[0].tokens[0]
            seen.append([*adapter.parameters(), *token.parameters()])

        steps = model.learn(found[0], method, 0, 1, look).steps
        assert {p.dtype for p in seen[0]} == {torch.float32} and len(seen[0]) == 10
        assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in seen[-1])
        x, told = model.encode(found[0].load(model.size)), torch.zeros(4, dtype=torch.long)
        for _ in range(2):  # with the weights that were learned, then with the base's
            with torch.no_grad():
                fixed.append(model.errors(x, model.tokenize(["a photo of <amber>"]), told, seeded(9)).mean().item())
            for layer in model.layers:
                layer.restore(layer.start)
        assert fixed[0] < 0.995 * fixed[1]
        curves.append([s["diffusion"] for s in steps])
    assert curves[0] == pytest.approx(curves[1], rel=0.02)


def test_images_that_overflow_in_half_precision_are_an_error_and_not_black(tiny_folder):
    model = TextToImage(load_base(tiny_folder, "cpu", torch.float16))
    with torch.no_grad():
        model.vae.decoder.conv_in.bias += 1e5  # beyond the largest number of fp16: the next mean is not finite
    with pytest.raises(UserError, match="images in float16 are no finite numbers: load the base in a larger precision"):
        model.generate(["a photo"], [0], steps=1)


def test_in_fp16_small_gradients_are_not_lost(tiny_folder, photos):
    """Behind small weights, as in a large U-Net, an unscaled loss leaves hardly any: K and V would stand still."""

    def learned(dtype):
        model = TextToImage(load_base(tiny_folder, "cpu", dtype))
        with torch.no_grad():
            model.unet.conv_out.weight *= 2**-12
        rule = make_method("lora", steps=12, batch=2, rank=2)
        model.learn(concepts(photos)[0], rule, 0, 1)
        return torch.cat([layer.past.flatten() for layer in model.layers])

    single, half = learned(torch.float32), learned(torch.float16)
    assert torch.nn.functional.cosine_similarity(single, half, dim=0) > 0.9 and half.norm() > 0.5 * single.norm()


def test_in_fp16_the_fisher_information_is_not_lost(tiny_folder, photos):
    """Squares of small gradients are smaller still."""

    def fisher(dtype):
        model = TextToImage(load_base(tiny_folder, "cpu", dtype))
        with torch.no_grad():
            model.unet.conv_out.weight *= 2**-8
        model.learn(concepts(photos)[0], make_method("custom-diffusion-ewc", steps=1, batch=1, n_prior=2), 0, 1)
        return torch.cat([layer.memory["fisher"].flatten() for layer in model.layers])

    single, half = fisher(torch.float32), fisher(torch.float16)
    assert half.dtype == torch.float32 and (half - single).norm() < 0.1 * single.norm()


def test_what_half_precision_learns_is_kept_in_fp32(tiny_folder, photos):
    """Every layer's own copy is fp32 and not a rounded one; the model has it, and the token's row, rounded once."""
    model, method = TextToImage(load_base(tiny_folder, "cpu", torch.bfloat16)), make_method("c-lora", **FEW)
    before = model.embedding.weight.clone()
    for task, concept in enumerate(concepts(photos)[:2], 1):
        learned = model.learn(concept, method, 0, task)
    for layer in model.layers:
        weight = layer.module.weight
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, layer.current.bfloat16())
        assert layer.current.dtype == torch.float32 and not torch.equal(layer.current, weight.float())
    row = learned.rows[concept.token]
    assert row.dtype == torch.float32 and torch.equal(model.embedding.weight[-1], row.bfloat16())
    assert torch.equal(model.embedding.weight[:-2], before)


def test_fifty_tasks_in_half_precision_stay_with_those_in_fp32(tiny_folder, photos):
    """The same changes folded into a whole model of either precision: no drift beyond one rounding."""
    models = [TextToImage(load_base(tiny_folder, "cpu", dtype)) for dtype in (torch.bfloat16, torch.float32)]
    method = make_method("lora", **FEW)
    naive = {layer.name: layer.module.weight.detach().clone() for layer in models[0].layers}
    for task in range(50):
        for half, full in zip(*(model.layers for model in models), strict=True):
            for layer in (half, full):
                layer.attach(method.adapter(layer, seeded(task)))
                with torch.no_grad():
                    layer.adapter.A.normal_(std=2e-3, generator=seeded(task, 1))
            naive[half.name] += half.delta().detach().bfloat16()
            half.fold()
            full.fold()
    for half, full in zip(*(model.layers for model in models), strict=True):
        assert torch.allclose(half.past, full.past, atol=1e-6) and full.past.abs().max() > 0.01
        ours, drifted = ((w.float() - half.start - full.past).abs() for w in (half.module.weight, naive[half.name]))
        assert ours.max() <= torch.finfo(torch.bfloat16).eps * half.current.abs().max()
        assert drifted.mean() > 3 * ours.mean()


def test_a_run_in_half_precision_is_opened_and_goes_on_in_it(tiny_folder, photos, tmp_path):
    """On a machine that would take fp32 of its own accord; and without the record its base is another."""
    out, base = tmp_path / "run", {"base_model": str(tiny_folder.resolve()), "set": None}
    half = load_base(tiny_folder, "cpu", torch.bfloat16)
    learner = ContinualLearner(half, "lora", 0, out, base, steps=1, batch=2, rank=2)
    learner.learn(concepts(photos)[0])
    about = json.loads((out / "run.json").read_text())
    assert about["precision"] == "bfloat16" and same(load_recorded(base, "cpu"), load_base(tiny_folder, "cpu"))
    assert cli.main(["generate", str(out), "--prompt", "a photo of <amber>", "-n", "1", "--device", "cpu"]) == 0
    assert cli.main(learn_to(out, tiny_folder, photos)) == 0
    assert len(list((out / "tasks").iterdir())) == 3
    (out / "run.json").write_text(json.dumps({k: v for k, v in about.items() if k != "precision"}))
    assert cli.main(["generate", str(out), "--prompt", "a photo of <amber>", "-n", "1", "--device", "cpu"]) == 2


def test_out_of_memory_is_said_and_the_run_goes_on(tiny_folder, photos, tmp_path, capsys, monkeypatch):
    """Raised here where a GPU would raise it, in the second concept's steps: memory of a CPU is no torch error."""
    whole, argv = TextToImage.errors, learn_to(tmp_path / "run", tiny_folder, photos)

    def full(model, *args):
        if len(model.token_ids) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return whole(model, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TextToImage, "errors", full)
        assert cli.main(argv) == 2
    said = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "stamina-lite" in line]
    assert len(said) == 1 and said[0].endswith(f"stamina-lite: {cli.OUT_OF_MEMORY}") and "--batch" in said[0]
    assert [f.name for f in (tmp_path / "run" / "tasks").iterdir()] == ["001"]
    assert cli.main(argv) == 0
    assert len(list((tmp_path / "run" / "tasks").iterdir())) == 3


def test_gradient_checkpointing_can_be_asked_for(tiny_folder, photos, tmp_path, monkeypatch, capsys):
    """A run goes on with it or without; classes, which have no U-Net, refuse it."""
    asked, enable = [], UNet2DConditionModel.enable_gradient_checkpointing
    monkeypatch.setattr(UNet2DConditionModel, "enable_gradient_checkpointing", lambda u: asked.append(u) or enable(u))
    argv = learn_to(tmp_path / "run", tiny_folder, photos)
    assert cli.main([*argv, "--gradient-checkpointing"]) == 0 and len(asked) == 1
    assert cli.main(argv) == 0 and len(asked) == 1
    classes = ["bench", "renditions", "--method", "ft", "--out", str(tmp_path / "classes"), "--gradient-checkpointing"]
    assert cli.main(classes) == 2 and "is for concepts" in capsys.readouterr().err


def test_another_runtime_error_keeps_its_traceback(monkeypatch, photos, tiny_folder, tmp_path):
    def broken(*args):
        raise RuntimeError("not the user's")

    monkeypatch.setattr(bases, "check_fit", broken)
    with pytest.raises(RuntimeError, match="not the user's"):
        cli.main(learn_to(tmp_path / "run", tiny_folder, photos))
