"""Loading of base models from the package, a folder, a single file or the hub, as a stock StableDiffusionPipeline."""

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, first_line
from ..runs.devices import check_device, precision_of
from .base_checks import (
    CLASSES,
    PARTS,
    VARIANTS,
    check_file,
    check_fit,
    check_folder,
    check_keys,
    read_keys,
    refuse_missing,
    weight_files,
    weights_in,
)
from .saving import save_in_fp32

EMBEDDED = {"mini": Path(__file__).parents[1] / "assets" / "mini"}
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")  # owner/name or owner/name@REVISION
OTHER_FILES = ("model_index.json", "past.safetensors", "*/config.json", "scheduler/*.json", "tokenizer/*")  # no weights
LOADING_ERRORS = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError)  # for damaged folders
VAE_SLICING_SIZE = 256  # px; the VAE decodes images of this size or larger one at a time
DEFAULT_CONFIG = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # for a single file of 1.x
CONFIG_HINT = "give --base-config, a diffusers folder of a model of the same kind"


@dataclass(frozen=True)
class Base:
    """A base model on disk, and the name by which a run finds it again.

    Attributes:
        path: a diffusers folder or a single file.
        name: mini, an absolute path, or owner/name@COMMIT.
        config: for a single file, the folder with its configuration and tokenizer.
    """

    path: Path
    name: str
    config: "Base | None" = None

    def record(self) -> dict:
        """The base's entries in run.json."""
        return {"base_model": self.name} | ({"base_config": self.config.name} if self.config else {})


def load_base(base: str | Path | Base = "mini", device: str | None = None, dtype=None, config=None):
    """Load a base model as a StableDiffusionPipeline. Only safetensors files are read, never pickles.

    Args:
        base: "mini" for the embedded base, a diffusers folder, a single .safetensors file in the original layout, or a
            hub id, owner/name or owner/name@REVISION.
        device: by default cuda if it is available, else cpu.
        dtype: of the frozen weights; by default `precision(device)`.
        config: for a single file, a diffusers folder with its configuration and tokenizer.

    Raises:
        UserError: the device is not available; the base cannot be found or downloaded, is incomplete, or is of an
            architecture that cannot be customised.
    """
    import torch

    check_device(device)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    resolved = base if isinstance(base, Base) else resolve(base, config)
    dtype = dtype or precision(device)
    with without_progress_bars():
        if resolved.config:
            pipe = from_file(resolved.path, resolved.config, dtype)
        else:
            pipe = from_folder(resolved.path, dtype)
    check_fit(pipe, resolved.name)
    pipe = pipe.to(device)
    save_in_fp32(pipe.text_encoder)
    if pipe.unet.config.sample_size * pipe.vae_scale_factor >= VAE_SLICING_SIZE:
        pipe.vae.enable_slicing()  # decoding a batch of 64 images at 512 px at once takes tens of GB
    return pipe


def load_recorded(about: dict, device: str | None = None, moved_to: str | None = None):
    """Load the base model that a run.json names, in the precision of the run.

    Args:
        about: the contents of run.json.
        moved_to: where the base is now, if it is no longer where run.json says.

    Raises:
        UserError: as `load_base`.
    """
    place, config = about.get("base_model", "mini"), about.get("base_config")
    if moved_to is None and Path(place).is_absolute() and not Path(place).exists():
        raise UserError(f"the base of this run is no longer at {place}: give its new place with --base")
    if moved_to is not None and Path(moved_to).is_dir():
        config = None
    return load_base(moved_to or place, device, precision_of(about), config)


def precision(device: str):
    """The dtype of frozen weights: fp32 on a CPU; bf16 on a GPU, or fp16 if it does not support bf16."""
    import torch

    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def resolve(base: str | Path, config: str | Path | None = None, before: dict | None = None) -> Base:
    """Find a base model on disk, or download it from the hub.

    Args:
        base, config: as for `load_base`.
        before: run.json of a run that is resumed. A hub id without a revision then means the run's commit, and a single
            file has the run's configuration, unless another one is given.

    Raises:
        UserError: the base or its configuration cannot be found or downloaded, or is a pickle.
    """
    before = before or {}
    recorded = HUB_ID.fullmatch(before.get("base_model", ""))
    base = recorded[0] if recorded and recorded[1] == str(base) else base
    path = EMBEDDED.get(str(base), Path(base))
    if path.is_file() and path.suffix.lower() == ".safetensors":
        path = Path(os.path.abspath(path))  # not resolved: links in the hub's cache point to files without a suffix
        recorded_config = before.get("base_config") if before.get("base_model") == str(path) else None
        return Base(path, str(path), resolve_config(path, config or recorded_config))
    if config is not None:
        raise UserError(f"{base} has its own configuration: --base-config is for a single .safetensors file")
    if path.suffix in PICKLE_SUFFIXES and not path.is_dir():
        raise UserError(f"{base} is a pickle, which may run code when it is read: give a .safetensors file")
    if path.is_dir():
        return Base(path, str(base) if str(base) in EMBEDDED else str(path.resolve()))
    hub_id = HUB_ID.fullmatch(str(base))
    if path.exists() or not hub_id:
        choices = f"{', '.join(EMBEDDED)}, a folder, a .safetensors file, or a hub id (owner/name)"
        raise UserError(f"no base model at {base}: give {choices}")
    return from_hub(hub_id[1], hub_id[2])


def resolve_config(file: Path, config: str | Path | None) -> Base:
    """Find the folder with a single file's configuration and tokenizer; by default that of Stable Diffusion 1.5.

    There is no default for 2.x: some of its models predict the noise, others the velocity, and the file does not record
    which.
    """
    keys = check_file(file)
    if config is None and PARTS["text encoder"][1] in keys:
        raise UserError(f"{file} is of Stable Diffusion 2.x, and does not say what it predicts: {CONFIG_HINT}")
    hub_id = HUB_ID.fullmatch(str(config or DEFAULT_CONFIG))
    if config is not None and Path(config).is_dir():
        resolved = Base(Path(config), str(Path(config).resolve()))
    elif hub_id:
        try:
            resolved = from_hub(hub_id[1], hub_id[2], weights=False)
        except UserError as error:
            raise UserError(f"no configuration for {file} ({error}): {CONFIG_HINT}") from None
    else:
        raise UserError(f"no folder {config}: {CONFIG_HINT}")
    check_folder(resolved.path, weights=False)
    return resolved


def from_hub(name: str, revision: str | None = None, weights: bool = True) -> Base:
    """Download a model to the hub's cache: only the files that are needed, and never a pickle.

    Args:
        weights: also download weights, of the first variant that every model has.
    """
    folder = fetch(name, revision, OTHER_FILES)
    check_folder(folder, weights=False, name=name)  # before gigabytes are downloaded
    for variant in VARIANTS if weights else ():
        patterns = [*OTHER_FILES]
        for model in CLASSES:
            patterns += [f"{model}/{pattern}" for pattern in weight_files(model, variant)]
        folder = fetch(name, folder.name, patterns)
        if all(weights_in(folder / model, variant) for model in CLASSES):
            break
    return Base(folder, f"{name}@{folder.name}")


def fetch(name: str, revision: str | None, patterns) -> Path:
    """Download files of a commit to the hub's cache; returns the commit's folder, which is named after the commit."""
    from huggingface_hub import constants, errors, snapshot_download

    page, login = f"{constants.ENDPOINT}/{name}", "run `hf auth login`"
    alternative = f"download it elsewhere (hf download {name} --local-dir DIR) and give its folder"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*patterns]))
    except errors.GatedRepoError:
        raise UserError(f"{name} is gated: accept its terms on {page} and {login}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"no folder {name}, and no such model on the hub: if it is private, {login}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision}: see {page}/commits/main") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(f"no folder {name}, and the hub cannot be reached: {alternative}") from None
    except (OSError, ValueError, errors.HTTPError) as error:
        raise UserError(f"cannot fetch {name} ({first_line(error)}): try again, or {alternative}") from None


def from_folder(folder: Path, dtype):
    """Load a pipeline from a diffusers folder and check that every weight comes from its files."""
    import diffusers
    import transformers

    check_folder(folder)
    models = {}
    try:
        for name, class_name in CLASSES.items():
            model_folder = folder / name
            model_class = getattr(transformers if name == "text_encoder" else diffusers, class_name)
            options = {"variant": next(v for v in VARIANTS if weights_in(model_folder, v)), "use_safetensors": True}
            options |= {"ignore_mismatched_sizes": True} if name == "text_encoder" else {}  # check_keys refuses them
            models[name], loading_info = model_class.from_pretrained(
                model_folder, dtype=dtype, output_loading_info=True, **options
            )
            check_keys(model_folder, loading_info)
        return diffusers.StableDiffusionPipeline.from_pretrained(folder, **models, **omitted_components())
    except UserError:
        raise
    except LOADING_ERRORS as error:
        raise UserError(f"cannot load the base {folder}: {first_line(error)[:300]}") from None


def from_file(file: Path, config: Base, dtype):
    """Load a pipeline from a single file and check that every weight comes from it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    options = {"config": str(config.path), "local_files_only": True, "dtype": dtype, **omitted_components()}
    try:
        pipe = StableDiffusionPipeline.from_single_file(str(file), **options)
    except NotImplementedError:  # diffusers leaves missing weights on the meta device
        raise UserError(f"{file} lacks weights that {config.name} wants: fetch it again, or {CONFIG_HINT}") from None
    except (OSError, ValueError, RuntimeError, KeyError, SingleFileComponentError) as error:
        raise UserError(f"{file} does not fit {config.name} ({first_line(error)}): {CONFIG_HINT}") from None
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        refuse_missing(file, [name for name, weight in model.state_dict().items() if weight.is_meta])
    n_keys = sum(key.startswith("model.diffusion_model.") for key in read_keys(file))
    if n_keys != len(pipe.unet.state_dict()):  # diffusers ignores unexpected keys
        raise UserError(f"{file} has a larger U-Net than {config.name} says: {CONFIG_HINT}")
    return pipe


@contextmanager
def without_progress_bars():
    """Disable the progress bars of diffusers and transformers while a model is loaded."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    enabled = [logging for logging in (diffusers_logging, transformers_logging) if logging.is_progress_bar_enabled()]
    for logging in enabled:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in enabled:
            logging.enable_progress_bar()


def omitted_components() -> dict:
    """Options that load a pipeline without safety checker, feature extractor and image encoder."""
    return {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None, "image_encoder": None}
