"""Reading image files as RGB squares, converting tensors to images, and writing PNG files."""

import io
import math
import random
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of every PNG file
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}  # read_image reports a damaged one
CROPS = ("centre", "top", "random", "pad")


def read_image(path: str | Path, size: int, crop: str = "centre", seed: int = 0) -> Tensor:
    """Read an image file as a square in sRGB: (3, size, size) float32 in [-1, 1].

    It is turned as its EXIF orientation says, its colours are converted by its ICC profile, transparent parts become
    white, and of an animation the first frame is read.

    Args:
        crop: which square of an image that is none. "centre", "top" (of tall images; of wide ones the centre),
            "random", or "pad": all of it, on white.
        seed: of a random crop; the place depends on the seed and the file's name.

    Raises:
        UserError: the file is no image, is truncated, or has so many pixels that Pillow refuses to decode it (twice
            Image.MAX_IMAGE_PIXELS, 179 million).
    """
    try:
        with open_image(path) as image:
            square = to_square(image, size, crop, random.Random(f"{Path(path).name} {seed}"))
    except Image.DecompressionBombError as error:
        max_megapixels = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(f"{path} has more than {max_megapixels:.0f} million pixels: make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = "it is not a picture" if isinstance(error, UnidentifiedImageError) else str(error).lower()
        raise UserError(f"cannot read {path} ({reason}): save it again as PNG or JPEG, or remove it") from error
    return torch.from_numpy(square).permute(2, 0, 1).float().div(127.5).sub(1)


def open_image(path: str | Path, formats: list[str] | None = None) -> Image.Image:
    """Open an image file as `Image.open` does; of a PNG without its texts, which Pillow refuses above 1 MiB."""
    with open(path, "rb") as file:
        is_png = file.read(len(PNG)) == PNG
    return Image.open(io.BytesIO(without_text(Path(path).read_bytes())) if is_png else path, formats=formats)


def without_text(png: bytes) -> bytes:
    """A PNG file without its text chunks."""
    kept, start = [PNG], len(PNG)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")  # length, type, data, checksum
        if png[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def to_square(image: Image.Image, size: int, crop: str, draw: random.Random) -> np.ndarray:
    """Crop an opened image to a square, see `read_image`: (size, size, 3) uint8. Few full-size copies are made."""
    image.draft(None, (2 * size, 2 * size))  # decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
    ImageOps.exif_transpose(image, in_place=True)
    profile = image.info.get("icc_profile")
    image = to_8_bit(image)
    if crop == "pad":
        scale = size / max(image.size)
        shape, box = (max(1, round(image.width * scale)), max(1, round(image.height * scale))), None
    else:
        side, along = min(image.size), draw.random() if crop == "random" else 0.5
        left, top = along * (image.width - side), (0 if crop == "top" else along) * (image.height - side)
        shape, box = (size, size), (left, top, left + side, top + side)
    small = to_srgb(image.resize(shape, Image.Resampling.LANCZOS, box, reducing_gap=3), profile).convert("RGBA")
    white = Image.new("RGBA", (size, size), "white")
    white.alpha_composite(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.array(white.convert("RGB"))


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image in the colours of an ICC profile to sRGB. A damaged profile is not used, as in browsers."""
    if not profile:
        return image
    opaque = image.convert("RGB") if image.mode == "RGBA" else image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), opaque.mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    converted = transform.apply(opaque)
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image to mode L, RGB, RGBA or CMYK, which can be resized."""
    if image.mode[0] in "IF":  # 16 or 32 bits of grey, which Pillow's own conversion clips at 255
        levels = np.nan_to_num(np.asarray(image, dtype=np.float32))
        is_16_bit = image.mode.startswith("I;16") or levels.max() > 255
        white = 65535 if is_16_bit else 1 if image.mode == "F" and levels.max() <= 1 else 255
        return Image.fromarray((levels.clip(0, white) * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def to_pil(images: Tensor) -> list[Image.Image]:
    """Convert (n, 3, H, W) in [-1, 1] to Pillow images."""
    data = images.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(x) for x in data]


def grid(pictures: list[Image.Image], columns: int | None = None) -> Image.Image:
    """Arrange images of equal size in a grid, row by row; by default with about as many columns as rows."""
    columns = columns or math.ceil(len(pictures) ** 0.5)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for k, picture in enumerate(pictures):
        sheet.paste(picture, (k % columns * width, k // columns * height))
    return sheet


def write_png(file: Path, picture: Image.Image, chunks: PngInfo | None = None) -> None:
    """Write a PNG to a temporary file and move it into place: a full disk leaves no incomplete image.

    Args:
        chunks: text chunks to store in the file.
    """
    temporary = file.with_name(f".{file.name}.part")
    try:
        picture.save(temporary, "png", pnginfo=chunks)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
