"""Two concepts in one picture: real pictures pasted together are recognised, and only where they stand."""

import pytest
import torch

from stamina_lite import concepts
from stamina_lite.diffusion.composition import Pair, detect, halves, nearer, paste_pair
from stamina_lite.diffusion.evaluation import reference_features
from stamina_lite.measures.features import features

SIZE = 128  # of the pictures


@pytest.fixture(scope="module")
def world():
    """Eight people, no two of them look-alikes, and six waterfalls with their real features."""
    extractor = features("lite0")
    falls, people = concepts("falls25", count=6), concepts("people25")
    found = {c.name: c for c in falls + people[:8:2] + people[8:12]}
    real = {name: reference_features(c, extractor, SIZE) for name, c in found.items()}
    kinds = {kind: {n: x for n, x in real.items() if n.startswith(kind)} for kind in ("person", "falls")}
    return found, kinds, extractor


def test_prompts_say_how_two_concepts_stand(world):
    found = world[0]
    first, second, falls = (found[n] for n in ("person-01", "person-03", "falls-03"))
    assert Pair(first, second).prompt == "a photo of <person-01> next to <person-03>"
    assert Pair(first, falls, scene=True).prompt == "a photo of <person-01> in front of <falls-03>"


def test_halves_are_the_lower_corners():
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., 24:, :40], picture[..., 24:, 40:] = 1.0, 2.0
    left, right = halves(picture)
    assert left.shape == right.shape == (1, 3, 40, 40)
    assert (left == 1).all() and (right[..., :16] == 1).all() and (right[..., 16:] == 2).all()


def test_two_people_are_found_in_the_order_they_stand_in(world):
    found, kinds, extractor = world
    first, second = found["person-01"], found["person-05"]
    together = paste_pair(first.load(SIZE), second.load(SIZE))
    people = kinds["person"]
    right = detect(together, Pair(first, second), people, people, extractor)
    turned = detect(together, Pair(second, first), people, people, extractor)
    other = detect(together, Pair(found["person-03"], found["person-10"]), people, people, extractor)
    assert right["both"] > 0.5 and right["one"] >= right["both"] and right["nearer"] < 0.1
    assert turned["both"] < 0.1 and other["both"] < 0.1 and min(turned["nearer"], other["nearer"]) > 0.25


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_person_before_a_waterfall_is_found_on_either_side(world, mirrored):
    """The person is told from all concepts: among people only, a bare waterfall would be somebody too."""
    found, kinds, extractor = world
    person, falls = found["person-01"], found["falls-01"]
    pair, everything = Pair(person, falls, scene=True), kinds["person"] | kinds["falls"]
    together = paste_pair(person.load(SIZE), falls.load(SIZE), scene=True)
    there = detect(together.flip(-1) if mirrored else together, pair, everything, kinds["falls"], extractor)
    assert there["both"] > 0.5
    alone = detect(falls.load(SIZE), pair, everything, kinds["falls"], extractor)
    assert (alone["both"], alone["one"]) == (0.0, 1.0) and alone["nearer"] > there["nearer"]


def test_nearer_counts_the_concepts_before_ones_own(world):
    found = world[0]
    like = {name: torch.eye(3)[[k]] for k, name in enumerate(["person-01", "person-03", "person-05"])}
    part = torch.tensor([[0.9, 0.3, 0.1], [0.2, 0.9, 0.3], [0.5, 0.6, 0.7]])
    assert nearer(part, found["person-01"], like).tolist() == [0.0, 1.0, 1.0]
    assert nearer(part, found["person-03"], like).tolist() == [0.5, 0.0, 0.5]
