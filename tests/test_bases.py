"""Base models in diffusers folders: what is loaded, what is refused, and how a base predicts."""

import shutil
from pathlib import Path

import pytest
import torch
from base_files import FEW, change, same, told, weights
from conftest import build_tiny_pipeline
from diffusers import DDIMScheduler, StableDiffusionPipeline

from stamina_lite import ContinualLearner, concepts, load_base, make_method
from stamina_lite.core.seeds import seeded
from stamina_lite.diffusion.bases import EMBEDDED
from stamina_lite.diffusion.model import TextToImage
from stamina_lite.diffusion.training_noise import training_scheduler
from stamina_lite.errors import UserError


def test_what_is_loaded_is_what_stock_code_loads(tiny_folder):
    for name, folder in (("mini", EMBEDDED["mini"]), (tiny_folder, tiny_folder)):
        stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
        ours = load_base(name, "cpu")
        assert same(ours, stock) and ours.scheduler.config == stock.scheduler.config
        assert {w.dtype for w in weights(ours).values()} == {torch.float32}


def test_folders_as_older_versions_wrote_them_are_whole(tiny_folder, tiny, tmp_path):
    """Other names of the text encoder's and the VAE's weights, a buffer that is none now, and mixed precisions."""
    shutil.copytree(tiny_folder, tmp_path / "old")
    names = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))

    def older_text(tensors):
        for key in [*tensors]:
            tensors[f"text_model.{key.removeprefix('text_model.')}"] = tensors.pop(key)
        tensors["text_model.embeddings.position_ids"] = torch.arange(40)[None]

    def older_vae(tensors):
        for key in [k for k in tensors if "attentions" in k]:
            old = key
            for now, before in names:
                old = old.replace(now, before)
            tensors[old] = tensors.pop(key)

    def mixed(tensors):
        for key in sorted(tensors)[::2]:
            tensors[key] = tensors[key].half()

    change(tmp_path / "old" / "text_encoder" / "model.safetensors", older_text)
    change(tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors", older_vae)
    assert same(load_base(tmp_path / "old", "cpu"), tiny)
    change(tmp_path / "old" / "unet" / "diffusion_pytorch_model.safetensors", mixed)
    loaded = weights(load_base(tmp_path / "old", "cpu"))
    assert {w.dtype for w in loaded.values()} == {torch.float32}
    assert all(torch.allclose(loaded[k], w, atol=1e-3) for k, w in weights(tiny).items())


def torn(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def edited(model: str, by):
    return lambda folder: change(next((folder / model).glob("*.safetensors")), by)


def nine_channels(folder: Path) -> None:
    told(folder / "unet" / "config.json", in_channels=9)
    edited("unet", lambda t: t.update({"conv_in.weight": torch.zeros(32, 9, 3, 3)}))(folder)


UNFIT = {  # what is done to a folder -> what is said
    "class": (
        lambda f: told(f / "model_index.json", _class_name="FluxPipeline"),
        r"is a FluxPipeline: only a StableDiffusionPipeline \(1.x or 2.x\) can be customised",
    ),
    "vae class": (
        lambda f: told(f / "model_index.json", vae=["diffusers", "AutoencoderTiny"]),
        "has a AutoencoderTiny as its vae",
    ),
    "no table": (lambda f: (f / "model_index.json").write_text("[]"), "model_index.json is damaged"),
    "unet lacks": (edited("unet", lambda t: t.pop("conv_out.weight")), "unet lacks conv_out.weight: no weight may"),
    "vae lacks": (edited("vae", lambda t: t.pop("quant_conv.bias")), "vae lacks quant_conv.bias"),
    "text lacks": (
        edited("text_encoder", lambda t: t.pop(next(k for k in t if k.endswith("final_layer_norm.weight")))),
        "text_encoder lacks .*final_layer_norm.weight",
    ),
    "unet extra": (edited("unet", lambda t: t.update(more=torch.ones(2))), "unet holds more, which its config.json"),
    "text extra": (edited("text_encoder", lambda t: t.update(more=torch.ones(2))), "text_encoder holds more, which"),
    "unet shape": (
        edited("unet", lambda t: t.update({"conv_out.bias": torch.ones(5)})),
        "conv_out.bias expected shape",
    ),
    "text shape": (
        edited("text_encoder", lambda t: t.update({sorted(t)[-1]: torch.ones(5)})),
        "text_encoder holds .* in another shape than its config.json says",
    ),
    "torn": (torn, "vae/diffusion_pytorch_model.safetensors is damaged or not whole"),
    "pickles": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").rename(f / "unet/diffusion_pytorch_model.bin"),
        "unet holds no .safetensors weights .*: pickled weights are not read",
    ),
    "not finite": (
        edited("vae", lambda t: t["quant_conv.bias"].fill_(float("nan"))),
        "cannot be customised: its weights are not all finite numbers",
    ),
    "no size": (lambda f: told(f / "unet" / "config.json", sample_size=None), "its U-Net is of no one size, but None"),
    "sample": (
        lambda f: told(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "its scheduler predicts sample, and not epsilon or v_prediction",
    ),
    "no length": (
        lambda f: (f / "tokenizer" / "tokenizer_config.json").unlink(),
        "tokenizer_config.json says no model_max_length, or more than the 40 positions",
    ),
    "no unet": (lambda f: told(f / "model_index.json", unet=None), "has a None as its unet"),
    "two variances": (
        lambda f: (
            told(f / "unet" / "config.json", out_channels=8),
            edited(
                "unet", lambda t: t.update({"conv_out.weight": torch.ones(8, 32, 3, 3), "conv_out.bias": torch.ones(8)})
            )(f),
        ),
        "its U-Net writes 8 channels and reads other ones",
    ),
    "tokenizer torn": (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{}"), "cannot load the base"),
    "inpainting": (nine_channels, "cannot be customised: its U-Net reads 9 channels"),
}


@pytest.mark.parametrize("how", UNFIT)
def test_a_folder_that_cannot_be_customised_is_refused(tiny_folder, tmp_path, how):
    shutil.copytree(tiny_folder, tmp_path / "model")
    edit, said = UNFIT[how]
    edit(tmp_path / "model")
    with pytest.raises(UserError, match=said) as refused:
        load_base(tmp_path / "model", "cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_scheduler_of_diffusers_is_trained_by_the_same_diffusion(tmp_path, prediction):
    """A sampler's own `add_noise` follows the timesteps of its last call; the loss must not."""
    import diffusers
    from diffusers.schedulers import KarrasDiffusionSchedulers

    pipe = load_base(build_tiny_pipeline(tmp_path, prediction), "cpu")
    config, x = pipe.scheduler.config, torch.randn(4, 4, 16, 16, generator=seeded(0))
    pipe.set_progress_bar_config(disable=True)

    def errors() -> torch.Tensor:
        model = TextToImage(pipe)
        with torch.no_grad():
            return model.errors(x, model.tokenize(["a photo"]), torch.zeros(4, dtype=torch.long), seeded(1))

    expected, differ = errors(), []
    without_betas, needs_torchsde = "EDMEulerScheduler", "DPMSolverSDEScheduler"
    for name in {kind.name for kind in KarrasDiffusionSchedulers} - {without_betas, needs_torchsde}:
        pipe.scheduler = getattr(diffusers, name).from_config(config)
        noise, t = torch.randn(x.shape, generator=seeded(2)), torch.tensor([100, 300, 500, 900])
        own, ours = (s.add_noise(x, noise, t) for s in (pipe.scheduler, training_scheduler(pipe.scheduler)))
        differ.append(not torch.allclose(own, ours, atol=0.1))
        assert torch.equal(errors(), expected), name
        pipe("a photo", num_inference_steps=4, output_type="latent")
        assert torch.equal(errors(), expected), name
    assert sum(differ) >= 5  # as the schedulers' own noise would have been another


def test_a_pipeline_without_betas_cannot_be_customised(tiny):
    from diffusers import FlowMatchEulerDiscreteScheduler

    tiny.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UserError, match="its FlowMatchEulerDiscreteScheduler is no diffusion by betas"):
        TextToImage(tiny)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler"])
def test_a_base_that_predicts_the_velocity_is_trained_to(tmp_path, photos, scheduler):
    """A U-Net that answers zero is as far off as the velocity is long, and not as the noise is."""
    import diffusers

    folder = build_tiny_pipeline(tmp_path, "v_prediction")
    config = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").config
    getattr(diffusers, scheduler).from_config(config).save_pretrained(folder / "scheduler")
    told(folder / "model_index.json", scheduler=["diffusers", scheduler])
    pipe = load_base(folder, "cpu")
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    for weight in pipe.unet.conv_out.parameters():
        torch.nn.init.zeros_(weight)
    model, x = TextToImage(pipe), torch.randn(4, 4, 16, 16)
    with torch.no_grad():
        errors = model.errors(x, model.tokenize(["a photo"]), torch.zeros(4, dtype=torch.long), seeded(1))
    draw = seeded(1)
    noise, t = torch.randn(x.shape, generator=draw), torch.randint(1000, (4,), generator=draw)
    alpha = pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x
    assert torch.allclose(errors, velocity.square().mean((1, 2, 3)), atol=1e-5)
    assert not torch.allclose(errors, noise.square().mean((1, 2, 3)), atol=1e-3)
    learned = TextToImage(load_base(folder, "cpu")).learn(concepts(photos)[0], make_method("lora", **FEW), 0, 1)
    assert learned.step_change > 0


@pytest.mark.parametrize("size", [64, 256, 512])
def test_bases_of_other_sizes(size, photos, tmp_path):
    """The size is the model's own: pictures are learned from, drawn, saved and read at it."""
    folder = build_tiny_pipeline(tmp_path, size=size, widths=(8, 8, 16, 16))
    learner = ContinualLearner(load_base(folder, "cpu"), "lora", steps=1, batch=1, rank=2)
    assert learner.model.size == size
    concept = concepts(photos)[0]
    assert learner.model.encode(concept.load(size)[:1]).shape[-2:] == (size // 8, size // 8)
    learner.learn(concept, progress=False)
    assert learner.generate(f"a photo of {concept.token}", n=1, steps=1)[0].size == (size, size)
    learner.pipe.save_pretrained(tmp_path / "saved")
    assert ContinualLearner(load_base(tmp_path / "saved", "cpu"), "lora").model.size == size
