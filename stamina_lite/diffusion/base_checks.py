"""Checks of a base model, before and after it is loaded: each raises UserError with one line."""

import json
from pathlib import Path

from ..errors import UserError, first_line

CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
VARIANTS = (None, "fp16")  # of weights; the first that a model has is loaded
UNUSED = ("position_ids", "text_projection.weight")  # in some text encoders' files, read by nothing
PREDICTS = ("epsilon", "v_prediction")
PARTS = {  # of a single file in the original layout: keys, one of which every file with this part has
    "U-Net": ("model.diffusion_model.input_blocks.0.0.weight",),
    "VAE": ("first_stage_model.encoder.conv_in.weight",),
    "text encoder": (
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
        "cond_stage_model.model.token_embedding.weight",  # OpenCLIP's, of 2.x
    ),
}


def weight_files(model: str, variant: str | None) -> list[str]:
    """Names of the files of a model's weights: one, or an index and its shards."""
    stem, middle = WEIGHTS[model], f".{variant}" if variant else ""
    return [f"{stem}{middle}.safetensors", f"{stem}{middle}-*.safetensors", f"{stem}.safetensors.index{middle}.json"]


def weights_in(folder: Path, variant: str | None) -> list[Path]:
    return [file for pattern in weight_files(folder.name, variant) for file in folder.glob(pattern)]


def check_folder(folder: Path, weights: bool = True, called: str | None = None) -> None:
    """Check that a folder has every file of a pipeline; weights: those of its models too."""
    index, called = folder / "model_index.json", called or str(folder)
    if not index.is_file():
        raise UserError(f"{called} is no diffusers folder: model_index.json is missing")
    try:
        parts = json.loads(index.read_text())
        kind = parts.get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise UserError(f"{index} is damaged (no JSON): restore the folder") from None
    if kind != "StableDiffusionPipeline":
        raise UserError(f"{called} is a {kind}: only a StableDiffusionPipeline (1.x or 2.x) can be customised")
    for model, kind in CLASSES.items():
        if model not in parts:
            raise UserError(f"{called} is no Stable Diffusion: model_index.json names no {model}")
        named = parts[model][-1] if isinstance(parts[model], list) and parts[model] else parts[model]
        if named != kind:
            raise UserError(f"{called} has a {named} as its {model}: only a {kind} can be customised")
        if not (folder / model / "config.json").is_file():
            raise UserError(f"{called}/{model}/config.json is missing: restore the folder")
        if weights:
            check_weights(folder / model)
    words = ("tokenizer.json",) if (folder / "tokenizer" / "tokenizer.json").is_file() else ("vocab.json", "merges.txt")
    for file in (*(f"tokenizer/{name}" for name in words), "scheduler/scheduler_config.json"):
        if not (folder / file).is_file():
            raise UserError(f"{called}/{file} is missing: restore the folder")


def check_weights(folder: Path) -> None:
    """Check that a model's folder has weights, and that their files are complete."""
    found = next(filter(None, (weights_in(folder, variant) for variant in VARIANTS)), None)
    if not found:
        wanted = f"{WEIGHTS[folder.name]}.safetensors"
        raise UserError(f"{folder} holds no .safetensors weights ({wanted}): pickled weights are not read")
    for file in found:
        if file.suffix == ".safetensors":
            keys_of(file)


def check_file(file: Path) -> set[str]:
    """Check that a file is a complete Stable Diffusion 1.x or 2.x; returns the names of its tensors."""
    keys = keys_of(file)
    if any("lora_" in key or ".lora" in key for key in keys):
        raise UserError(f"{file} is a LoRA, not a model: give the model that it belongs to")
    if any(key.startswith("conditioner.") for key in keys):
        raise UserError(f"{file} is of Stable Diffusion XL: only 1.x and 2.x can be customised")
    missing = [part for part, either in PARTS.items() if not keys.intersection(either)]
    if missing:
        raise UserError(f"{file} is no whole Stable Diffusion 1.x or 2.x checkpoint: no {', no '.join(missing)} in it")
    return keys


def keys_of(file: Path) -> set[str]:
    """Names of the tensors in a safetensors file. Raises UserError if it is damaged or incomplete."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return set(opened.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or not whole ({first_line(error)}): fetch it again") from None


def check_keys(folder: Path, loading_info: dict) -> None:
    """Check that weights and configuration match; `from_pretrained`, which returns loading_info, only warns."""
    refuse_missing(folder, loading_info["missing_keys"])
    wrong = [key for key, *_ in loading_info["mismatched_keys"]]
    if wrong:
        raise UserError(f"{folder} holds {some(wrong)} in another shape than its config.json says: restore the folder")
    extra = [key for key in loading_info["unexpected_keys"] if not key.endswith(UNUSED)]
    if extra:
        raise UserError(f"{folder} holds {some(extra)}, which its config.json knows nothing of: restore the folder")


def refuse_missing(where: Path, missing) -> None:
    if missing:
        raise UserError(f"{where} lacks {some(missing)}: no weight may be left to chance, fetch it again")


def some(keys) -> str:
    return min(keys) if len(keys) == 1 else f"{min(keys)} and {len(keys) - 1} more weights"


def check_fit(pipe, name: str) -> None:
    """Check that a pipeline's models fit together and that its U-Net takes nothing but a prompt."""
    unet, vae, text = pipe.unet.config, pipe.vae.config, pipe.text_encoder
    rows = text.get_input_embeddings().num_embeddings
    positions, most = text.config.max_position_embeddings, pipe.tokenizer.model_max_length
    predicts, models = pipe.scheduler.config.get("prediction_type", "epsilon"), (pipe.unet, pipe.vae, text)
    for wrong, why in (
        (unet.in_channels != vae.latent_channels, f"U-Net reads {unet.in_channels} channels, as for inpainting"),
        (unet.out_channels != unet.in_channels, f"U-Net writes {unet.out_channels} channels and reads other ones"),
        (not isinstance(unet.sample_size, int), f"U-Net is of no one size, but {unet.sample_size}"),
        (unet.class_embed_type or unet.addition_embed_type or unet.num_class_embeds, "U-Net wants more than a prompt"),
        (unet.cross_attention_dim != text.config.hidden_size, "U-Net reads other words than its text encoder writes"),
        (len(pipe.tokenizer) > rows, f"tokenizer has {len(pipe.tokenizer)} words, its text encoder {rows}"),
        (most > positions, f"tokenizer_config.json says no model_max_length, or more than the {positions} positions"),
        (predicts not in PREDICTS, f"scheduler predicts {predicts}, and not {' or '.join(PREDICTS)}"),
        (not all(finite(model) for model in models), "weights are not all finite numbers"),
    ):
        if wrong:
            raise UserError(f"{name} cannot be customised: its {why}")


def finite(model) -> bool:
    return all(weight.isfinite().all() for weight in model.state_dict().values() if weight.is_floating_point())
