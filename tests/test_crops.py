"""Pictures that are no squares, of other colour spaces, or with large texts."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stamina_lite.diffusion.concepts import RANDOM_CROPS, concepts, set_hash, training_images
from stamina_lite.diffusion.image_folders import image_files
from stamina_lite.errors import UserError
from stamina_lite.images import CROPS, read_image

DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def profile(colourants: np.ndarray, description: bytes = b"wide") -> bytes:
    """An ICC profile (version 2) of three colourants, the columns of a matrix to XYZ under D50, and gamma 2.2."""

    def xyz(x) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in x))

    text = b"desc\0\0\0\0" + struct.pack(">I", len(description) + 1) + description + b"\0" * 80
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    tags |= {name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colourants.T, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s12x4s", 132 + 12 * len(tags) + len(data), b"", 0x02100000, b"mntr", b"RGB ",
                         b"XYZ ", b"acsp")  # fmt: skip
    return header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061) + b"\0" * 48 + table + data


def in_srgb(colour: tuple, colourants: np.ndarray) -> np.ndarray:
    """The colour by the definition of both spaces, 0 to 255."""
    linear = np.linalg.inv(SRGB) @ colourants @ (np.array(colour) / 255) ** 2.2
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def levels(file, **options) -> np.ndarray:
    return ((read_image(file, 8, **options) + 1) * 127.5).mean((1, 2)).numpy()


@pytest.mark.parametrize("colourants", [DISPLAY_P3, ADOBE_RGB], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_colours_of_a_wide_profile_become_srgb(tmp_path, colourants, suffix):
    colour, options = (180, 120, 80), {"quality": 100} if suffix in ("jpg", "webp") else {}
    file = tmp_path / f"a.{suffix}"
    Image.new("RGB", (32, 32), colour).save(file, icc_profile=profile(colourants), **options)
    assert np.abs(levels(file) - in_srgb(colour, colourants)).max() < 4
    assert np.abs(levels(file) - np.array(colour)).max() > 8


def test_transparent_parts_of_a_profiled_image_are_white(tmp_path):
    image = Image.new("RGBA", (16, 16), (180, 120, 80, 0))
    image.save(tmp_path / "a.png", icc_profile=profile(DISPLAY_P3))
    assert levels(tmp_path / "a.png").min() > 254


@pytest.mark.parametrize("broken", [b"no profile", profile(SRGB, b"sRGB of a camera"), profile(DISPLAY_P3)[:150]])
def test_a_damaged_profile_or_srgb_changes_nothing(tmp_path, broken):
    Image.new("RGB", (16, 16), (180, 120, 80)).save(tmp_path / "a.png", icc_profile=broken)
    assert np.abs(levels(tmp_path / "a.png") - (180, 120, 80)).max() < 1


def test_a_profile_of_another_mode_is_not_used(tmp_path):
    Image.new("L", (16, 16), 90).save(tmp_path / "a.png", icc_profile=profile(DISPLAY_P3))
    assert np.abs(levels(tmp_path / "a.png") - 90).max() < 1


@pytest.fixture
def tall(tmp_path):
    """Three squares of red, green and blue above each other."""
    pixels = np.zeros((72, 24, 3), np.uint8)
    for k in range(3):
        pixels[24 * k : 24 * (k + 1), :, k] = 255
    (tmp_path / "pole").mkdir()
    Image.fromarray(pixels).save(tmp_path / "pole" / "a.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "pole" / "wide.png")
    return tmp_path / "pole"


def test_a_crop_takes_the_square_of_its_name(tall):
    for name, crop, colour in (("a", "centre", 1), ("a", "top", 0), ("wide", "centre", 1), ("wide", "top", 1)):
        expected = 255 * np.eye(3)[colour]
        assert np.abs(levels(tall / f"{name}.png", crop=crop) - expected).max() < 8, (name, crop)
    padded = read_image(tall / "a.png", 24, "pad")
    assert torch.equal(padded[:, :, :8], torch.ones(3, 24, 8)) and torch.equal(padded[:, :, 16:], torch.ones(3, 24, 8))
    assert (padded[:, 3, 12] - torch.tensor([1, -1, -1])).abs().max() < 0.1
    assert (padded[:, 21, 12] - torch.tensor([-1, -1, 1])).abs().max() < 0.1


def test_random_crops_are_several_places_and_the_same_every_time(tall):
    pole = concepts(tall, crop="random")[0]
    loaded = pole.load(8)
    assert len(loaded) == 2 * RANDOM_CROPS and torch.equal(loaded, pole.load(8))
    means = loaded.mean((2, 3))
    assert len({tuple(mean.tolist()) for mean in means}) == 2 * RANDOM_CROPS
    assert len(pole.load_references(8)) == 2 * RANDOM_CROPS


def test_a_crop_is_part_of_what_was_learned(tall):
    assert len({set_hash(concepts(tall, crop=crop)) for crop in CROPS}) == len(CROPS)
    shown = training_images(concepts(tall, crop="top"), 1, 24)["pole"][0]
    assert shown.size == (24, 24) and shown.getpixel((12, 12)) == (255, 0, 0)
    with pytest.raises(UserError, match="unknown crop bottom: choose centre, top, random, pad"):
        concepts(tall, crop="bottom")


@pytest.mark.parametrize("size", [2 << 20, 70 << 20])
def test_a_png_with_a_large_text_is_read(tmp_path, size):
    """As tools for image generation write their settings; Pillow refuses more than 1 MiB."""
    info = PngInfo()
    for k in range(0, size, 1 << 20):
        info.add_itxt(f"workflow {k}", "x" * (1 << 20), zip=True)
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    Image.new("RGB", (9, 9), (255, 0, 0)).save(tmp_path / "a", "png", pnginfo=info)
    assert levels(tmp_path / "a").round().tolist() == [255, 0, 0]
    assert image_files(tmp_path) == (tmp_path / "a",)  # by its content


def test_a_png_that_ends_early_is_an_error_of_one_line(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for n in (9, 20, 2000):
        (tmp_path / "a.png").write_bytes(content[:n])
        with pytest.raises(UserError, match="cannot read .*a.png"):
            read_image(tmp_path / "a.png", 8)
