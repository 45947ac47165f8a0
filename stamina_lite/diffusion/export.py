"""Exports of a run for other tools; every export is loaded with stock code before it is kept.

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
TOLERANCE = 1e-3  # largest difference between stock code and our model, as a share of the effect of learning
ROUNDING = 1e-5  # differences of fp32 rounding, as a share of the largest value


@dataclass(frozen=True)
class Verified:
    """An export as stock code loads it: its largest difference to our model, and ours to the base (effect)."""

    loaded: str
    difference: float
    effect: float

    def __str__(self) -> str:
        return f"verified: {self.loaded}, max difference {self.difference:.1e} (base: {self.effect:.1e})"


def export(learner: ContinualLearner, kind: str, out: Path | str, base: Callable, rank: int | None = None) -> Verified:
    """Export what a learner has learned to a new folder, which appears only after stock code has loaded it.

    Args:
        kind: "diffusers", "lora" or "tokens".
        base: returns a new pipeline of the run's base, which LoRA and tokens are loaded into.
        rank: of the LoRA; by default as high as the update's own, which is exact.

    Raises:
        UserError: there is nothing to export in this way, the folder exists or cannot be written, or a rank was given
            for another kind.
        RuntimeError: stock code loads another model than was exported.
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
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        verified = KINDS[kind](learner, part, base, rank)
        if out.exists():
            out.rmdir()
        part.replace(out)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {out} ({error}): make room, or choose another --out") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return verified


def to_diffusers(learner: ContinualLearner, folder: Path, base: Callable, rank: None) -> Verified:
    """The folded pipeline as a diffusers folder, with a model card and the history for a later run."""
    from diffusers import StableDiffusionPipeline

    learner.pipe.save_pretrained(folder, safe_serialization=True)
    for_older_transformers(learner.pipe, folder)
    without_paths(folder)
    (folder / "README.md").write_text(card(learner), encoding="utf-8")
    save_past(folder, learner.model)
    stock = StableDiffusionPipeline.from_pretrained(folder, dtype=learner.pipe.unet.dtype, use_safetensors=True)
    models = {"ours": learner.pipe, "stock": stock.to(learner.model.device), "base": base()}
    said = f"{len(learner.model.custom)} tokens"
    return compare({name: exact(pipe) for name, pipe in models.items()}, prompts_of(learner), said)


def to_lora(learner: ContinualLearner, folder: Path, base: Callable, rank: int | None) -> Verified:
    """The update of every weight since the base as up @ down, all of one rank, with alpha = rank: a scale of 1."""
    if learner.method.full_finetuning:
        raise UserError(f"{learner.method.name} changes every weight, which no LoRA holds: export --to diffusers")
    begun = exact(base())
    before = {layer.name: layer.current for layer in layers_of(begun.unet, CROSS_ATTENTION)}
    changes = {layer.name: layer.current - before[layer.name] for layer in learner.model.layers}
    changes = {name: change for name, change in changes.items() if change.any()}
    if not changes:
        raise UserError(f"{learner.method.name} has changed no weights: export its tokens, --to tokens")
    factors = {name: factorise(change, rank) for name, change in changes.items()}
    widest = max(len(down) for _, down in factors.values())
    tensors = {}
    for name, (up, down) in factors.items():
        missing = widest - len(down)
        key = lora_key(name)
        tensors[f"{key}.lora_up.weight"] = torch.nn.functional.pad(up, (0, missing))
        tensors[f"{key}.lora_down.weight"] = torch.nn.functional.pad(down, (0, 0, 0, missing))
        tensors[f"{key}.alpha"] = torch.tensor(float(widest))
    write_tensors(folder / LORA, tensors, {"ss_network_dim": str(widest)})
    kept = {name: up @ down for name, (up, down) in factors.items()}
    whole = sum(change.square().sum().item() for change in changes.values())
    left = sum((changes[name] - kept[name]).square().sum().item() for name in changes)
    stock = base()
    stock.unet.float()
    load_lora(stock, folder)
    loaded = sum(hasattr(module, "lora_A") for module in stock.unet.modules())
    if loaded != len(changes):
        raise RuntimeError(f"load_lora_weights loaded {loaded} of {len(changes)} layers")
    said = f"loaded {loaded} of {len(changes)} layers at rank {widest}"
    said += f", {100 * (left / whole) ** 0.5:.2g} % of the update left out"
    prompts, ours = prompts_of(learner), exact(learner.pipe, learner.model.layers)
    words = answers(ours, prompts)[0]  # a LoRA holds no tokens
    if rank is not None:  # what it should be is the base with the nearest update of that rank
        short = exact(base())
        for layer in layers_of(short.unet, CROSS_ATTENTION):
            layer.restore(before[layer.name] + kept.get(layer.name, 0))
        compare({"ours": short, "stock": exact(stock), "base": begun}, prompts, said, words)
    tolerance = TOLERANCE if rank is None else float("inf")
    return compare({"ours": ours, "stock": exact(stock), "base": begun}, prompts, said, words, tolerance)


def to_tokens(learner: ContinualLearner, folder: Path, base: Callable, rank: None) -> Verified:
    """A file for each token that the base does not have, with its row under its name."""
    table, stock = learner.model.table.weight.detach(), base()
    known = stock.tokenizer.get_vocab()
    custom = {token: index for token, index in learner.model.custom.items() if token not in known}
    for token, index in custom.items():
        file = f"{token.strip('<>')}.safetensors"
        write_tensors(folder / file, {token: table[index].float()})
        stock.load_textual_inversion(folder, weight_name=file)
    read = stock.text_encoder.get_input_embeddings().weight.detach()
    rows = read[stock.tokenizer.convert_tokens_to_ids([*custom])]
    unknown = table[stock.tokenizer.unk_token_id]  # what a base that lacks the token looks up
    gaps = ((rows - other).abs().max().item() for other in (table[[*custom.values()]], unknown))
    return checked(Verified(f"loaded {len(custom)} of {len(custom)} tokens", *gaps), tolerance=0.0)


KINDS: dict[str, Callable[..., Verified]] = {"diffusers": to_diffusers, "lora": to_lora, "tokens": to_tokens}


def factorise(change: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """The nearest matrix of a rank to a change (D1, D2), as up (D1, r) @ down (r, D2), fp32; None: exact."""
    u, sizes, v = torch.linalg.svd(change.double(), full_matrices=False)
    kept = rank or max(1, int((sizes > 1e-7 * sizes[0]).sum()))
    share = sizes[:kept].sqrt()
    return (u[:, :kept] * share).float(), (share[:, None] * v[:kept]).float()


def for_older_transformers(pipe, folder: Path) -> None:
    """Write what transformers 4 needs and transformers 5 leaves out: the vocabulary as two files, and the weights of
    the text encoder under the names of all published models.
    """
    pipe.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))  # vocab.json and merges.txt
    write_json(folder / "tokenizer" / "added_tokens.json", pipe.tokenizer.get_added_vocab())
    for file in (folder / "text_encoder").glob("*.safetensors"):
        tensors = load_file(file)
        if not any(name.startswith("text_model.") for name in tensors):
            write_tensors(file, {f"text_model.{name}": tensor for name, tensor in tensors.items()}, {"format": "pt"})


def without_paths(folder: Path) -> None:
    """Remove the base's path from all configurations, and give the weights the permissions of other files."""
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


def prompts_of(learner: ContinualLearner) -> list[str]:
    return [PROMPT.format(token) for token in learner.model.custom]


@dataclass(frozen=True)
class Exact:
    """The parts of a pipeline that are compared, in fp32: half precision would only show rounding."""

    unet: Any
    text_encoder: Any
    tokenizer: Any


def exact(pipe, layers: Iterable[AdaptedWeight] = ()) -> Exact:
    """A pipeline's parts in fp32, copied only if they are not; `layers` have their exact weights in fp32."""

    def single(model):
        return model if model.dtype == torch.float32 else copy.deepcopy(model).float()

    unet = single(pipe.unet)
    for layer in layers if unet is not pipe.unet else ():
        unet.get_submodule(layer.name).weight.data.copy_(layer.current)
    return Exact(unet, single(pipe.text_encoder), pipe.tokenizer)


@torch.no_grad()
def answers(pipe, prompts: list[str], words: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Outputs of the text encoder for prompts, and of the U-Net for them (or for `words`) and fixed noise."""
    unet, text = pipe.unet, pipe.text_encoder
    if words is None:
        ids = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        words = text(ids.to(text.device))[0]
    side = min(unet.config.sample_size, 16)  # enough to see every layer, and quick at any size
    noise = torch.randn(1, unet.config.in_channels, side, side, generator=seeded(0, Stream.EXPORT)).to(words)
    drawn = [unet(noise, torch.tensor([500], device=noise.device), row[None]).sample for row in words]
    return words, torch.cat(drawn)


def compare(
    models: dict[str, Exact], prompts: list[str], loaded: str, words: Tensor | None = None, tolerance: float = TOLERANCE
) -> Verified:
    """Compare the outputs of the stock model with ours, and ours with the base.

    Args:
        words: hidden states (n, positions, width) for all U-Nets; text encoders are then not compared.
    """
    our_states, ours = answers(models["ours"], prompts, words)
    stock_states, stock = answers(models["stock"], prompts, words)
    difference = max((stock - ours).abs().max().item(), (stock_states - our_states).abs().max().item())
    effect = (answers(models["base"], prompts, words)[1] - ours).abs().max().item()
    return checked(Verified(loaded, difference, effect), tolerance, ours.abs().max().item())


def checked(verified: Verified, tolerance: float, size: float = 0.0) -> Verified:
    """Raise RuntimeError if stock code loads another model than ours.

    size: the largest value that was compared; differences of rounding are ignored, however small the effect.
    """
    if not verified.difference <= max(tolerance * verified.effect, ROUNDING * size):
        raise RuntimeError(f"stock code reads another model than was exported: {verified}")
    return verified


def card(learner: ContinualLearner) -> str:
    """The model card of an exported folder."""
    names, about, guidance = [*learner.model.custom], learner.identity, learner.method.settings.guidance
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
