"""Checks of a base model before and after it is loaded. Each raises UserError with a message of one line."""

import json
from pathlib import Path

from ..errors import UserError, first_line

CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}  # file stems
VARIANTS = (None, "fp16")  # of the weights; the first one that a model has is loaded
UNUSED_KEYS = ("position_ids", "text_projection.weight")  # in some text encoders' files; CLIPTextModel ignores them
PREDICTION_TYPES = ("epsilon", "v_prediction")
PARTS = {  # part of a single file in the original layout -> keys; a file that has the part has one of them
    "U-Net": ("model.diffusion_model.input_blocks.0.0.weight",),
    "VAE": ("first_stage_model.encoder.conv_in.weight",),
    "text encoder": (
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
        "cond_stage_model.model.token_embedding.weight",  # OpenCLIP's, of 2.x
    ),
}


def weight_files(model: str, variant: str | None) -> list[str]:
    """Glob patterns of the files of a model's weights: a single file, or shards and their index."""
    stem, infix = WEIGHTS[model], f".{variant}" if variant else ""
    return [f"{stem}{infix}.safetensors", f"{stem}{infix}-*.safetensors", f"{stem}.safetensors.index{infix}.json"]


def weights_in(folder: Path, variant: str | None) -> list[Path]:
    files: list[Path] = []
    for pattern in weight_files(folder.name, variant):
        files += folder.glob(pattern)
    return files


def check_folder(folder: Path, weights: bool = True, name: str | None = None) -> None:
    """Check that a folder has every file of a StableDiffusionPipeline.

    Args:
        weights: also check the weight files of its models.
        name: the base's name in error messages; by default the folder.
    """
    index, name = folder / "model_index.json", name or str(folder)
    if not index.is_file():
        raise UserError(f"{name} is no diffusers folder: model_index.json is missing")
    try:
        components = json.loads(index.read_text(encoding="utf-8"))
        pipeline_class = components.get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise UserError(f"{index} is damaged (no JSON): restore the folder") from None
    if pipeline_class != "StableDiffusionPipeline":
        raise UserError(f"{name} is a {pipeline_class}: only a StableDiffusionPipeline (1.x or 2.x) can be customised")
    for model, expected in CLASSES.items():
        if model not in components:
            raise UserError(f"{name} is no Stable Diffusion: model_index.json names no {model}")
        entry = components[model]  # [library, class]
        model_class = entry[-1] if isinstance(entry, list) and entry else entry
        if model_class != expected:
            raise UserError(f"{name} has a {model_class} as its {model}: only a {expected} can be customised")
        if not (folder / model / "config.json").is_file():
            raise UserError(f"{name}/{model}/config.json is missing: restore the folder")
        if weights:
            check_weights(folder / model)
    fast = (folder / "tokenizer" / "tokenizer.json").is_file()
    vocabulary = ["tokenizer/tokenizer.json"] if fast else ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    for file in (*vocabulary, "scheduler/scheduler_config.json"):
        if not (folder / file).is_file():
            raise UserError(f"{name}/{file} is missing: restore the folder")


def check_weights(folder: Path) -> None:
    """Check that a model's folder has weights, and that their files are complete."""
    files = next(filter(None, (weights_in(folder, variant) for variant in VARIANTS)), None)
    if not files:
        expected = f"{WEIGHTS[folder.name]}.safetensors"
        raise UserError(f"{folder} holds no .safetensors weights ({expected}): pickled weights are not read")
    for file in files:
        if file.suffix == ".safetensors":
            read_keys(file)


def check_file(file: Path) -> set[str]:
    """Check that a file is a complete Stable Diffusion 1.x or 2.x checkpoint; returns the names of its tensors."""
    keys = read_keys(file)
    if any("lora_" in key or ".lora" in key for key in keys):
        raise UserError(f"{file} is a LoRA, not a model: give the model that it belongs to")
    if any(key.startswith("conditioner.") for key in keys):
        raise UserError(f"{file} is of Stable Diffusion XL: only 1.x and 2.x can be customised")
    missing = [part for part, alternatives in PARTS.items() if not keys.intersection(alternatives)]
    if missing:
        raise UserError(f"{file} is no whole Stable Diffusion 1.x or 2.x checkpoint: no {', no '.join(missing)} in it")
    return keys


def read_keys(file: Path) -> set[str]:
    """Read the names of the tensors in a safetensors file. Raises UserError if it is damaged or incomplete."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as reader:
            return set(reader.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or not whole ({first_line(error)}): fetch it again") from None


def check_keys(folder: Path, loading_info: dict) -> None:
    """Check that weights and configuration match, for which `from_pretrained` only warns.

    Args:
        loading_info: what `from_pretrained` returns with output_loading_info=True.
    """
    refuse_missing(folder, loading_info["missing_keys"])
    mismatched = [key for key, *_ in loading_info["mismatched_keys"]]
    if mismatched:
        raise UserError(
            f"{folder} holds {summary(mismatched)} in another shape than its config.json says: restore the folder"
        )
    unexpected = [key for key in loading_info["unexpected_keys"] if not key.endswith(UNUSED_KEYS)]
    if unexpected:
        raise UserError(
            f"{folder} holds {summary(unexpected)}, which its config.json knows nothing of: restore the folder"
        )


def refuse_missing(source: Path, missing_keys) -> None:
    """Raise UserError if keys are missing: their weights would be initialised at random."""
    if missing_keys:
        raise UserError(f"{source} lacks {summary(missing_keys)}: no weight may be left to chance, fetch it again")


def summary(keys) -> str:
    """The first key in alphabetical order, and the number of the others."""
    return min(keys) if len(keys) == 1 else f"{min(keys)} and {len(keys) - 1} more weights"


def check_fit(pipe, name: str) -> None:
    """Check that a pipeline's models fit together and that its U-Net is conditioned on a prompt alone."""
    unet, vae, text_encoder = pipe.unet.config, pipe.vae.config, pipe.text_encoder
    embeddings = text_encoder.get_input_embeddings().num_embeddings
    positions, max_length = text_encoder.config.max_position_embeddings, pipe.tokenizer.model_max_length
    prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
    models = (pipe.unet, pipe.vae, text_encoder)
    more_inputs = unet.class_embed_type or unet.addition_embed_type or unet.num_class_embeds
    other_width = unet.cross_attention_dim != text_encoder.config.hidden_size
    for failed, reason in (
        (unet.in_channels != vae.latent_channels, f"U-Net reads {unet.in_channels} channels, as for inpainting"),
        (unet.out_channels != unet.in_channels, f"U-Net writes {unet.out_channels} channels and reads other ones"),
        (not isinstance(unet.sample_size, int), f"U-Net is of no one size, but {unet.sample_size}"),
        (more_inputs, "U-Net wants more than a prompt"),
        (other_width, "U-Net reads other words than its text encoder writes"),
        (len(pipe.tokenizer) > embeddings, f"tokenizer has {len(pipe.tokenizer)} words, its text encoder {embeddings}"),
        (
            max_length > positions,
            f"tokenizer_config.json says no model_max_length, or more than the {positions} positions",
        ),
        (
            prediction not in PREDICTION_TYPES,
            f"scheduler predicts {prediction}, and not {' or '.join(PREDICTION_TYPES)}",
        ),
        (not all(all_finite(model) for model in models), "weights are not all finite numbers"),
    ):
        if failed:
            raise UserError(f"{name} cannot be customised: its {reason}")


def all_finite(model) -> bool:
    return all(weight.isfinite().all() for weight in model.state_dict().values() if weight.is_floating_point())
