"""The history of an exported model, a file in its folder from which a later run continues.

L_forget needs the sum of all past updates, Σ_t ΔW_t, and custom tokens must be distinguished from the base vocabulary.
The pipeline's own files contain neither.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import UserError
from ..runs.files import write_tensors
from ..runs.state import state_tensors

PAST = "past.safetensors"


def save_past(folder: Path, model) -> None:
    """Save the weights before the first task, the method's memory and the custom tokens of a `TextToImage`."""
    tensors = {k: v for k, v in state_tensors(model.layers).items() if k.startswith("memory.")}
    tensors |= {f"start.{layer.name}": layer.start for layer in model.layers if layer.past.any()}
    write_tensors(folder / PAST, tensors, {"tokens": json.dumps([*model.token_ids])})


def load_past(model) -> None:
    """Load the history from the folder that a `TextToImage` was loaded from, if it has one.

    Raises:
        UserError: the file is damaged, or belongs to another model.
    """
    file = Path(str(model.pipe.name_or_path)) / PAST
    if not file.is_file():
        return
    try:
        with safe_open(file, "pt") as reader:
            tokens = [str(token) for token in json.loads(reader.metadata()["tokens"])]
            tensors = {key: reader.get_tensor(key) for key in reader.keys()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("not finite")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{file} is damaged: restore it, or delete it to begin without a past") from None
    layers = {layer.name: layer for layer in model.layers}
    vocabulary = model.pipe.tokenizer.get_vocab()
    for token in tokens:
        if token not in vocabulary:
            raise UserError(f"{file} is of another model ({token} is not in its tokenizer): restore it, or delete it")
        model.token_ids[token] = vocabulary[token]
    model.vocabulary_size -= len(tokens)
    model.n_past_tasks = len(tokens)
    for key, tensor in tensors.items():  # "start.LAYER" or "memory.ENTRY.LAYER"
        kind, _, name = key.partition(".")
        entry = ""
        if kind == "memory":
            entry, _, name = name.partition(".")
        if name not in layers:
            continue
        layer = layers[name]
        if kind == "memory":
            layer.memory[entry] = tensor.to(layer.start.device)
        elif tensor.shape != layer.start.shape:
            raise UserError(f"{file} is of another model ({name} has another shape): restore it, or delete it")
        else:
            layer.restart(tensor)
