"""What an exported pipeline has learned before, in a file of its folder: a later run goes on from it.

L_forget needs Σ_t ΔW_t, and tokens must be known as learned ones. The pipeline itself contains neither.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import UserError
from ..runs.files import write_tensors
from ..runs.state import state_tensors

PAST = "past.safetensors"


def save_past(folder: Path, model) -> None:
    """Store a `TextToImage`'s weights before the first task, its methods' memory, and its tokens."""
    tensors = {k: v for k, v in state_tensors(model.layers).items() if k.startswith("memory.")}
    tensors |= {f"start.{layer.name}": layer.start for layer in model.layers if layer.past.any()}
    write_tensors(folder / PAST, tensors, {"tokens": json.dumps([*model.custom])})


def take_up(model) -> None:
    """Load the history of the folder that a model was loaded from, if there is one.

    Raises:
        UserError: the file is damaged, or belongs to another model.
    """
    file = Path(str(model.pipe.name_or_path)) / PAST
    if not file.is_file():
        return
    try:
        with safe_open(file, "pt") as opened:
            known = [str(token) for token in json.loads(opened.metadata()["tokens"])]
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("not finite")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{file} is damaged: restore it, or delete it to begin without a past") from None
    layers = {layer.name: layer for layer in model.layers}
    vocabulary = model.pipe.tokenizer.get_vocab()
    for token in known:
        if token not in vocabulary:
            raise UserError(f"{file} is of another model ({token} is not in its tokenizer): restore it, or delete it")
        model.custom[token] = vocabulary[token]
    model.words -= len(known)
    model.before = len(known)
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        what, _, name = name.partition(".") if kind == "memory" else ("", "", name)
        if name not in layers:
            continue
        layer = layers[name]
        if kind == "memory":
            layer.memory[what] = tensor.to(layer.start.device)
        elif tensor.shape != layer.start.shape:
            raise UserError(f"{file} is of another model ({name} has another shape): restore it, or delete it")
        else:
            layer.restart(tensor)
