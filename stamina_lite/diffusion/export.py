"""What a run has learned, in files that other tools load; every file is read back by stock code before it is kept.

`diffusers`: a folder for `StableDiffusionPipeline.from_pretrained`. `lora`: one file for `load_lora_weights`, whose
keys ComfyUI and A1111 know too. `tokens`: a file a token for `load_textual_inversion`, or their folders of embeddings.
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
from ..core.seeds import seeded
from ..errors import UserError
from ..runs.files import read_json, write_json, write_tensors
from .captions import PROMPT
from .history import save_past
from .learner import ContinualLearner
from .model import CROSS_ATTENTION

LORA = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights looks for in a folder
TOLERANCE = 1e-3  # of the effect: how far stock code may be from our model before an export is refused
ROUNDING = 1e-5  # of the size of what is compared: what fp32 cannot tell apart


@dataclass(frozen=True)
class Verified:
    """What stock code made of an export. difference: largest to our model; effect: largest of ours to the base."""

    loaded: str
    difference: float
    effect: float

    def __str__(self) -> str:
        return f"verified: {self.loaded}, max difference {self.difference:.1e} (base: {self.effect:.1e})"


def export(learner: ContinualLearner, kind: str, out: Path | str, base: Callable, rank: int | None = None) -> Verified:
    """Write what a learner knows to the new folder `out`; it appears only when stock code has read it back.

    kind: "diffusers", "lora" or "tokens". base(): the pipeline the run began with, anew, that LoRA and tokens are
    loaded into. rank: of the LoRA; without it the update is exact. Raises UserError where there is nothing to export
    so, the folder cannot be written, or a rank is asked of another kind; RuntimeError where stock code reads another
    model.
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
    """The folded pipeline as an ordinary folder, with a model card, and what a later run needs to go on from it."""
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
    """What was learned since the base, of every layer as up @ down, of one rank and alpha = rank, so that every loader
    scales it by 1.
    """
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
    """A file a token that the base does not know, its row under its name."""
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
    """up (D1, r) @ down (r, D2): the nearest matrix of that rank to a change (D1, D2); exact without a rank, fp32."""
    u, sizes, v = torch.linalg.svd(change.double(), full_matrices=False)
    kept = rank or max(1, int((sizes > 1e-7 * sizes[0]).sum()))
    share = sizes[:kept].sqrt()
    return (u[:, :kept] * share).float(), (share[:, None] * v[:kept]).float()


def for_older_transformers(pipe, folder: Path) -> None:
    """What version 5 leaves out, and version 4 cannot do without: the vocabulary as two files, and the text encoder's
    weights under the names that all published models have.
    """
    pipe.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))  # vocab.json and merges.txt
    write_json(folder / "tokenizer" / "added_tokens.json", pipe.tokenizer.get_added_vocab())
    for file in (folder / "text_encoder").glob("*.safetensors"):
        tensors = load_file(file)
        if not any(name.startswith("text_model.") for name in tensors):
            write_tensors(file, {f"text_model.{name}": tensor for name, tensor in tensors.items()}, {"format": "pt"})


def without_paths(folder: Path) -> None:
    """Take out where on this machine the base lay, and let whom may read other files read the weights."""
    for file in folder.rglob("*.json"):
        content = read_json(file)
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_json(file, content)
    for file in folder.rglob("*.safetensors"):
        shutil.copymode(folder / "model_index.json", file)


def lora_key(layer: str) -> str:
    """A U-Net's layer as kohya's scripts name it, and after them ComfyUI, A1111 and diffusers."""
    return f"lora_unet_{layer.replace('.', '_')}"


def load_lora(pipe, folder: Path) -> None:
    """Raises UserError where peft, which diffusers loads LoRA files by, is not installed."""
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
    """The parts of a pipeline that say what it draws, in fp32: in half precision every difference would be rounding."""

    unet: Any
    text_encoder: Any
    tokenizer: Any


def exact(pipe, layers: Iterable[AdaptedWeight] = ()) -> Exact:
    """A pipeline in fp32, itself where it is so; with the weights of these layers as they are known in fp32."""

    def single(model):
        return model if model.dtype == torch.float32 else copy.deepcopy(model).float()

    unet = single(pipe.unet)
    for layer in layers if unet is not pipe.unet else ():
        unet.get_submodule(layer.name).weight.data.copy_(layer.current)
    return Exact(unet, single(pipe.text_encoder), pipe.tokenizer)


@torch.no_grad()
def answers(pipe, prompts: list[str], words: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a pipeline's text encoder makes of prompts, and its U-Net of them (or of `words`) and of fixed noise."""
    unet, text = pipe.unet, pipe.text_encoder
    if words is None:
        ids = pipe.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        words = text(ids.to(text.device))[0]
    side = min(unet.config.sample_size, 16)  # enough to see every layer, and quick at any size
    noise = torch.randn(1, unet.config.in_channels, side, side, generator=seeded(0, 7)).to(words)
    drawn = [unet(noise, torch.tensor([500], device=noise.device), row[None]).sample for row in words]
    return words, torch.cat(drawn)


def compare(
    models: dict[str, Exact], prompts: list[str], loaded: str, words: Tensor | None = None, tolerance: float = TOLERANCE
) -> Verified:
    """The stock model against ours and against the base: the U-Net on prompts, and the text encoder.

    With `words`, (n, positions, width), all U-Nets are given these, and text encoders do not count.
    """
    told, ours = answers(models["ours"], prompts, words)
    read, theirs = answers(models["stock"], prompts, words)
    difference = max((theirs - ours).abs().max().item(), (read - told).abs().max().item())
    effect = (answers(models["base"], prompts, words)[1] - ours).abs().max().item()
    return checked(Verified(loaded, difference, effect), tolerance, ours.abs().max().item())


def checked(verified: Verified, tolerance: float, size: float = 0.0) -> Verified:
    """Refuse an export that stock code reads as another model than ours, or as the base.

    size: of what was compared; differences of rounding count for nothing, however small the effect.
    """
    if not verified.difference <= max(tolerance * verified.effect, ROUNDING * size):
        raise RuntimeError(f"stock code reads another model than was exported: {verified}")
    return verified


def card(learner: ContinualLearner) -> str:
    """The README.md of an exported folder, as model hubs show it."""
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
