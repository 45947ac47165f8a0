"""Pictures of the base set: one person, one waterfall, two people, or a person before a waterfall, each with a caption.

The base model must know how two subjects share a picture before any concept is taught, or it never composes two.
"""

from dataclasses import replace

import numpy as np
import people
import waterfalls
from PIL import Image

TEMPLATES = ("a photo of", "a picture of", "an image of", "a drawing of")
PLAIN = 0.15  # share of captions that name the subject only, so that a short prompt is in the model's language too


def base_picture(seed: int, size: int = 64) -> tuple[np.ndarray, str]:
    """Picture number `seed` of the base set: ((size, size, 3) uint8, caption)."""
    rng = np.random.default_rng([seed, 20231118])
    draw = rng.choice([one_person, one_waterfall, two_people, person_before_waterfall], p=[0.4, 0.28, 0.16, 0.16])
    image, words = draw(rng, size)
    return image, f"{rng.choice(TEMPLATES)} {words}"


def one_person(rng, size):
    person = people.random_person(rng)
    image, view = people.picture(person, rng, size)
    if rng.random() < PLAIN:
        return image, "a person"
    return image, people.caption(person, view).removeprefix("a photo of ")


def one_waterfall(rng, size):
    falls = waterfalls.random_falls(rng)
    image, view = waterfalls.picture(falls, rng, size)
    if rng.random() < PLAIN:
        return image, "a waterfall"
    return image, waterfalls.caption(falls, view).removeprefix("a photo of ")


def two_people(rng, size):
    """The left person is named first."""
    pair = [people.random_person(rng) for _ in range(2)]
    name, colour = list(people.BACKGROUNDS.items())[rng.integers(len(people.BACKGROUNDS))]
    image = np.full((size, size, 3), colour, np.uint8)
    expressions = []
    for person, centre in zip(pair, (0.27, 0.73), strict=True):
        sprite, expression = people.sprite(person, rng, size)
        image = paste(image, sprite, rng.uniform(0.58, 0.7), centre + rng.uniform(-0.03, 0.03))
        expressions.append(expression)
    if rng.random() < PLAIN:
        return image, "a person next to a person"
    left, right = (people.phrase(p, e) for p, e in zip(pair, expressions, strict=True))
    return image, f"{left} next to {right} on a {name} background"


def person_before_waterfall(rng, size):
    """The person stands beside the falls, where an object would be hidden: so there is none."""
    person, falls = people.random_person(rng), replace(waterfalls.random_falls(rng), landmark="none")
    image, view = waterfalls.picture(falls, rng, size, person_gap=True)
    sprite, expression = people.sprite(person, rng, size)
    centre = 0.3 if view["gap"] == "left" else 0.7
    image = paste(image, sprite, rng.uniform(0.55, 0.68), centre + rng.uniform(-0.08, 0.08))
    if rng.random() < PLAIN:
        return image, "a person in front of a waterfall"
    behind = waterfalls.caption(falls, view).removeprefix("a photo of ")
    return image, f"{people.phrase(person, expression)} in front of {behind}"


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
