"""Image features: frozen networks that map pictures to unit vectors, in which they are compared.

`lite0` (EfficientNet-Lite0, ImageNet) is shipped with the package [ours]. The paper uses CLIP image features [paper]:
`clip`, or any CLIP folder or hub id. We do not know which CLIP the paper used, so `clip` is our choice [ours]. DINO's
features are those of other papers: `dino`, or the folder or hub id of any DINO. Numbers of different features have
different scales and must not be compared.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..errors import UserError

NAMED = {
    "clip": "openai/clip-vit-large-patch14",  # the CLIP whose text half Stable Diffusion 1.x reads prompts with
    "dino": "facebook/dino-vits16",  # of the DreamBooth paper
}
LITE0 = Path(__file__).parents[1] / "assets" / "lite0.safetensors"
DINO_SIZE = 224
LITE0_SIZE = 112  # separates identities of 64 px pictures better than 64
BATCH = 64
LUMA = (0.299, 0.587, 0.114)  # Rec. 601


class Features(Protocol):
    """A map from pictures to unit vectors: images (n, 3, H, W) in [-1, 1] -> (n, dim) float32 on the CPU.

    name: its name in results ("lite0", "lite0-grey").
    key: hash of weights and preprocessing, the key of features cached on disk.
    """

    name: str
    dim: int

    @property
    def key(self) -> str: ...

    def __call__(self, images: Tensor) -> Tensor: ...


def features(name: str = "lite0", device: str = "cpu", *, greyscale: bool = False, download: bool = False) -> Features:
    """The features called `name`: "lite0", "clip", "dino", or the hub id or folder of a CLIP or DINO in safetensors.

    greyscale: remove colour, a shortcut to many identities (background, hair).
    download: allow downloading a model from the hub.
    Raises UserError if the weights are not found.
    """
    if name == "lite0":
        return Lite0(device, greyscale)
    source = NAMED.get(name, name)
    try:
        kind = AutoConfig.from_pretrained(source, local_files_only=not download).model_type
    except (OSError, ValueError) as error:
        raise UserError(absent(source)) from error
    extractors: dict[str, Any] = {"clip": Clip, "clip_vision_model": Clip, "vit": Dino, "dinov2": Dino}
    if kind not in extractors:
        raise UserError(absent(source))
    return extractors[kind](source, device, greyscale, download)


def absent(source: str) -> str:
    return (
        f"no CLIP or DINO weights (safetensors) for {source} on this machine: give the folder of such a model, "
        "a hub id with download allowed, or use the shipped features lite0"
    )


def hash_of(network: torch.nn.Module, *preprocessing: object) -> str:
    """sha256 of a network's weights and buffers and of the settings of its preprocessing, in hexadecimal digits."""
    digest = hashlib.sha256(repr(preprocessing).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy())
    return digest.hexdigest()


class Lite0:
    """EfficientNet-Lite0 without its classifier: the pooled 1280 channels of the last layer (data_scripts/lite0.py).

    Pictures are normalised by ImageNet's mean and deviation, as in the package that the weights come from. The Lite
    networks were trained with (pixel - 127) / 128, which suits photographs; ImageNet's separates the embedded people
    better.
    """

    dim = 1280

    def __init__(self, device: str = "cpu", greyscale: bool = False):
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        network.load_state_dict(load_file(LITE0))
        self.network = network.eval().to(device, memory_format=torch.channels_last)  # about twice as fast on a CPU
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.name = "lite0-grey" if greyscale else "lite0"
        self.device, self.greyscale = device, greyscale

    @cached_property
    def key(self) -> str:
        return hash_of(self.network, LITE0_SIZE, self.mean.tolist(), self.std.tolist(), self.greyscale)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """images: (n, 3, H, W) in [-1, 1] -> (n, 1280), unit rows. Resized to 112 px."""
        rows = []
        for batch in images.split(BATCH):
            batch = ((prepare(batch, LITE0_SIZE, self.greyscale) + 1) / 2 - self.mean) / self.std
            batch = batch.to(self.device, memory_format=torch.channels_last)
            rows.append(F.normalize(self.network(batch)).cpu())
        return torch.cat(rows)


class Clip:
    """The image half of a CLIP model, projected into the space it shares with text.

    source: a hub id or a folder. Raises UserError when it is not on this machine or is not a whole CLIP.
    """

    def __init__(self, source: str, device: str = "cpu", greyscale: bool = False, download: bool = False):
        try:
            both: Any = CLIPVisionModelWithProjection.from_pretrained(
                source, local_files_only=not download, use_safetensors=True, output_loading_info=True
            )
        except OSError as error:
            raise UserError(absent(source)) from error
        network, loaded = both
        if loaded["missing_keys"]:  # transformers would fill them with random numbers and only log it
            raise UserError(
                f"{source} is not a CLIP model: {len(loaded['missing_keys'])} image weights are missing in it"
            )
        self.network = network.eval().to(device, torch.float32)
        self.name = f"{source}-grey" if greyscale else str(source)
        self.dim, self.size = network.config.projection_dim, network.config.image_size
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        self.source, self.download = source, download
        self.device, self.greyscale = device, greyscale

    @cached_property
    def key(self) -> str:
        return hash_of(self.network, self.size, self.mean.tolist(), self.std.tolist(), self.greyscale)

    @torch.no_grad()
    def text(self, prompts: list[str]) -> Tensor:
        """Features of texts in the space of the images: (n, dim), unit rows. The text half is loaded when called."""
        options = {"local_files_only": not self.download}
        tokenizer = AutoTokenizer.from_pretrained(self.source, **options)
        half: Any = CLIPTextModelWithProjection.from_pretrained(self.source, use_safetensors=True, **options)
        ids = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
        return F.normalize(half.eval()(**ids).text_embeds)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """images: (n, 3, H, W) in [-1, 1] -> (n, dim), unit rows. Resized to the model's own size."""
        rows = []
        for batch in images.split(BATCH):
            batch = (prepare(batch, self.size, self.greyscale) + 1) / 2
            batch = (batch - self.mean) / self.std
            rows.append(F.normalize(self.network(batch.to(self.device)).image_embeds).cpu())
        return torch.cat(rows)


class Dino:
    """The class token of a DINO or DINOv2 model, a ViT trained without labels.

    source: a hub id or a folder. Raises UserError when it is not on this machine.
    """

    def __init__(self, source: str, device: str = "cpu", greyscale: bool = False, download: bool = False):
        try:
            network: Any = AutoModel.from_pretrained(source, local_files_only=not download, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise UserError(absent(source)) from error
        self.network = network.eval().to(device, torch.float32)
        self.name = f"{source}-grey" if greyscale else str(source)
        self.dim, self.size = network.config.hidden_size, DINO_SIZE
        self.options = {"interpolate_pos_encoding": True} if network.config.model_type == "vit" else {}
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.device, self.greyscale = device, greyscale

    @cached_property
    def key(self) -> str:
        return hash_of(self.network, self.size, self.mean.tolist(), self.std.tolist(), self.greyscale)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """images: (n, 3, H, W) in [-1, 1] -> (n, dim), unit rows. Resized to 224 px."""
        rows = []
        for batch in images.split(BATCH):
            batch = ((prepare(batch, self.size, self.greyscale) + 1) / 2 - self.mean) / self.std
            states = self.network(batch.to(self.device), **self.options).last_hidden_state
            rows.append(F.normalize(states[:, 0]).cpu())
        return torch.cat(rows)


def prepare(images: Tensor, size: int, greyscale: bool) -> Tensor:
    """images: (n, 3, H, W) in [-1, 1] -> (n, 3, size, size) float32 on the CPU, in [-1, 1] too.

    Always on the CPU: resizing differs between devices, and a measure must not.
    """
    images = images.to("cpu", torch.float32)
    if greyscale:
        images = (images * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True).expand_as(images)
    images = F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return images.clamp(-1, 1)  # bicubic overshoots at edges
