"""Reading image files as RGB squares, converting tensors to images, and writing PNG files."""

import math
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .errors import UserError


def read_image(path: str | Path, size: int) -> Tensor:
    """Read an image file: (3, size, size) float32 in [-1, 1].

    The image is cropped to the square in its middle, transparent parts become white, and of an animation the first
    frame is read.

    Raises:
        UserError: the file is no image, is truncated, or has so many pixels that Pillow refuses to decode it (twice
            Image.MAX_IMAGE_PIXELS, 179 million).
    """
    try:
        with Image.open(path) as image:
            square = to_square(image, size)
    except Image.DecompressionBombError as error:
        max_megapixels = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(f"{path} has more than {max_megapixels:.0f} million pixels: make it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = "it is not a picture" if isinstance(error, UnidentifiedImageError) else str(error).lower()
        raise UserError(f"cannot read {path} ({reason}): save it again as PNG or JPEG, or remove it") from error
    return torch.from_numpy(square).permute(2, 0, 1).float().div(127.5).sub(1)


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """Crop an opened image to the square in its middle: (size, size, 3) uint8. Few full-size copies are made."""
    image.draft(None, (2 * size, 2 * size))  # decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
    ImageOps.exif_transpose(image, in_place=True)
    image = to_8_bit(image)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    small = image.resize((size, size), Image.Resampling.LANCZOS, box, reducing_gap=3).convert("RGBA")
    white = Image.new("RGBA", small.size, "white")
    return np.array(Image.alpha_composite(white, small).convert("RGB"))


def to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image to mode L, RGB or RGBA, which can be resized."""
    if image.mode[0] in "IF":  # 16 or 32 bits of grey, which Pillow's own conversion clips at 255
        levels = np.nan_to_num(np.asarray(image, dtype=np.float32))
        is_16_bit = image.mode.startswith("I;16") or levels.max() > 255
        white = 65535 if is_16_bit else 1 if image.mode == "F" and levels.max() <= 1 else 255
        return Image.fromarray((levels.clip(0, white) * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


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
