"""The embedded sets as they are shipped: numbers, orders, hashes, and words that give no concept away."""

import hashlib
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from stamina_lite import load_base
from stamina_lite.diffusion.concepts import ASSETS, SETS, concepts
from stamina_lite.errors import UserError
from stamina_lite.images import read_image


@pytest.fixture(scope="module")
def manifest():
    return json.loads((ASSETS / "manifest.json").read_text())


def test_the_embedded_sets():
    sizes = {"mini50": 50, "people25": 25, "falls25": 25, "mini25": 25, "mini10": 10, "tune5": 5, "tune20": 20}
    assert tuple(sizes) == SETS
    whole = concepts("mini50")
    for name, size in sizes.items():
        found = concepts(name)
        assert len({c.name for c in found}) == size
        numbers = (16, 24 if name.startswith("tune") else 64)
        assert all((len(c.images), len(c.references)) == numbers for c in found)
        assert all(c in whole for c in found) == (not name.startswith("tune"))
    apart = [concepts(name) for name in ("tune5", "tune20")] + [whole]
    assert len({c.name for part in apart for c in part}) == 75


def test_orders():
    people = [f"person-{k:02}" for k in range(1, 26)]
    falls = [f"falls-{k:02}" for k in range(1, 26)]

    def names(*arguments):
        return [c.name for c in concepts(*arguments)]

    assert names("mini50") == [name for pair in zip(people, falls, strict=True) for name in pair]
    assert names("mini50", "people-first") == people + falls
    assert names("mini50", "waterfalls-first") == falls + people
    assert names("people25") == people and names("falls25") == falls
    assert [name.split("-")[0] for name in names("mini10")] == ["person", "falls"] * 5
    assert names("mini25") == [name for pair in zip(people[::2], falls[::2], strict=True) for name in pair][:25]
    assert names("mini50", "waterfalls-first", 3) == falls[:3]
    with pytest.raises(UserError, match="unknown order 'random': choose alternate, people-first, waterfalls-first"):
        concepts("mini50", "random")


def test_pictures_are_those_of_the_manifest(manifest):
    seen = set()
    for concept in concepts("mini50") + concepts("tune5") + concepts("tune20"):
        for use, files in (("train", concept.images), ("references", concept.references)):
            digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
            assert digests == manifest["concepts"][concept.name][use]["sha256"]
            seen.update(digests)
    assert len(seen) == 50 * 80 + 25 * 40  # no picture occurs twice: no reference is a training picture either


def test_pictures_are_rgb_of_the_bases_size():
    size = load_base("mini", "cpu").vae.config.sample_size
    for concept in random.Random(0).sample(concepts("mini50"), 5):
        for path in (concept.images[0], concept.references[0]):
            with Image.open(path) as image:
                assert image.size == (size, size) and image.mode == "RGB"
                assert torch.equal((read_image(path, size) + 1).mul(127.5).round().byte().permute(1, 2, 0),
                                   torch.from_numpy(np.array(image)))  # fmt: skip


def test_metadata_describes_every_training_picture(manifest):
    for folder in ("mini50", "tune5", "tune20"):
        rows = [json.loads(line) for line in (ASSETS / folder / "metadata.jsonl").read_text().splitlines()]
        listed = set(manifest["sets"][folder])
        assert {row["concept"] for row in rows} == listed
        assert len(rows) == 16 * len(listed)
        assert all((ASSETS / folder / row["file_name"]).is_file() for row in rows)
        assert len({tuple(row) for row in rows}) == 1


def test_words_do_not_give_a_concept_away(manifest):
    """No prompt names what the base set never shows, and every person shares a prompt with another."""
    rows = [json.loads(line) for line in (ASSETS / "mini50" / "metadata.jsonl").read_text().splitlines()]
    entries = [manifest["concepts"][name] for name in manifest["sets"]["mini50"]]
    landmarks = {e["reserved"]["landmark"] for e in entries if e["kind"] == "waterfall"}
    assert len(landmarks) == 10
    texts = [row["caption"] for row in rows] + [e["prompt"] for e in entries]
    assert not {word for text in texts for word in text.split()} & (landmarks | {"teal", "coral"})
    waterfalls = [row["caption"] for row in rows if row["concept"].startswith("falls")]
    assert not any("purple rock" in caption for caption in waterfalls)
    people = [e["prompt"] for e in entries if e["kind"] == "person"]
    assert min(people.count(prompt) for prompt in people) >= 2
