"""Base models in one .safetensors file, in the original layout."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from base_files import change, learn_to
from conftest import build_tiny_pipeline
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from stamina_lite import cli, load_base
from stamina_lite.errors import UserError


def original_unet(unet) -> dict:
    """A U-Net's weights under the keys of the original layout: the inverse of what diffusers reads them by."""
    each, out = unet.config.layers_per_block + 1, {}
    attended = [hasattr(block, "attentions") for block in unet.up_blocks]
    rules = [
        (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
        (r"conv_in", "input_blocks.0.0"),
        (r"conv_norm_out", "out.0"),
        (r"conv_out", "out.2"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
        (r"mid_block\.attentions\.0", "middle_block.1"),
        (r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * each + int(m[2])}.0"),
        (r"down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + int(m[1]) * each + int(m[2])}.1"),
        (r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{int(m[1]) * each + each}.0.op"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{int(m[1]) * each + int(m[2])}.0"),
        (r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{int(m[1]) * each + int(m[2])}.1"),
        (
            r"up_blocks\.(\d)\.upsamplers\.0",
            lambda m: f"output_blocks.{int(m[1]) * each + each - 1}.{1 + attended[int(m[1])]}",
        ),
    ]
    parts = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
    parts |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    for key, tensor in unet.state_dict().items():
        name = key
        for pattern, to in rules:
            name = re.sub(f"^{pattern}", to, name)
        if ".resnets." in key:
            name = re.sub(rf"\.({'|'.join(parts)})\.", lambda m: f".{parts[m[1]]}.", name)
        out[f"model.diffusion_model.{name}"] = tensor
    return out


def original_vae(vae) -> dict:
    last, out = len(vae.config.up_block_types) - 1, {}
    parts = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}
    for key, tensor in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if ".attentions." in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1")
            name = re.sub(
                rf"({'|'.join(map(re.escape, parts))})\.(weight|bias)", lambda m: f"{parts[m[1]]}.{m[2]}", name
            )
            tensor = tensor if tensor.ndim == 1 else tensor[:, :, None, None]  # there it was a convolution
        out[f"first_stage_model.{name}"] = tensor
    return out


def original_text(text, of_2: bool) -> dict:
    """As CLIP's in 1.x, as OpenCLIP's in 2.x, where Q, K and V are one matrix."""
    held = {key.removeprefix("text_model."): tensor for key, tensor in text.state_dict().items()}
    if not of_2:
        return {f"cond_stage_model.transformer.text_model.{key}": tensor for key, tensor in held.items()}
    names = {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final", "layer_norm1": "ln_1"}
    names |= {"layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn"}
    names |= {"encoder.layers": "transformer.resblocks", "embeddings.position_embedding.weight": "positional_embedding"}
    out = {}
    for key in [k for k in held if ".q_proj." in k]:
        for what in ("q", "k", "v"):
            joined = key.replace("q_proj.", "in_proj_")
            out.setdefault(joined, []).append(held.pop(key.replace("q_proj", f"{what}_proj")))
    held |= {key: torch.cat(three) for key, three in out.items()}
    for old, new in names.items():
        held = {key.replace(old, new): tensor for key, tensor in held.items()}
    return {f"cond_stage_model.model.{key}": tensor for key, tensor in held.items()}


def original(pipe, file: Path, of_2: bool = False, half: bool = False) -> Path:
    """Write a pipeline as a single file in the original layout."""
    tensors = original_unet(pipe.unet) | original_vae(pipe.vae) | original_text(pipe.text_encoder, of_2)
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 10)  # such files hold more than is read
    save_file({k: (v.half() if half else v).contiguous().clone() for k, v in tensors.items()}, file)
    return file


def said_by(pipe):
    """What a pipeline makes of fixed noise, of a prompt, and of a picture: the three models."""
    ids = pipe.tokenizer("a photo of red waterfall", padding="max_length", return_tensors="pt").input_ids
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        words = pipe.text_encoder(ids)[0]
        noise, picture = torch.randn(1, 4, 16, 16, generator=draw), torch.randn(1, 3, 32, 32, generator=draw)
        latent = pipe.vae.encode(picture).latent_dist.mean
        return words, pipe.unet(noise, torch.tensor([500]), words).sample, latent, pipe.vae.decode(latent).sample


@pytest.mark.parametrize("of_2", [False, True])
def test_a_single_file_is_the_model_it_was_written_from(tmp_path, of_2):
    """In the layouts of 1.x and 2.x; the folder beside it gives the configuration, and none of its weights."""
    kind = "v_prediction" if of_2 else "epsilon"
    folder = build_tiny_pipeline(tmp_path, kind)
    pipe = load_base(folder, "cpu")
    file = original(pipe, tmp_path / "model.safetensors", of_2)
    for model in ("unet", "vae", "text_encoder"):
        for weight in (folder / model).glob("*.safetensors"):
            change(weight, lambda t: [v.add_(0.1) for v in t.values()])
    loaded, other = load_base(file, "cpu", config=folder), load_base(folder, "cpu")
    assert loaded.scheduler.config.prediction_type == kind and loaded.safety_checker is None
    for ours, theirs, others in zip(said_by(loaded), said_by(pipe), said_by(other), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6) and not torch.allclose(ours, others, atol=1e-2)


def test_a_run_on_a_single_file_finds_it_and_its_configuration_again(tiny_folder, tiny, photos, tmp_path, monkeypatch):
    """From another folder, and without the option: to go on, to draw and to export."""
    (tmp_path / "elsewhere").mkdir()
    original(tiny, tmp_path / "model.safetensors", half=True)
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(learn_to(tmp_path / "run", "model.safetensors", photos / "amber", "--base-config", tiny_folder)) == 0
    )
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["base_model"] == str(tmp_path / "model.safetensors") and about["base_config"] == str(tiny_folder)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(learn_to(tmp_path / "run", tmp_path / "model.safetensors", photos)) == 0
    assert len(list((tmp_path / "run" / "tasks").iterdir())) == 3
    assert cli.main(["generate", str(tmp_path / "run"), "--prompt", "a photo of <amber>", "-n", "1"]) == 0
    assert cli.main(["export", str(tmp_path / "run"), "--to", "diffusers", "--out", str(tmp_path / "out")]) == 0
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "out").unet.conv_out.weight.dtype == torch.float32


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    return original(load_base(tiny_folder, "cpu"), tmp_path_factory.mktemp("whole") / "whole.safetensors")


UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
BROKEN = {  # what is done to the tensors of a whole file -> what is said
    "no text": (lambda t: [t.pop(k) for k in [*t] if k.startswith(TEXT)], "checkpoint: no text encoder in it"),
    "weights": (lambda t: [t.pop(k) for k in [*t] if not k.startswith(UNET)], "no VAE, no text encoder in it"),
    "one": (lambda t: t.pop(f"{UNET}middle_block.1.proj_in.weight"), "lacks weights that .* wants: fetch it again"),
    "a layer": (
        lambda t: [t.pop(k) for k in [*t] if "text_model.encoder.layers.1." in k],
        r"lacks \S*encoder.layers.1\S* and 15 more weights",
    ),
    "vae": (lambda t: t.pop("first_stage_model.decoder.conv_out.bias"), "lacks weights that .* wants: fetch it again"),
    "larger": (
        lambda t: t.update({f"{UNET}input_blocks.1.1.norm.weight": torch.ones(2)}),
        "larger U-Net than .* says: give --base-config",
    ),
    "shape": (lambda t: t.update({f"{UNET}out.2.bias": torch.ones(9)}), "does not fit .* expected shape"),
    "lora": (lambda t: t.update({"lora_unet_down.lora_up.weight": torch.ones(2)}), "is a LoRA, not a model"),
    "xl": (lambda t: t.update({"conditioner.embedders.0.x": torch.ones(2)}), "is of Stable Diffusion XL"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_lacks_anything_is_refused(whole, tiny_folder, tmp_path, how):
    shutil.copy(whole, tmp_path / "model.safetensors")
    edit, said = BROKEN[how]
    change(tmp_path / "model.safetensors", edit)
    with pytest.raises(UserError, match=said) as refused:
        load_base(tmp_path / "model.safetensors", "cpu", config=tiny_folder)
    assert "\n" not in str(refused.value) and "model.safetensors" in str(refused.value)


def test_files_that_cannot_be_read_are_refused_in_one_line(whole, tiny_folder, photos, tmp_path, capsys):
    torn, pickled = tmp_path / "torn.safetensors", tmp_path / "model.ckpt"
    torn.write_bytes(whole.read_bytes()[:-5000])
    pickled.write_bytes(b"\x80\x02}q\x00.")
    newer = original(load_base(tiny_folder, "cpu"), tmp_path / "newer.safetensors", of_2=True)
    for base, config, said in (
        (torn, tiny_folder, "torn.safetensors is damaged or not whole"),
        (pickled, None, "is a pickle"),
        ("nowhere.ckpt", None, "is a pickle"),
        (tmp_path / "none.safetensors", None, "no base model at"),
        (whole, None, "and the hub cannot be reached"),
        (whole, None, "): give --base-config, a diffusers folder"),
        (whole, tmp_path / "nowhere", "nowhere: give --base-config, a diffusers folder"),
        (whole, photos, "is no diffusers folder: model_index.json is missing"),
        (newer, None, "does not say what it predicts: give --base-config"),
        (tiny_folder, tiny_folder, "has its own configuration"),
    ):
        more = ["--base-config", config] if config else []
        capsys.readouterr()
        assert cli.main(learn_to(tmp_path / "run", base, photos, *more)) == 2
        line = capsys.readouterr().err
        assert said in line and line.startswith("stamina-lite: ") and line.count("\n") == 1, line
    assert not (tmp_path / "run").exists()
