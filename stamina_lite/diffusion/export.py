"""Exports of a run for other tools. Every export is verified by loading it with stock code.

`diffusers`: a folder for `StableDiffusionPipeline.from_pretrained`. `lora`: a file for `load_lora_weights`, ComfyUI and
A1111. `tokens`: a file for each token, for `load_textual_inversion` or folders of embeddings.
"""

import copy
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..core.layers import AdaptedWeight, layers_of
from ..core.seeds import Stream, seeded
from ..errors import UserError
from ..runs.files import read_json, write_json, write_tensors
from .captions import PROMPT
from .history import save_past
from .learner import ContinualLearner
from .model import CROSS_ATTENTION

LORA = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights looks for in a folder
TOLERANCE = 1e-3  # largest allowed difference between stock code and our model, as a share of the effect of learning
ROUNDING = 1e-5  # allowed fp32 rounding error, as a share of the largest value


@dataclass(frozen=True)
class Verified:
    """The result of loading an export with stock code.

    Attributes:
        loaded: what was loaded, in words.
        difference: largest absolute difference between the outputs of stock code and of our model.
        effect: largest absolute difference between the outputs of our model and of the base.
    """

    loaded: str
    difference: float
    effect: float

    def __str__(self) -> str:
        return f"verified: {self.loaded}, max difference {self.difference:.1e} (base: {self.effect:.1e})"


def export(learner: ContinualLearner, kind: str, out: Path | str, base: Callable, rank: int | None = None) -> Verified:
    """Export what a learner has learned to a new folder, which is created only after stock code has loaded the export.

    Args:
        kind: "diffusers", "lora" or "tokens".
        out: the folder, new or empty.
        base: returns a new pipeline of the run's base, into which the LoRA or the tokens are loaded.
        rank: of the LoRA; by default the rank of the update, with which the LoRA is exact.

    Raises:
        UserError: there is nothing to export in this way, the folder exists or cannot be written, or a rank was given
            for another kind.
        RuntimeError: the model that stock code loads differs from the exported one.
    """
    if kind not in KINDS:
        raise UserError(f"unknown export {kind}: choose {', '.join(KINDS)}")
    if rank is not None and (kind != "lora" or rank < 1):
        raise UserError("a rank, from 1, is for --to lora only: leave it out")
    if not learner.records:
        raise UserError("this run has learned nothing yet: there is nothing to export")
    if learner.method.separate_models and kind != "tokens":
        raise UserError(
            f"{learner.method.name} keeps a model a concept, not one of all: export another run, or its tokens"
        )
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: choose another --out, or delete it")
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        verified = KINDS[kind](learner, temporary, base, rank)
        if out.exists():
            out.rmdir()
        temporary.replace(out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {out} ({error}): make room, or choose another --out") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return verified


def to_diffusers(learner: ContinualLearner, folder: Path, base: Callable, rank: None) -> Verified:
    """Write the folded pipeline as a diffusers folder, with a model card and the history for a later run."""
    from diffusers import StableDiffusionPipeline

    learner.pipe.save_pretrained(folder, safe_serialization=True)
    write_for_transformers_4(learner.pipe, folder)
    clean_metadata(folder)
    (folder / "README.md").write_text(card(learner), encoding="utf-8")
    save_past(folder, learner.model)
    stock = StableDiffusionPipeline.from_pretrained(folder, dtype=learner.pipe.unet.dtype, use_safetensors=True)
    pipes = {"ours": learner.pipe, "stock": stock.to(learner.model.device), "base": base()}
    models = {name: to_fp32(pipe) for name, pipe in pipes.items()}
    return compare(models, token_prompts(learner), f"{len(learner.model.token_ids)} tokens")


def to_lora(learner: ContinualLearner, folder: Path, base: Callable, rank: int | None) -> Verified:
    """Write the update of every weight since the base as a LoRA file.

    Every update is up @ down, zero-padded to one common rank, with alpha = rank, which is a scale of 1.
    """
    if learner.method.full_finetuning:
        raise UserError(f"{learner.method.name} changes every weight, which no LoRA holds: export --to diffusers")
    base_model = to_fp32(base())
    base_weights = {layer.name: layer.current for layer in layers_of(base_model.unet, CROSS_ATTENTION)}
    updates = {layer.name: layer.current - base_weights[layer.name] for layer in learner.model.layers}
    updates = {name: update for name, update in updates.items() if update.any()}
    if not updates:
        raise UserError(f"{learner.method.name} has changed no weights: export its tokens, --to tokens")
    factors = {name: factorise(update, rank) for name, update in updates.items()}
    common_rank = max(len(down) for _, down in factors.values())
    tensors = {}
    for name, (up, down) in factors.items():
        padding = common_rank - len(down)
        key = lora_key(name)
        tensors[f"{key}.lora_up.weight"] = torch.nn.functional.pad(up, (0, padding))
        tensors[f"{key}.lora_down.weight"] = torch.nn.functional.pad(down, (0, 0, 0, padding))
        tensors[f"{key}.alpha"] = torch.tensor(float(common_rank))
    write_tensors(folder / LORA, tensors, {"ss_network_dim": str(common_rank)})
    products = {name: up @ down for name, (up, down) in factors.items()}
    squared_norm = sum(update.square().sum().item() for update in updates.values())
    squared_error = sum((updates[name] - products[name]).square().sum().item() for name in updates)
    stock = base()
    stock.unet.float()
    load_lora(stock, folder)
    n_loaded = sum(hasattr(module, "lora_A") for module in stock.unet.modules())
    if n_loaded != len(updates):
        raise RuntimeError(f"load_lora_weights loaded {n_loaded} of {len(updates)} layers")
    loaded = f"loaded {n_loaded} of {len(updates)} layers at rank {common_rank}"
    loaded += f", {100 * (squared_error / squared_norm) ** 0.5:.2g} % of the update left out"
    prompts, ours = token_prompts(learner), to_fp32(learner.pipe, learner.model.layers)
    hidden_states = answers(ours, prompts)[0]  # ours for all models, since a LoRA file contains no tokens
    if rank is not None:  # verify the file against the base plus the nearest update of that rank
        expected = to_fp32(base())
        for layer in layers_of(expected.unet, CROSS_ATTENTION):
            layer.restore(base_weights[layer.name] + products.get(layer.name, 0))
        compare({"ours": expected, "stock": to_fp32(stock), "base": base_model}, prompts, loaded, hidden_states)
    tolerance = TOLERANCE if rank is None else float("inf")
    models = {"ours": ours, "stock": to_fp32(stock), "base": base_model}
    return compare(models, prompts, loaded, hidden_states, tolerance)


def to_tokens(learner: ContinualLearner, folder: Path, base: Callable, rank: None) -> Verified:
    """Write a file for each token that the base does not have: {token: its row of the embedding table}."""
    table, stock = learner.model.embedding.weight.detach(), base()
    vocabulary = stock.tokenizer.get_vocab()
    custom = {token: index for token, index in learner.model.token_ids.items() if token not in vocabulary}
    for token, index in custom.items():
        file = f"{token.strip('<>')}.safetensors"
        write_tensors(folder / file, {token: table[index].float()})
        stock.load_textual_inversion(folder, weight_name=file)
    stock_table = stock.text_encoder.get_input_embeddings().weight.detach()
    rows = stock_table[stock.tokenizer.convert_tokens_to_ids([*custom])]
    difference = (rows - table[[*custom.values()]]).abs().max().item()
    unknown = table[stock.tokenizer.unk_token_id]  # the row that a base without the token looks up
    effect = (rows - unknown).abs().max().item()
    verified = Verified(f"loaded {len(custom)} of {len(custom)} tokens", difference, effect)
    return check_difference(verified, tolerance=0.0)


KINDS: dict[str, Callable[..., Verified]] = {"diffusers": to_diffusers, "lora": to_lora, "tokens": to_tokens}


def factorise(change: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """Factorise an update by its truncated SVD, which is the nearest matrix of that rank.

    Args:
        change: the update ΔW, (D1, D2).
        rank: r; None takes the numerical rank of the update, which is exact.

    Returns:
        up (D1, r) and down (r, D2), fp32, with up @ down ≈ ΔW.
    """
    u, singular_values, v = torch.linalg.svd(change.double(), full_matrices=False)
    rank = rank or max(1, int((singular_values > 1e-7 * singular_values[0]).sum()))
    scale = singular_values[:rank].sqrt()
    return (u[:, :rank] * scale).float(), (scale[:, None] * v[:rank]).float()


def write_for_transformers_4(pipe, folder: Path) -> None:
    """Write what transformers 4 needs and transformers 5 no longer writes.

    These are the tokenizer's vocabulary as two files, and the text encoder's weights with the prefix "text_model.",
    which all published models have.
    """
    pipe.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))  # vocab.json and merges.txt
    write_json(folder / "tokenizer" / "added_tokens.json", pipe.tokenizer.get_added_vocab())
    for file in (folder / "text_encoder").glob("*.safetensors"):
        tensors = load_file(file)
        if not any(name.startswith("text_model.") for name in tensors):
            write_tensors(file, {f"text_model.{name}": tensor for name, tensor in tensors.items()}, {"format": "pt"})


def clean_metadata(folder: Path) -> None:
    """Remove the base's path from all configurations, and give weight files the permissions of the other files."""
    for file in folder.rglob("*.json"):
        content = read_json(file)
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_json(file, content)
    for file in folder.rglob("*.safetensors"):
        shutil.copymode(folder / "model_index.json", file)


def lora_key(layer: str) -> str:
    """The name of a U-Net's layer in kohya's format, which ComfyUI, A1111 and diffusers read."""
    return f"lora_unet_{layer.replace('.', '_')}"


def load_lora(pipe, folder: Path) -> None:
    """Load a LoRA with stock diffusers. Raises UserError if peft is not installed."""
    try:
        pipe.load_lora_weights(folder, weight_name=LORA)
    except ValueError as error:
        if "PEFT" not in str(error):
            raise
        raise UserError("a LoRA is verified by loading it, which needs peft: pip install peft") from None


def token_prompts(learner: ContinualLearner) -> list[str]:
    return [PROMPT.format(token) for token in learner.model.token_ids]


@dataclass(frozen=True)
class Components:
    """The components of a pipeline that are compared, in fp32: half precision would only show rounding errors."""

    unet: Any
    text_encoder: Any
    tokenizer: Any


def to_fp32(pipe, layers: Iterable[AdaptedWeight] = ()) -> Components:
    """Convert a pipeline's components to fp32; those that are fp32 already are not copied.

    Args:
        layers: adapted weights of the U-Net, whose fp32 values replace the rounded ones in the copy.
    """

    def convert(model):
        return model if model.dtype == torch.float32 else copy.deepcopy(model).float()

    unet = convert(pipe.unet)
    for layer in layers if unet is not pipe.unet else ():
        unet.get_submodule(layer.name).weight.data.copy_(layer.current)
    return Components(unet, convert(pipe.text_encoder), pipe.tokenizer)


@torch.no_grad()
def answers(pipe, prompts: list[str], words: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute outputs of the text encoder and of the U-Net for fixed noise.

    Args:
        pipe: a pipeline or `Components`.
        words: hidden states (n, positions, width) to use in place of the text encoder's outputs for the prompts.

    Returns:
        The hidden states (n, positions, width), and the U-Net's outputs (n, C, h, w).
    """
    unet, text_encoder = pipe.unet, pipe.text_encoder
    if words is None:
        ids = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        words = text_encoder(ids.to(text_encoder.device))[0]
    side = min(unet.config.sample_size, 16)  # large enough to reach every layer, and fast for any model
    noise = torch.randn(1, unet.config.in_channels, side, side, generator=seeded(0, Stream.EXPORT)).to(words)
    outputs = [unet(noise, torch.tensor([500], device=noise.device), row[None]).sample for row in words]
    return words, torch.cat(outputs)


def compare(
    models: dict[str, Components],
    prompts: list[str],
    loaded: str,
    hidden_states: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Verified:
    """Compare the outputs of the stock model with ours, and ours with the base.

    Args:
        models: "ours", "stock" and "base".
        loaded: what stock code has loaded, in words.
        hidden_states: (n, positions, width), given to all U-Nets; text encoders are then not compared.

    Raises:
        RuntimeError: the stock model differs from ours.
    """
    our_states, ours = answers(models["ours"], prompts, hidden_states)
    stock_states, stock = answers(models["stock"], prompts, hidden_states)
    difference = max((stock - ours).abs().max().item(), (stock_states - our_states).abs().max().item())
    effect = (answers(models["base"], prompts, hidden_states)[1] - ours).abs().max().item()
    return check_difference(Verified(loaded, difference, effect), tolerance, ours.abs().max().item())


def check_difference(verified: Verified, tolerance: float, largest: float = 0.0) -> Verified:
    """Return `verified`; raise RuntimeError if the difference between stock code and our model is too large.

    Args:
        tolerance: largest allowed difference, as a share of the effect.
        largest: the largest value that was compared; rounding errors of it are allowed, however small the effect.
    """
    if not verified.difference <= max(tolerance * verified.effect, ROUNDING * largest):
        raise RuntimeError(f"stock code reads another model than was exported: {verified}")
    return verified


def card(learner: ContinualLearner) -> str:
    """The model card of an exported folder."""
    names, about, guidance = [*learner.model.token_ids], learner.identity, learner.method.settings.guidance
    return "\n".join(
        [
            "---",
            "library_name: diffusers",
            "pipeline_tag: text-to-image",
            "tags: [stable-diffusion, stable-diffusion-diffusers, continual-learning]",
            "---",
            f"# {len(names)} concepts, learned one after another",
            "",
            f"By `{about['method']}` of stamina-lite, seed {about['seed']}, on a base of fingerprint {about['base']}.",
            f"Tokens: {', '.join(f'`{name}`' for name in names)}.",
            "",
            "```python",
            "from diffusers import StableDiffusionPipeline",
            "",
            'pipe = StableDiffusionPipeline.from_pretrained("this folder")',
            f'pipe("{PROMPT.format(names[-1])}", guidance_scale={guidance}).images[0]',
            "```",
            "",
            "Its scheduler is that of its training; stock pipelines take any other.",
            "The safety checker is not in it. Show people who agreed to it only, and mark what is generated.",
            "",
        ]
    )
