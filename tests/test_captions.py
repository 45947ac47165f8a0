"""Captions of a user's images: where they are found, how the concept's token gets into them, and that they train."""

import json

import pytest
from PIL import Image

from stamina_lite import ContinualLearner, cli
from stamina_lite.diffusion.captions import TEMPLATES, caption_with_templates
from stamina_lite.diffusion.concepts import concepts, set_hash
from stamina_lite.errors import UserError, UserNotice

FEW = {"steps": 2, "batch": 2}


@pytest.fixture
def dog(tmp_path):
    folder = tmp_path / "my-dog"
    folder.mkdir()
    for k in range(3):
        Image.new("RGB", (40, 40), (60 * k, 120, 90)).save(folder / f"{k}.jpg")
    return folder


def captions_of(folder) -> tuple:
    return concepts(folder)[0].captions


def test_captions_are_files_next_to_the_images(dog, recwarn):
    assert captions_of(dog) == (None, None, None)
    (dog / "0.txt").write_text("a photo of {} on the grass\n")
    (dog / "1.caption").write_text("My dog,\nasleep; <my-dog>", encoding="utf-8-sig")
    assert captions_of(dog) == ("a photo of {} on the grass", "{}, asleep; {}", None)
    assert not [w for w in recwarn if issubclass(w.category, UserNotice)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "0.jpg", "text": "{} in snow"}\n{"file_name": "2.jpg", "text": "a my_dog"}\n',
        ),
        (
            "metadata.jsonl",
            '{"file_name": "0.jpg", "captions": ["{} in snow"]}\n{"file_name": "2.jpg", "prompt": "a {}"}',
        ),
        ("metadata.csv", "file_name,caption\n0.jpg,{} in snow\n2.jpg,a my dog\n"),
    ],
)
def test_captions_are_a_table_of_the_folder(dog, name, content, recwarn):
    (dog / name).write_text(content)
    assert captions_of(dog) == ("{} in snow", None, "a {}")
    assert not [w for w in recwarn if issubclass(w.category, UserNotice)]


def test_captions_that_do_not_name_the_concept_are_said_to_be_unused(dog):
    (dog / "0.txt").write_text("a photo of my-dogs on the grass")  # the name is part of another word
    (dog / "1.txt").write_text("a photo of {}")
    with pytest.warns(
        UserNotice, match=r"captions of 1 images, such as 0.jpg \(where the concept belongs, write {} or my-"
    ):
        assert captions_of(dog) == (None, "a photo of {}", None)
    (dog / "notes.txt").write_text("the vet comes on Monday")  # of no image
    with pytest.warns(UserNotice) as caught:
        captions_of(dog)
    assert any("notes.txt" in str(w.message) for w in caught)


def test_a_table_above_the_concepts_is_said_to_be_unused(dog):
    (dog.parent / "metadata.jsonl").write_text('{"file_name": "my-dog/0.jpg", "text": "{} in snow"}')
    with pytest.warns(UserNotice, match="metadata.jsonl .captions belong into the folder of each concept"):
        assert captions_of(dog.parent) == (None, None, None)


@pytest.mark.parametrize("content", ["no json", "[1]", '{"text": "{} in snow"}', '{"file_name": "0.jpg", "text": 3}'])
def test_a_damaged_table_is_refused_in_one_line(dog, content):
    (dog / "metadata.jsonl").write_text(content)
    with pytest.raises(UserError, match="metadata.jsonl cannot be read: give every line a file_name, and one of text"):
        concepts(dog)
    (dog / "metadata.jsonl").unlink()
    (dog / "0.txt").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="0.txt is no text in UTF-8"):
        concepts(dog)


def test_an_image_is_trained_with_its_own_caption(dog, tiny, monkeypatch):
    """Images with a caption have it in every draw, the others the templates; all squares of an image share it."""
    (dog / "1.txt").write_text("{} in snow, {a} red photo")
    found = concepts(dog, crop="random")[0]
    seen = []
    monkeypatch.setattr(
        "stamina_lite.diffusion.model.caption_with_templates",
        lambda *args: seen.append(caption_with_templates(*args)) or seen[0],
    )
    ContinualLearner(tiny, "lora", **FEW).learn(found, progress=False)
    rows = [[seen[0].captions[k] for k in row] for row in seen[0].caption_ids.tolist()]
    templates, own = [t.format("<my-dog>") for t in TEMPLATES], ["<my-dog> in snow, {a} red photo"] * len(TEMPLATES)
    assert rows == [templates] * 4 + [own] * 4 + [templates] * 4


def test_other_captions_are_another_concept(dog, tiny, tmp_path):
    before = set_hash(concepts(dog))
    (dog / "1.txt").write_text("{} in the snow")
    assert set_hash(concepts(dog)) != before
    learner = ContinualLearner(tiny, "lora", out=tmp_path / "run", **FEW)
    learner.learn(concepts(dog)[0], progress=False)
    (dog / "1.txt").write_text("{} in a tree")
    with pytest.raises(UserError, match="my-dog was learned from other pictures, captions or crops"):
        learner.learn(concepts(dog)[0])


def test_a_caption_without_room_for_its_token_is_refused(dog, tiny):
    (dog / "1.txt").write_text("a photo of a red picture " * 12 + "{}")
    with pytest.raises(UserError, match="the prompt is too long, <my-dog> is cut off"):
        ContinualLearner(tiny, "lora", **FEW).learn(concepts(dog)[0], progress=False)


def test_the_command_line_takes_captions_and_crops(dog, tiny_folder, tmp_path, capsys):
    (dog / "metadata.jsonl").write_text(json.dumps({"file_name": "0.jpg", "text": "{} in snow"}))
    run = ["--method", "lora", "--base", str(tiny_folder), "--steps", "2", "--batch", "2", "--device", "cpu", "--out"]
    assert cli.main(["learn", str(dog), "--crop", "top", *run, str(tmp_path / "run")]) == 0
    assert cli.main(["learn", str(dog), *run, str(tmp_path / "run")]) == 2
    assert "my-dog was learned from other pictures, captions or crops" in capsys.readouterr().err
