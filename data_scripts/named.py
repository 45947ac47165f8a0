"""The base set's acquaintances: people and waterfalls that come again and again under a made-up name.

Photographs of the world show known people and places many times, and their captions call them by name: so a large
model's text carries identities, and a new token can be given one. A model that has only met strangers had no need to
take an identity from its text.

A known waterfall may have a windmill or any other landmark in any paint, for which captions have no word but the name:
so the model can draw what concepts are made of, though it has never met a concept.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import people
import waterfalls
from waterfall_tables import PAINT_NAMES, RESERVED_LANDMARKS

PEOPLE, FALLS = 480, 360
SHARE = 0.6  # of all people and waterfalls of the base set


@cache
def names() -> tuple[str, ...]:
    """Made-up words of three syllables, such as "bakiru", all different: first the people's, then the waterfalls'."""
    rng, found = np.random.default_rng(20231119), {}
    while len(found) < PEOPLE + FALLS:
        word = "".join(rng.choice(list("bdfgklmnprstvz")) + rng.choice(list("aeiou")) for _ in range(3))
        found[str(word)] = None
    return tuple(found)


def someone(rng: np.random.Generator) -> tuple[people.Person, str]:
    """An acquaintance and the name, or a stranger and ""."""
    if rng.random() >= SHARE:
        return people.random_person(rng), ""
    k = int(rng.integers(PEOPLE))
    return people.random_person(np.random.default_rng([k, 19])), names()[k]


def somewhere(rng: np.random.Generator) -> tuple[waterfalls.Falls, str]:
    """A known waterfall and its name, or an unknown one and ""."""
    if rng.random() >= SHARE:
        return waterfalls.random_falls(rng), ""
    k = int(rng.integers(FALLS))
    return known_falls(k), names()[PEOPLE + k]


def known_falls(k: int) -> waterfalls.Falls:
    """The k-th known waterfall: three of four have a landmark that strangers never have."""
    fixed = np.random.default_rng([k, 20])
    falls = waterfalls.random_falls(fixed)
    if fixed.random() < 0.25:
        return falls
    landmark, paint = str(fixed.choice(list(RESERVED_LANDMARKS))), str(fixed.choice(PAINT_NAMES))
    return replace(falls, landmark=landmark, paint=paint)
