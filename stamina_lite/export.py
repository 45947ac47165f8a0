"""What a run has learned, in files that other tools load; every file is read back by stock code before it is kept.

`diffusers`: a folder for `StableDiffusionPipeline.from_pretrained`. `lora`: one file for `load_lora_weights`, whose
keys ComfyUI and A1111 know too. `tokens`: a file a token for `load_textual_inversion`, or their folders of embeddings.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .adapters import Layer
from .data import UserError
from .drawing import seeded
from .past import save_past
from .pictures import PROMPT
from .sequence import ContinualLearner

LORA = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights looks for in a folder
TOLERANCE = 1e-3  # of the effect: how far stock code may be from our model, in fp32, before an export is refused


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
    if learner.method.alone and kind != "tokens":
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
    (folder / "README.md").write_text(card(learner), encoding="utf-8")
    save_past(folder, learner.model)
    stock = StableDiffusionPipeline.from_pretrained(folder, dtype=learner.pipe.unet.dtype, use_safetensors=True)
    return compare(learner, stock.to(learner.model.device), base(), f"{len(learner.model.custom)} tokens")


def to_lora(learner: ContinualLearner, folder: Path, base: Callable, rank: int | None) -> Verified:
    """Σ_t ΔW_t of every layer as up @ down, of one rank and alpha = rank, so that every loader scales it by 1."""
    layers = [layer for layer in learner.model.layers if layer.past.any()]
    if not layers:
        raise UserError(f"{learner.method.name} has changed no weights: export its tokens, --to tokens")
    if learner.method.everywhere:
        raise UserError(f"{learner.method.name} changes every weight, which no LoRA holds: export --to diffusers")
    factors = {layer.name: factorise(layer, rank) for layer in layers}
    widest = max(len(down) for _, down in factors.values())
    tensors = {}
    for name, (up, down) in factors.items():
        missing = widest - len(down)
        key = lora_key(name)
        tensors[f"{key}.lora_up.weight"] = torch.nn.functional.pad(up, (0, missing))
        tensors[f"{key}.lora_down.weight"] = torch.nn.functional.pad(down, (0, 0, 0, missing))
        tensors[f"{key}.alpha"] = torch.tensor(float(widest))
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / LORA, {"ss_network_dim": str(widest)})
    whole = sum(layer.past.square().sum().item() for layer in layers)
    told = (up @ down for up, down in factors.values())
    left = sum((layer.past - kept).square().sum().item() for layer, kept in zip(layers, told, strict=True))
    stock = base()
    load_lora(stock, folder)
    loaded = sum(hasattr(module, "lora_A") for module in stock.unet.modules())
    if loaded != len(layers):
        raise RuntimeError(f"load_lora_weights loaded {loaded} of {len(layers)} layers")
    said = f"loaded {loaded} of {len(layers)} layers at rank {widest}"
    said += f", {100 * (left / whole) ** 0.5:.2g} % of the update left out"
    return compare(learner, stock, base(), said, tolerance=None if rank is None else float("inf"), words=False)


def to_tokens(learner: ContinualLearner, folder: Path, base: Callable, rank: None) -> Verified:
    """A file a token, its row under its name."""
    table, custom = learner.model.table.weight.detach(), learner.model.custom
    stock = base()
    for token, index in custom.items():
        file = f"{token.strip('<>')}.safetensors"
        save_file({token: table[index].float().cpu().contiguous()}, folder / file)
        stock.load_textual_inversion(folder, weight_name=file)
    read = stock.text_encoder.get_input_embeddings().weight.detach()
    rows = read[stock.tokenizer.convert_tokens_to_ids([*custom])]
    unknown = table[stock.tokenizer.unk_token_id]  # what a base that lacks the token looks up
    gaps = ((rows - other).abs().max().item() for other in (table[[*custom.values()]], unknown))
    return checked(Verified(f"loaded {len(custom)} of {len(custom)} tokens", *gaps), tolerance=0.0)


KINDS: dict[str, Callable[..., Verified]] = {"diffusers": to_diffusers, "lora": to_lora, "tokens": to_tokens}


def factorise(layer: Layer, rank: int | None) -> tuple[Tensor, Tensor]:
    """up (D1, r) @ down (r, D2): the nearest matrix of that rank to the whole update; exact without a rank, fp32."""
    u, sizes, v = torch.linalg.svd(layer.past.double(), full_matrices=False)
    kept = rank or max(1, int((sizes > 1e-7 * sizes[0]).sum()))
    share = sizes[:kept].sqrt()
    return (u[:, :kept] * share).float(), (share[:, None] * v[:kept]).float()


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


@torch.no_grad()
def answers(pipe, prompts: list[str], words: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a pipeline's text encoder makes of prompts, and its U-Net of them (or of `words`) and of fixed noise."""
    if words is None:
        tokenizer = pipe.tokenizer
        ids = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        words = pipe.text_encoder(ids.to(pipe.device))[0]
    draw, unet = seeded(0, 7), pipe.unet
    side = min(unet.config.sample_size, 16)  # enough to see every layer, and quick at any size
    noise = torch.randn(1, unet.config.in_channels, side, side, generator=draw).to(words)
    drawn = [unet(noise, torch.tensor([500], device=noise.device), row[None]).sample.float() for row in words]
    return words.float(), torch.cat(drawn)


def compare(learner, stock, base, loaded: str, tolerance: float | None = None, words: bool = True) -> Verified:
    """Stock pipeline against ours and against the base: the U-Net on every token's prompt, the text encoder if `words`.

    Without `words` all U-Nets are given the words of our text encoder, as a LoRA holds no tokens.
    """
    prompts = [PROMPT.format(token) for token in learner.model.custom]
    told, ours = answers(learner.pipe, prompts)
    given = None if words else told
    read, theirs = answers(stock, prompts, given)
    difference = max((theirs - ours).abs().max().item(), (read - told).abs().max().item())
    effect = (answers(base, prompts, given)[1] - ours).abs().max().item()
    if tolerance is None:
        tolerance = max(TOLERANCE, 100 * torch.finfo(learner.model.unet.dtype).eps)
    return checked(Verified(loaded, difference, effect), tolerance)


def checked(verified: Verified, tolerance: float) -> Verified:
    """Refuse an export that stock code reads as another model than ours, or as the base."""
    if not verified.difference <= tolerance * verified.effect:
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
            "The safety checker is not in it. Show people who agreed to it only, and mark what is generated.",
            "",
        ]
    )
