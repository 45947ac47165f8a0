"""Pictures of the base set: one person, one waterfall, two people, or a person before a waterfall, each with a caption.

The base model must know how two subjects share a picture before any concept is taught, or it never composes two.
"""

from dataclasses import replace

import numpy as np
import people
import waterfall_tables as tables
import waterfalls
from named import names, someone, somewhere
from PIL import Image

TEMPLATES = ("a photo of", "a picture of", "an image of", "a drawing of")
# Shares of captions that name the subject only, so that a short prompt is in the model's language too.
PLAIN = {"stranger": 0.15, "acquaintance": 0.5}


def base_picture(seed: int, size: int = 128) -> tuple[np.ndarray, str]:
    """Picture number `seed` of the base set: ((size, size, 3) uint8, caption)."""
    rng = np.random.default_rng([seed, 20231118])
    draw = rng.choice([one_person, one_waterfall, two_people, person_before_waterfall], p=[0.5, 0.26, 0.12, 0.12])
    image, words = draw(rng, size)
    return image, f"{rng.choice(TEMPLATES)} {words}"


def words() -> list[str]:
    """Every word that a caption may have: the base model's language."""
    grammar = " ".join(TEMPLATES) + " a an and at by day fog front hair in next on person to two three with background"
    colours, looks = (
        [*people.HAIR_COLOURS, *people.BACKGROUNDS],
        [*people.EXPRESSIONS, "long", "short", "bald", "glasses"],
    )
    places = [*tables.KINDS, *tables.WIDTHS, *tables.ROCKS, *tables.BASE_OBJECTS, *tables.TIMES, *tables.SEASONS]
    return sorted({*grammar.split(), *colours, *looks, *places, "waterfall", "waterfalls", "rock", *names()})


def plainly(rng, *names: str) -> bool:
    return rng.random() < PLAIN["acquaintance" if any(names) else "stranger"]


def one_person(rng, size):
    person, name = someone(rng)
    image, view = people.picture(person, rng, size)
    if plainly(rng, name):
        return image, name or "a person"
    return image, people.caption(person, view, name).removeprefix("a photo of ")


def one_waterfall(rng, size):
    falls, name = somewhere(rng)
    image, view = waterfalls.picture(falls, rng, size)
    if plainly(rng, name):
        return image, name or "a waterfall"
    return image, waterfalls.caption(falls, view, name).removeprefix("a photo of ")


def two_people(rng, size):
    """The left person is named first."""
    pair = [someone(rng) for _ in range(2)]
    background, colour = list(people.BACKGROUNDS.items())[rng.integers(len(people.BACKGROUNDS))]
    image = np.full((size, size, 3), colour, np.uint8)
    expressions = []
    for (person, _), centre in zip(pair, (0.27, 0.73), strict=True):
        sprite, expression = people.sprite(person, rng, size)
        image = paste(image, sprite, rng.uniform(0.62, 0.68), centre + rng.uniform(-0.02, 0.02))
        expressions.append(expression)
    if plainly(rng, *(name for _, name in pair)):
        return image, " next to ".join(name or "a person" for _, name in pair)
    left, right = (people.phrase(p, e, name) for (p, name), e in zip(pair, expressions, strict=True))
    return image, f"{left} next to {right} on a {background} background"


def person_before_waterfall(rng, size):
    """The person stands beside the falls, where an object would be hidden: so there is none."""
    (person, name), (falls, place) = someone(rng), somewhere(rng)
    falls = replace(falls, landmark="none")
    image, view = waterfalls.picture(falls, rng, size, person_gap=True)
    sprite, expression = people.sprite(person, rng, size)
    centre = 0.3 if view["gap"] == "left" else 0.7
    image = paste(image, sprite, rng.uniform(0.58, 0.66), centre + rng.uniform(-0.05, 0.05))
    if plainly(rng, name, place):
        return image, f"{name or 'a person'} in front of {place or 'a waterfall'}"
    behind = waterfalls.caption(falls, view, place).removeprefix("a photo of ")
    return image, f"{people.phrase(person, expression, name)} in front of {behind}"


def paste(image: np.ndarray, sprite: np.ndarray, scale: float, centre: float) -> np.ndarray:
    """Shrink an RGBA sprite by `scale` and stand it on the lower edge of the picture, centred at `centre` of its width.

    image: (size, size, 3) uint8; sprite: (size, size, 4) uint8, straight alpha.
    """
    size = len(image)
    small = round(size * scale)
    figure = Image.fromarray(sprite).convert("RGBa").resize((small, small), Image.LANCZOS).convert("RGBA")
    canvas = Image.fromarray(image).convert("RGBA")
    canvas.alpha_composite(pad(figure, size, round(centre * size - small / 2), size - small))
    return np.asarray(canvas.convert("RGB"))


def pad(figure: Image.Image, size: int, left: int, top: int) -> Image.Image:
    """The figure on an empty canvas; what lies outside the canvas is cut off."""
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(figure, (left, top))
    return canvas
