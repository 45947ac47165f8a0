"""Base models from the package, a folder, a single file or the hub, always as a stock StableDiffusionPipeline."""

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
    keys_of,
    refuse_missing,
    weight_files,
    weights_in,
)
from .saving import save_in_fp32

EMBEDDED = {"mini": Path(__file__).parents[1] / "assets" / "mini"}
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
OTHER_FILES = ("model_index.json", "past.safetensors", "*/config.json", "scheduler/*.json", "tokenizer/*")  # no weights
LOADING_ERRORS = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError)  # of damaged folders
SLICED = 256  # px from which the VAE decodes images one at a time
CONFIGURATION = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # of a single file of 1.x, where none is given
ANOTHER = "give --base-config, a diffusers folder of a model of the same kind"


@dataclass(frozen=True)
class Base:
    """A base model on this disk, and the name by which a run finds it again.

    Attributes:
        path: a diffusers folder, or a single file.
        name: mini, an absolute path, or owner/name@COMMIT.
        config: of a single file, the folder with its configuration and tokenizer.
    """

    path: Path
    name: str
    config: "Base | None" = None

    def record(self) -> dict:
        """Its entries in run.json."""
        return {"base_model": self.name} | ({"base_config": self.config.name} if self.config else {})


def load_base(base: str | Path | Base = "mini", device: str | None = None, dtype=None, config=None):
    """Load a base as a StableDiffusionPipeline. Only safetensors are read, never a pickle.

    Args:
        base: "mini" for the embedded base, a diffusers folder, a single .safetensors file in the original layout, or a
            hub id, owner/name or owner/name@REVISION.
        device: by default cuda if it is available, else cpu.
        dtype: of the frozen weights; by default `precision` of the device.
        config: of a single file, a diffusers folder with its configuration and tokenizer.

    Raises:
        UserError: the device is not available; the base cannot be found or downloaded, is incomplete, or is of an
            architecture that cannot be customised.
    """
    import torch

    check_device(device)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = base if isinstance(base, Base) else resolve(base, config)
    dtype = dtype or precision(device)
    with without_bars():
        pipe = from_file(found.path, found.config, dtype) if found.config else from_folder(found.path, dtype)
    check_fit(pipe, found.name)
    pipe.scheduler = noising(pipe.scheduler, found.name)
    pipe = pipe.to(device)
    save_in_fp32(pipe.text_encoder)
    if pipe.unet.config.sample_size * pipe.vae_scale_factor >= SLICED:
        pipe.vae.enable_slicing()  # decoding a batch of 64 images at 512 px at once takes tens of GB
    return pipe


def load_recorded(about: dict, device: str | None = None):
    """Load the base that a run.json names, in the run's precision."""
    return load_base(about.get("base_model", "mini"), device, precision_of(about), about.get("base_config"))


def precision(device: str):
    """The dtype of frozen weights: fp32 on a CPU; bf16 on a GPU, or fp16 if it does not support bf16."""
    import torch

    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def resolve(base: str | Path, config: str | Path | None = None, before: dict | None = None) -> Base:
    """Find a base on this disk, or download it from the hub.

    Args:
        before: run.json of a run that is resumed. A hub id without a revision then means the run's commit, and a single
            file has the run's configuration, unless another is given.
    """
    before = before or {}
    began = HUB_ID.fullmatch(before.get("base_model", ""))
    base = began[0] if began and began[1] == str(base) else base
    path = EMBEDDED.get(str(base), Path(base))
    if path.is_file() and path.suffix.lower() == ".safetensors":
        path = Path(os.path.abspath(path))  # not resolved: a link of the hub's cache leads to a file without a suffix
        kept = before.get("base_config") if before.get("base_model") == str(path) else None
        return Base(path, str(path), configuration(path, config or kept))
    if config is not None:
        raise UserError(f"{base} has its own configuration: --base-config is for a single .safetensors file")
    if path.suffix in PICKLES and not path.is_dir():
        raise UserError(f"{base} is a pickle, which may run code when it is read: give a .safetensors file")
    if path.is_dir():
        return Base(path, str(base) if str(base) in EMBEDDED else str(path.resolve()))
    named = HUB_ID.fullmatch(str(base))
    if path.exists() or not named:
        kinds = f"{', '.join(EMBEDDED)}, a folder, a .safetensors file, or a hub id (owner/name)"
        raise UserError(f"no base model at {base}: give {kinds}")
    return from_hub(named[1], named[2])


def configuration(file: Path, given: str | Path | None) -> Base:
    """The folder with a single file's configuration and tokenizer, by default that of Stable Diffusion 1.5.

    For 2.x it must be given: some models predict the noise, others the velocity, and a file does not say which.
    """
    keys = check_file(file)
    if given is None and PARTS["text encoder"][1] in keys:
        raise UserError(f"{file} is of Stable Diffusion 2.x, and does not say what it predicts: {ANOTHER}")
    named = HUB_ID.fullmatch(str(given or CONFIGURATION))
    if given is not None and Path(given).is_dir():
        found = Base(Path(given), str(Path(given).resolve()))
    elif named:
        try:
            found = from_hub(named[1], named[2], weights=False)
        except UserError as error:
            raise UserError(f"no configuration for {file} ({error}): {ANOTHER}") from None
    else:
        raise UserError(f"no folder {given}: {ANOTHER}")
    check_folder(found.path, weights=False)
    return found


def from_hub(name: str, revision: str | None = None, weights: bool = True) -> Base:
    """Download a model of the hub to the hub's cache: only the files that are needed, and never a pickle."""
    folder = fetch(name, revision, OTHER_FILES)
    check_folder(folder, weights=False, called=name)  # before gigabytes are downloaded
    for variant in VARIANTS if weights else ():
        wanted = [f"{model}/{file}" for model in CLASSES for file in weight_files(model, variant)]
        folder = fetch(name, folder.name, [*OTHER_FILES, *wanted])
        if all(weights_in(folder / model, variant) for model in CLASSES):
            break
    return Base(folder, f"{name}@{folder.name}")


def fetch(name: str, revision: str | None, files) -> Path:
    """Download files of a commit to the hub's cache; returns the commit's folder, which has the commit's name."""
    from huggingface_hub import constants, errors, snapshot_download

    page, login = f"{constants.ENDPOINT}/{name}", "run `hf auth login`"
    elsewhere = f"download it elsewhere (hf download {name} --local-dir DIR) and give its folder"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*files]))
    except errors.GatedRepoError:
        raise UserError(f"{name} is gated: accept its terms on {page} and {login}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"no folder {name}, and no such model on the hub: if it is private, {login}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision}: see {page}/commits/main") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(f"no folder {name}, and the hub cannot be reached: {elsewhere}") from None
    except (OSError, ValueError, errors.HTTPError) as error:
        raise UserError(f"cannot fetch {name} ({first_line(error)}): try again, or {elsewhere}") from None


def from_folder(home: Path, dtype):
    """Load a pipeline from a diffusers folder and check that every weight comes from its files."""
    import diffusers
    import transformers

    check_folder(home)
    models = {}
    try:
        for name, kind in CLASSES.items():
            folder = home / name
            loader = getattr(transformers if name == "text_encoder" else diffusers, kind)
            options = {"variant": next(v for v in VARIANTS if weights_in(folder, v)), "use_safetensors": True}
            options |= {"ignore_mismatched_sizes": True} if name == "text_encoder" else {}  # check_keys refuses them
            models[name], loading_info = loader.from_pretrained(
                folder, dtype=dtype, output_loading_info=True, **options
            )
            check_keys(folder, loading_info)
        return diffusers.StableDiffusionPipeline.from_pretrained(home, **models, **bare())
    except UserError:
        raise
    except LOADING_ERRORS as error:
        raise UserError(f"cannot load the base {home}: {first_line(error)[:300]}") from None


def from_file(file: Path, config: Base, dtype):
    """Load a pipeline from a single file and check that every weight comes from it."""
    from diffusers import StableDiffusionPipeline
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    options = {"config": str(config.path), "local_files_only": True, "dtype": dtype, **bare()}
    try:
        pipe = StableDiffusionPipeline.from_single_file(str(file), **options)
    except NotImplementedError:  # diffusers leaves missing weights on the meta device
        raise UserError(f"{file} lacks weights that {config.name} wants: fetch it again, or {ANOTHER}") from None
    except (OSError, ValueError, RuntimeError, KeyError, SingleFileComponentError) as error:
        raise UserError(f"{file} does not fit {config.name} ({first_line(error)}): {ANOTHER}") from None
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        refuse_missing(file, [name for name, weight in model.state_dict().items() if weight.is_meta])
    n_keys = sum(key.startswith("model.diffusion_model.") for key in keys_of(file))
    if n_keys != len(pipe.unet.state_dict()):  # diffusers ignores weights that are left over
        raise UserError(f"{file} has a larger U-Net than {config.name} says: {ANOTHER}")
    return pipe


@contextmanager
def without_bars():
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


def bare() -> dict:
    """Components that no pipeline gets: the safety checker, and what it or image prompts need."""
    return {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None, "image_encoder": None}


def noising(scheduler, name: str):
    """A scheduler for training, whose `add_noise` is the diffusion that the model was trained with.

    Many folders name a sampler (Euler, DPM-Solver, UniPC ...), whose `add_noise` belongs to its own steps, or PNDM,
    which has no velocity. Betas and prediction type are the folder's. Images are sampled by `sampling.SAMPLERS`.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    if "beta_schedule" not in scheduler.config:
        raise UserError(f"{name} cannot be customised: its {type(scheduler).__name__} is no diffusion by betas")
    if isinstance(scheduler, DDPMScheduler | DDIMScheduler):
        return scheduler
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)
