"""Odd and bad inputs as a user would bring them: pictures, folders, names, prompts."""

import struct
import zlib

import numpy as np
import pytest
import torch
from base_models import make_tokenizer
from PIL import Image
from transformers import AddedToken

from stamina_lite import cli, images
from stamina_lite.diffusion.concepts import concepts, set_hash
from stamina_lite.diffusion.vocabulary import check_prompt, check_tokens
from stamina_lite.errors import UserError, UserNotice
from stamina_lite.images import read_image, to_square

RED = (255, 0, 0)


@pytest.fixture
def tokenizer(tmp_path):
    return make_tokenizer(["a photo of a red person"], tmp_path / "tokenizer")


def save(path, image=None, **options):
    """A picture file, red unless told, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (12, 12), RED)).save(path, **options)
    return path


def is_colour(image: torch.Tensor, colour: tuple) -> bool:
    """Whether all of a (3, H, W) picture is this RGB colour of 0-255, to a level or two (JPEG rounds)."""
    wanted = torch.tensor(colour).view(3, 1, 1) / 127.5 - 1
    return torch.allclose(image, wanted.expand_as(image), atol=0.02)


# Pictures


@pytest.mark.parametrize(
    ("name", "image", "colour"),
    [
        ("grey.png", Image.new("L", (9, 9), 51), (51, 51, 51)),
        ("bilevel.png", Image.new("1", (9, 9), 1), (255, 255, 255)),
        ("cmyk.jpg", Image.new("CMYK", (9, 9), (0, 255, 255, 0)), RED),
        ("cmyk.tif", Image.new("CMYK", (9, 9), (0, 255, 255, 0)), RED),
        ("16-bit.png", Image.fromarray(np.full((9, 9), 32768, np.uint16)), (127.5, 127.5, 127.5)),
        ("16-bit-dark.tif", Image.fromarray(np.full((9, 9), 257 * 20, np.uint16)), (20, 20, 20)),
        ("palette.gif", Image.new("RGB", (9, 9), RED).convert("P"), RED),
        ("clear.png", Image.new("RGBA", (9, 9), (0, 0, 0, 0)), (255, 255, 255)),
        ("half.png", Image.new("RGBA", (9, 9), (255, 0, 0, 128)), (255, 127, 127)),
        ("grey-clear.png", Image.new("LA", (9, 9), (0, 0)), (255, 255, 255)),
        ("upper.JPEG", Image.new("RGB", (9, 9), (0, 0, 255)), (0, 0, 254)),
        ("picture.bmp", Image.new("RGB", (9, 9), RED), RED),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, name, image, colour):
    read = read_image(save(tmp_path / name, image), 8)
    assert read.shape == (3, 8, 8) and read.dtype == torch.float32
    assert is_colour(read, colour)


def test_16_bit_levels_are_scaled_not_clipped(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    row = read_image(save(tmp_path / "ramp.png", Image.fromarray(ramp)), 64)[0, 0]
    assert torch.allclose(row, torch.linspace(-1, 1, 64), atol=0.01)


@pytest.mark.parametrize(("levels", "white"), [(np.float32, 1), (np.float32, 255), (np.int32, 255), (np.int32, 65535)])
def test_greys_of_32_bits_are_seen_whatever_their_white_is(tmp_path, levels, white):
    ramp = np.tile(np.linspace(0, white, 64), (64, 1)).astype(levels)
    row = read_image(save(tmp_path / "ramp.tif", Image.fromarray(ramp)), 64)[0, 0]
    assert torch.allclose(row, torch.linspace(-1, 1, 64), atol=0.02)


def test_pictures_of_a_kind_that_is_not_read_are_told(tmp_path):
    save(tmp_path / "photos" / "dog" / "1.png")
    (tmp_path / "photos" / "dog" / "2.HEIC").write_bytes(b"a phone's")
    with pytest.raises(UserError, match="2.HEIC and its like .1. cannot be read: save them as JPEG"):
        concepts(tmp_path / "photos")


def test_transparent_edges_take_no_hidden_colour(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 0] = 255  # red all over, but visible in the left half only
    pixels[:, :32, 3] = 255
    read = read_image(save(tmp_path / "half.png", Image.fromarray(pixels)), 16)
    assert is_colour(read[:, :, :6], RED) and is_colour(read[:, :, 10:], (255, 255, 255))


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (9, 9), 1)
    image.putpalette([*RED, 0, 0, 255])
    assert is_colour(read_image(save(tmp_path / "a.gif", image, transparency=1), 8), (255, 255, 255))
    assert is_colour(read_image(save(tmp_path / "b.gif", image, transparency=0), 8), (0, 0, 255))


def test_animation_shows_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, (0, 0, 255))]
    for name in ("a.gif", "a.webp"):
        path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        with Image.open(path) as image:
            assert image.n_frames == 2
        assert is_colour(read_image(path, 8), RED)


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 255  # white above black
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: white comes to the right
    for name in ("turned.jpg", "turned.png", "turned.webp"):
        read = read_image(save(tmp_path / name, Image.fromarray(pixels), exif=exif), 16)
        assert read[:, :, :6].max() < -0.9 < 0.9 < read[:, :, 10:].min()


def test_the_middle_square_is_kept(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = RED
    for image in (Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2))):
        assert is_colour(read_image(save(tmp_path / "wide.png", image), 10)[:, 1:-1, 1:-1], RED)


def test_shrinking_averages(tmp_path):
    chess = np.indices((256, 256)).sum(0) % 2 * np.uint8(255)
    assert read_image(save(tmp_path / "chess.png", Image.fromarray(chess.astype(np.uint8))), 16).abs().max() < 0.05


def test_a_panorama_20000_pixels_wide_is_read(tmp_path):
    wide = Image.new("L", (20_000, 4_600), 51)
    for name in ("wide.png", "wide.jpg"):
        with pytest.warns(Image.DecompressionBombWarning):
            assert is_colour(read_image(save(tmp_path / name, wide), 16), (51, 51, 51))


def test_commands_read_a_panorama_without_a_warning(tmp_path, recwarn):
    save(tmp_path / "toy" / "wide.png", Image.new("L", (20_000, 4_600), 51))
    assert (
        cli.main(["learn", str(tmp_path / "toy"), "--out", str(tmp_path / "toy"), "--method", "ti"]) == 2
    )  # it has read them by then
    assert not [w for w in recwarn if w.category is Image.DecompressionBombWarning]


def test_pillows_limit_stays_while_a_picture_is_decoded(tmp_path, monkeypatch):
    """The limit is the whole process's: other threads read pictures too."""
    seen, decode = [], to_square
    monkeypatch.setattr(images, "to_square", lambda *a: (seen.append(Image.MAX_IMAGE_PIXELS), decode(*a))[1])
    limit = Image.MAX_IMAGE_PIXELS
    read_image(save(tmp_path / "small.png"), 8)
    assert seen == [limit] and limit


def test_more_pixels_than_pillow_decodes_are_refused(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    (tmp_path / "huge.png").write_bytes(b"".join(parts))
    with pytest.raises(UserError, match="huge.png has more than 179 million pixels: make it smaller"):
        read_image(tmp_path / "huge.png", 8)


def noise(size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.webp", "cut.gif", "text.png", "empty.png", "missing.png"])
def test_unreadable_files_are_named(tmp_path, name):
    path = tmp_path / "toy" / name
    save(tmp_path / "toy" / "good.png")
    if name.startswith("cut"):
        whole = save(path, noise(64)).read_bytes()
        assert read_image(path, 8).shape == (3, 8, 8)
        path.write_bytes(whole[: len(whole) // 2])
    elif name != "missing.png":
        path.write_text("holiday" * name.startswith("text"))
    with pytest.raises(
        UserError, match=f"cannot read .*{name} .*: save it again as PNG or JPEG, or remove it"
    ) as caught:
        read_image(path, 8)
    assert "\n" not in str(caught.value)
    if name != "missing.png":
        with pytest.raises(UserError, match=name):
            concepts(tmp_path / "toy")


# Folders


def test_a_folder_of_folders(tmp_path):
    photos = tmp_path / "photos"
    for path in ("b/2.JPG", "b/10.png", "a cup/x.webp", "a cup/.hidden.png", ".trash/x.png"):
        save(photos / path)
    (photos / "b" / "metadata.jsonl").write_text("{}")
    (photos / "b" / "notes.txt").write_text("nothing")
    found = concepts(photos)
    assert [c.name for c in found] == ["a-cup", "b"] and [c.token for c in found] == ["<a-cup>", "<b>"]
    assert [p.name for p in found[0].images] == ["x.webp"] and [p.name for p in found[1].images] == ["10.png", "2.JPG"]
    assert found[1].references == found[1].images
    assert found[1].load(8).shape == (2, 3, 8, 8) and is_colour(found[1].load(8)[0], RED)
    assert concepts(str(photos), count=1) == found[:1]


def test_references_lie_beside(tmp_path):
    save(tmp_path / "photos" / "a" / "1.png")
    save(tmp_path / "photos" / "b" / "1.png")
    real = save(tmp_path / "photos-references" / "a" / "9.png", Image.new("RGB", (9, 9), (0, 0, 255)))
    a, b = concepts(tmp_path / "photos")
    assert a.references == (real,) and is_colour(a.load_references(8)[0], (0, 0, 255))
    assert b.references == b.images


def test_one_folder_of_pictures_is_one_concept(tmp_path, monkeypatch):
    save(tmp_path / "my cat" / "1.png")
    save(tmp_path / "my cat-references" / "1.png")
    (found,) = concepts(tmp_path / "my cat")
    assert found.name == "my-cat" and found.references[0].parent.name == "my cat-references"
    monkeypatch.chdir(tmp_path / "my cat")
    assert [c.name for c in concepts(".")] == ["my-cat"]


def test_bad_folders(tmp_path):
    def refused(message, source, **options):
        with pytest.raises(UserError, match=message) as caught:
            concepts(source, **options)
        assert "\n" not in str(caught.value)

    refused("called .*nowhere: choose mini50, people25, falls25, mini25, mini10, tune5, tune20 or", "nowhere")
    refused("no set or folder", tmp_path / "nowhere")
    photos = tmp_path / "photos"
    photos.mkdir()
    refused("no images in .*photos: expected .png, .jpg or .webp", photos)
    save(photos / "person-01" / "1.png")
    (photos / "person-03" / "sub").mkdir(parents=True)
    refused("no images in .*photos/person-03: expected .png, .jpg or .webp", photos)
    save(photos / "person-03" / "1.png")
    assert len(concepts(photos)) == 2
    refused("order 'people-first' is for embedded sets", photos, order="people-first")
    refused("3 concepts asked for, .*photos has 2: choose 1 to 2", photos, count=3)
    refused("0 concepts asked for", photos, count=0)
    refused("1.png is a file", photos / "person-01" / "1.png")
    save(photos / "cover.png")
    refused("both pictures and folders", photos)


@pytest.mark.parametrize(("first", "second"), [("my cat", "my-cat"), ("Milo", "milo")])
def test_two_concepts_of_one_name(tmp_path, first, second):
    save(tmp_path / first / "1.png")
    assert len(concepts(tmp_path)) == 1
    save(tmp_path / second / "1.png")
    with pytest.raises(UserError, match="are called .* rename one folder"):
        concepts(tmp_path)


@pytest.mark.parametrize("name", ["Jürgen", "a<b", "v1.2"])
def test_names_that_cannot_be_tokens(tmp_path, name):
    save(tmp_path / name / "1.png")
    with pytest.raises(UserError, match="cannot be a concept's name: rename the folder"):
        concepts(tmp_path)


def test_set_hash_sees_names_pictures_and_order(tmp_path):
    save(tmp_path / "photos" / "a" / "1.png")
    save(tmp_path / "photos" / "b" / "1.png")
    found = concepts(tmp_path / "photos")
    before = set_hash(found)
    assert before == set_hash(concepts(tmp_path / "photos")) != set_hash(found[::-1])
    (tmp_path / "photos" / "b").rename(tmp_path / "photos" / "c")
    renamed = set_hash(concepts(tmp_path / "photos"))
    save(tmp_path / "photos" / "c" / "1.png", Image.new("RGB", (12, 12), (254, 0, 0)))
    assert len({before, renamed, set_hash(concepts(tmp_path / "photos"))}) == 3


# Tokens


def test_names_the_tokenizer_knows_are_refused(tmp_path, tokenizer):
    for name in ("red", "Person", "my-dog"):
        save(tmp_path / "photos" / name / "1.png")
    person, dog, red = concepts(tmp_path / "photos")[0], *concepts(tmp_path / "photos")[1:]
    check_tokens([dog], tokenizer)
    for concept in (red, person):
        with pytest.raises(UserError, match=f"{concept.name} is a word the model knows: rename the folder, say my-"):
            check_tokens([dog, concept], tokenizer)
    tokenizer.add_tokens(["<My-Dog>"])
    with pytest.raises(UserError, match="the model knows <my-dog> already"):
        check_tokens([dog], tokenizer)


def test_prompts_with_unknown_tokens_are_refused(tokenizer):
    check_prompt("a photo of 1 < 2 people", tokenizer)
    with pytest.raises(UserError, match="unknown token <person-03>: this model has learned no concept yet"):
        check_prompt("a photo of <person-03>", tokenizer)
    tokenizer.add_tokens([AddedToken(f"<person-{k:02}>", normalized=False) for k in range(1, 10)])
    check_prompt("a photo of <person-03> and <person-04>", tokenizer)
    with pytest.raises(UserError, match="unknown token <Person-04>: write <person-04>"):  # to it these are letters
        check_prompt("a photo of <person-03> and <Person-04>", tokenizer)
    with pytest.raises(UserError) as caught:
        check_prompt("a photo of <person-03> and <persn-04>", tokenizer)
    listed = ", ".join(f"<person-{k:02}>" for k in range(1, 9))
    assert str(caught.value) == f"unknown token <persn-04>: choose {listed}, ..."


def test_prompts_that_would_lose_a_token_or_are_no_text_are_refused(tokenizer):
    tokenizer.add_tokens([AddedToken("<my-dog>", normalized=False)])
    many = " photo" * tokenizer.model_max_length
    check_prompt("<my-dog> in a" + many, tokenizer)
    with pytest.raises(UserError, match="the prompt is too long, <my-dog> is cut off"):
        check_prompt("a" + many + " of <my-dog>", tokenizer)
    check_prompt("<my-dog> in a" + many + " with <my-dog>", tokenizer)  # the first one is seen
    with pytest.raises(UserError, match="bytes that are no text"):
        check_prompt("a photo of \udcff", tokenizer)


def test_angle_brackets_that_are_no_token_are_text(tokenizer):
    tokenizer.add_tokens([AddedToken("<my-dog>", normalized=False)])
    for prompt in (
        "I <3 cats",
        "I <3 cats and > dogs",
        "<-- a dog -->",
        "<b>no</ b>".replace("b>", "b >"),
        "< >",
        "<>",
    ):
        check_prompt(prompt, tokenizer)
    with pytest.raises(UserError, match="unknown token <My dog>: write <my-dog>"):
        check_prompt("a photo of <My dog>", tokenizer)


def test_words_beyond_the_text_encoders_length_are_named(tokenizer, recwarn):
    fits = "a photo of a red person" + " photo" * (tokenizer.model_max_length - 8)
    check_prompt(fits, tokenizer)
    assert not recwarn
    with pytest.warns(UserNotice, match="too long: the text encoder does not see its end, red person$"):
        check_prompt(fits + " red person", tokenizer)
