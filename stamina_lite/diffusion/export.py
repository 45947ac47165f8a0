"""Exports of a run for other tools. Every export is verified by loading it with stock code.

`diffusers`: a folder for `StableDiffusionPipeline.from_pretrained`. `lora`: a file for `load_lora_weights`, ComfyUI and
A1111. `tokens`: a file for each token, for `load_textual_inversion` or folders of embeddings.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from ..core.layers import layers_of
from ..errors import UserError
from ..runs.files import load_task, new_folder, read_json, write_json, write_tensors
from ..runs.verified import TOLERANCE, Verified, check_difference
from .captions import PROMPT
from .export_check import answers, compare, to_fp32
from .history import save_past
from .learner import ContinualLearner
from .model import CROSS_ATTENTION

LORA = "pytorch_lora_weights.safetensors"  # the name that load_lora_weights looks for in a folder


@dataclass(frozen=True)
class Options:
    """How something is exported.

    Attributes:
        rank: of a LoRA; None takes the rank of the update, with which the LoRA is exact.
        concept: export this concept alone; None exports all.
        dtype: of what is written; None keeps fp32 updates and tokens, and the pipeline's own precision.
    """

    rank: int | None = None
    concept: str | None = None
    dtype: torch.dtype | None = None


def export(
    learner: ContinualLearner, kind: str, out: Path | str, base: Callable, rank: int | None = None,
    concept: str | None = None, dtype: torch.dtype | None = None,
) -> Verified:  # fmt: skip
    """Export what a learner has learned to a new folder, which is created only after stock code has loaded the export.

    Args:
        kind: "diffusers", "lora" or "tokens".
        out: the folder, new or empty.
        base: returns a new pipeline of the run's base, into which the LoRA or the tokens are loaded.
        rank: of the LoRA; by default the rank of the update, with which the LoRA is exact.
        concept: the name of one concept. Its LoRA is the update ΔW_t of its own task, without those of other tasks, and
            its token is written too.
        dtype: of the tensors in the files; by default fp32, and in a pipeline's folder the precision of the run. A
            pipeline's text encoder is always fp32, see `save_in_fp32`.

    Raises:
        UserError: there is nothing to export in this way, the folder exists or cannot be written, or an option is for
            another kind.
        RuntimeError: the model that stock code loads differs from the exported one.
    """
    if kind not in KINDS:
        raise UserError(f"unknown export {kind}: choose {', '.join(KINDS)}")
    if rank is not None and (kind != "lora" or rank < 1):
        raise UserError("a rank, from 1, is for --to lora only: leave it out")
    if not learner.records:
        raise UserError("this run has learned nothing yet: there is nothing to export")
    names = [record["concept"] for record in learner.records]
    if concept is not None and (kind == "diffusers" or learner.method.joint):
        raise UserError("one concept is exported by --to lora or --to tokens, of a method that learns one at a time")
    if concept is not None and concept not in names:
        raise UserError(f"this run has not learned {concept}: choose {', '.join(names)}")
    if concept is None and learner.method.separate_models and kind != "tokens":
        raise UserError(f"{learner.method.name} keeps a model a concept, not one of all: choose one with --concept")
    if concept is not None and kind == "lora" and learner.home is None:
        raise UserError("the update of one concept is read from the run's folder: give the learner an out")
    with new_folder(Path(out)) as temporary:
        return KINDS[kind](learner, temporary, base, Options(rank, concept, dtype))


def to_diffusers(learner: ContinualLearner, folder: Path, base: Callable, options: Options) -> Verified:
    """Write the folded pipeline as a diffusers folder, with a model card and the history for a later run."""
    from diffusers import StableDiffusionPipeline

    pipe = copy.deepcopy(learner.pipe).to(options.dtype) if options.dtype else learner.pipe
    pipe.save_pretrained(folder, safe_serialization=True)
    write_for_transformers_4(pipe, folder)
    clean_metadata(folder)
    (folder / "README.md").write_text(card(learner), encoding="utf-8")
    save_past(folder, learner.model)
    stock = StableDiffusionPipeline.from_pretrained(folder, dtype=pipe.unet.dtype, use_safetensors=True)
    pipes = {"ours": pipe, "stock": stock.to(learner.model.device), "base": base()}
    models = {name: to_fp32(pipe) for name, pipe in pipes.items()}
    return compare(models, token_prompts(learner), f"{len(learner.model.token_ids)} tokens")


def to_lora(learner: ContinualLearner, folder: Path, base: Callable, options: Options) -> Verified:
    """Write the update of every weight, since the base or by one concept's task, as a LoRA file.

    Every update is up @ down, zero-padded to one common rank, with alpha = rank, which is a scale of 1.
    """
    if learner.method.full_finetuning:
        raise UserError(f"{learner.method.name} changes every weight, which no LoRA holds: export --to diffusers")
    base_model = to_fp32(base())
    base_weights = {layer.name: layer.current for layer in layers_of(base_model.unet, CROSS_ATTENTION)}
    before, after = base_weights, {layer.name: layer.current for layer in learner.model.layers}
    if options.concept:
        before, after = around_task(learner, options.concept, base_weights)
    updates = {name: after[name] - before[name] for name in after if not torch.equal(after[name], before[name])}
    if not updates:
        raise UserError(f"{learner.method.name} has changed no weights: export its tokens, --to tokens")
    dtype = options.dtype or torch.float32
    factors = {}
    for name, update in updates.items():
        up, down = factorise(update, options.rank)
        factors[name] = up.to(dtype), down.to(dtype)
    common_rank = max(len(down) for _, down in factors.values())
    tensors = {}
    for name, (up, down) in factors.items():
        padding = common_rank - len(down)
        key = lora_key(name)
        tensors[f"{key}.lora_up.weight"] = torch.nn.functional.pad(up, (0, padding))
        tensors[f"{key}.lora_down.weight"] = torch.nn.functional.pad(down, (0, 0, 0, padding))
        tensors[f"{key}.alpha"] = torch.tensor(float(common_rank))
    write_tensors(folder / LORA, tensors, {"ss_network_dim": str(common_rank)})
    products = {name: up.float() @ down.float() for name, (up, down) in factors.items()}
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
    if options.concept:
        to_tokens(learner, folder, base, options)
    prompts, ours = token_prompts(learner), to_fp32(learner.pipe, learner.model.layers)
    hidden_states = answers(ours, prompts)[0]  # ours for all models, since a LoRA file contains no tokens
    exact = options == Options()
    if not exact:  # verify the file against the base plus the update that was written
        expected = to_fp32(base())
        for layer in layers_of(expected.unet, CROSS_ATTENTION):
            layer.restore(base_weights[layer.name] + products.get(layer.name, 0))
        found = compare({"ours": expected, "stock": to_fp32(stock), "base": base_model}, prompts, loaded, hidden_states)
        if options.concept:
            return found
    tolerance = TOLERANCE if exact else float("inf")
    models = {"ours": ours, "stock": to_fp32(stock), "base": base_model}
    return compare(models, prompts, loaded, hidden_states, tolerance)


def around_task(learner: ContinualLearner, concept: str, base_weights: dict[str, Tensor]) -> tuple[dict, dict]:
    """The adapted weights before and after a concept's task, layer name -> weight."""
    task = [record["concept"] for record in learner.records].index(concept) + 1

    def stored(t: int) -> dict[str, Tensor]:
        tensors, _ = load_task(Path(learner.home or "") / "tasks" / f"{t:03d}")
        return {name: tensors[f"weight.{name}"].to(weight) for name, weight in base_weights.items()}

    alone = task == 1 or learner.method.separate_models
    return base_weights if alone else stored(task - 1), stored(task)


def to_tokens(learner: ContinualLearner, folder: Path, base: Callable, options: Options) -> Verified:
    """Write a file for each token that the base does not have: {token: its row of the embedding table}."""
    table, stock = learner.model.embedding.weight.detach(), base()
    vocabulary, dtype = stock.tokenizer.get_vocab(), options.dtype or torch.float32
    custom = {token: index for token, index in learner.model.token_ids.items() if token not in vocabulary}
    if options.concept:
        custom = {token: index for token, index in custom.items() if token == f"<{options.concept}>"}
    for token, index in custom.items():
        file = f"{token.strip('<>')}.safetensors"
        write_tensors(folder / file, {token: table[index].to(dtype)})
        stock.load_textual_inversion(folder, weight_name=file)
    stock_table = stock.text_encoder.get_input_embeddings().weight.detach()
    rows = stock_table[stock.tokenizer.convert_tokens_to_ids([*custom])]
    difference = (rows - table[[*custom.values()]].to(dtype).to(rows)).abs().max().item()
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
        tensors = load(file.read_bytes())  # load_file would map the file, which Windows then lets nobody write
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
