"""Vision Transformers: the embedded one, a folder, or a model of timm's hub."""

import warnings
from pathlib import Path

from safetensors import SafetensorError

from ..errors import UserError, UserNotice
from ..runs.devices import check_device
from ..runs.files import read_json

EMBEDDED = {"mini": Path(__file__).parents[1] / "assets" / "vit"}
WRONG = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, SafetensorError)
IMAGENET_R = "vit_base_patch16_224.augreg_in21k_ft_in1k"  # a bare vit_base_patch16_224 would mean other weights


def load_backbone(base: str | Path = "mini", device: str | None = None):
    """Load a stock timm VisionTransformer. Only safetensors are read, never a pickle.

    Args:
        base: "mini" for the embedded one, a folder as timm writes it, or a timm model name.
        device: by default cuda if it is available, else cpu.

    Raises:
        UserError: the device is not available, a folder is incomplete or inconsistent, or a name is unknown or cannot
            be downloaded.
    """
    import timm
    import torch

    check_device(device)
    folder = EMBEDDED.get(str(base), Path(base))
    if folder.exists():
        for file in ("config.json", "model.safetensors"):
            if not (folder / file).is_file():
                raise UserError(f"{folder} is no timm folder: {file} is missing")
        name = f"local-dir:{folder}"
    else:
        name = timm_name(str(base))
    try:
        vit = timm.create_model(name, pretrained=True)
    except WRONG as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"cannot load the backbone {base} ({reason}): restore its files, or choose another") from None
    if not all(weight.isfinite().all() for weight in vit.state_dict().values()):
        raise UserError(f"the backbone {base} holds weights that are no finite numbers: restore its files")
    return vit.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def model_args(base: str | Path) -> dict:
    """The arguments that a base's architecture was made with, without its number of classes; none for models of timm's
    hub."""
    folder = EMBEDDED.get(str(base), Path(base))
    found = read_json(folder / "config.json").get("model_args", {}) if folder.is_dir() else {}
    return {name: value for name, value in found.items() if name != "num_classes"}


def timm_name(name: str) -> str:
    """The full name, architecture.tag, of a model of timm; of an old or short name with a notice.

    Names that timm has deprecated, such as vit_base_patch16_224_in21k, are resolved as timm does.

    Raises:
        UserError: timm has no such model, or no weights of it on the hub.
    """
    import timm

    name = name.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/")
    current = timm.models.get_deprecated_models().get(name, name)
    if name.startswith((".", "/", "~")) or not timm.is_model(name.partition(".")[0]) or not current:
        known = ", ".join(EMBEDDED)
        raise UserError(f"no backbone at {name}: give {known}, a folder, or a timm model name as {IMAGENET_R}")
    if current != name and not timm.models.is_model_pretrained(current):  # _sam: timm has renamed that tag since
        current = next(iter(timm.list_pretrained(f"{current}*")), current)
    try:
        weights = timm.get_pretrained_cfg(current)
    except RuntimeError:  # an unknown tag
        weights = None
    if not weights or not weights.hf_hub_id:
        raise UserError(f"{name} has no weights on the hub: choose a model that has, such as {IMAGENET_R}, or a folder")
    full = f"{weights.architecture}.{weights.tag}" if weights.tag else weights.architecture
    if full != name:
        warnings.warn(f"{name} is taken as timm's {full}", UserNotice, stacklevel=3)
    return full


def precision(device):
    """The dtype a ViT computes in: fp32, or bf16 on a GPU that supports it. fp16 would need a scaled loss."""
    import torch

    fast = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32
