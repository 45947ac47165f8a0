"""Cartoon people: 25 concepts nobody has seen, and unlimited captioned people for the base set.

Two drawing styles come as SVG building kits (DiceBear). Both draw a head from the front, at one size and place, so
that a small model can learn to draw it. A *person* fixes what makes an identity (hair, nose, ears, glasses, skin and
hair colour); a *view* varies the rest (expression, background, light, and a little size, place and tilt). Captions
name hair colour and length, glasses, expression and background, never a drawing: no caption can single out one
identity.
"""

import io
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from people_tables import (
    BACKGROUNDS,
    CONCEPTS,
    EXPRESSIONS,
    FACES,
    HAIR_COLOURS,
    KITS,
    RESERVED,
    TUNE5,
    TUNE20,
    choices,
)
from PIL import Image


@dataclass(frozen=True)
class Person:
    """One identity. options: the style's settings that every view keeps.

    hair: a word of HAIR_COLOURS; length: long, short or bald.
    """

    name: str
    style: str
    options: dict
    hair: str
    length: str
    glasses: bool


# Components that a kit draws by chance unless their probability is set.
OPTIONAL = ("details", "earrings", "glasses")
SIZE, TILT, SHIFT = 0.05, 3.0, 0.02  # how far a view may differ: part of the size, degrees, parts of the frame


def _build(
    name: str,
    style: str,
    head: str,
    hair: str,
    shade: str,
    skin: str,
    glasses: str,
    marks: dict[str, str],
    rng: np.random.Generator,
) -> Person:
    """The Person with this hair, colours and extras (glasses: a variant, or "" for none); parts drawn from rng."""
    kit = KITS[style]
    variants = {part: str(rng.choice(offered)) for part, offered in kit.parts.items()} | {"hair": head} | marks
    if glasses:
        variants["glasses"] = glasses
    options = {component + "Variant": variant for component, variant in variants.items()}
    options |= {component + "Probability": 100 for component in variants}
    options |= {component + "Probability": 0 for component in OPTIONAL if component not in variants}
    options |= {"hairColor": shade, "glassesColor": "#000000", "skinColor": skin}
    length = next(length for length, heads in kit.heads.items() if head in heads)
    return Person(name, style, options, hair, length, bool(glasses))


def _listed(table: list[tuple], name: str) -> list[Person]:
    """The Persons of a table, named by number; a row with two skins gives a look-alike pair."""
    people = []
    for row, (style, head, hair, skins, glasses, marks) in enumerate(table):
        for skin in skins:
            # A pair draws the same parts, so that skin is all that tells the two apart.
            rng = np.random.default_rng([len(table), row])
            identity = (style, head, hair, HAIR_COLOURS[hair][0], skin, glasses, marks)
            people.append(_build(name.format(len(people) + 1), *identity, rng))
    return people


def concept_people() -> list[Person]:
    """The 25 identities to be learned, each but the four look-alike pairs with hair of its own."""
    return _listed(CONCEPTS, "person-{:02d}")


def tune5_people() -> list[Person]:
    """Three other identities, for short trials."""
    return _listed(TUNE5, "tune-person-{}")


def tune20_people() -> list[Person]:
    """Ten other identities, for choosing settings of long sequences."""
    return _listed(TUNE20, "tune20-person-{:02d}")


def _rgb(colour: str) -> np.ndarray:
    """A colour such as "#724133" as (3,) in 0..255."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def random_person(rng: np.random.Generator) -> Person:
    """A nameless Person of the base set: either kit, any hair that is not reserved."""
    style = str(rng.choice(list(KITS)))
    kit = KITS[style]
    heads = [h for hs in kit.heads.values() for h in hs if h not in RESERVED[style]]
    while True:
        hair = str(rng.choice(list(HAIR_COLOURS)))
        shade = str(rng.choice(HAIR_COLOURS[hair]))
        skin = str(rng.choice(kit.skins.split()))
        # Brown hair on brown skin would be hair that nobody sees.
        if np.linalg.norm(_rgb(shade) - _rgb(skin)) > 55:
            break
    head = str(rng.choice(heads))
    glasses = str(rng.choice(kit.glasses)) if kit.glasses and rng.random() < 0.25 else ""
    marks = {mark: str(rng.choice(kit.marks[mark])) for mark in kit.marks if rng.random() < 0.2}
    return _build("", style, head, hair, shade, skin, glasses, marks, rng)


def _definition(style: str) -> dict:
    """A style's drawing kit as published."""
    return json.loads(files("dicebear_styles").joinpath(f"{style}.json").read_text(encoding="utf-8"))


@cache
def _style(style: str) -> object:
    """The parsed kit: parsing takes up to half a second, drawing a few milliseconds."""
    from dicebear import Style

    return Style(_definition(style))


def _draw(style: str, options: dict, size: int) -> Image.Image:
    """The drawing as RGBA, size x size, on nothing."""
    import resvg_py
    from dicebear import Avatar

    svg = Avatar(_style(style), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def sprite(
    person: Person, rng: np.random.Generator, size: int, expression: str | None = None
) -> tuple[np.ndarray, str]:
    """One view of a person without background: (size, size, 4) uint8 with straight alpha, and its expression.

    expression: a word of EXPRESSIONS, or None for any.
    """
    if expression is None:
        expression = str(rng.choice(EXPRESSIONS))
    view = {
        component + "Variant": str(rng.choice(variants))
        for component, variants in choices(FACES[person.style][expression]).items()
    }
    across, down = rng.uniform(-SHIFT, SHIFT, 2) + (0, KITS[person.style].drop)
    view |= {"scale": rng.uniform(1 - SIZE, 1 + SIZE), "rotate": rng.uniform(-TILT, TILT)}
    view |= {"translateX": 100 * across, "translateY": 100 * down}
    # Twice the size, then averaged with premultiplied alpha: clean edges without dark fringes.
    image = _draw(person.style, view | person.options, 2 * size)
    return np.asarray(image.convert("RGBa").reduce(2).convert("RGBA")), expression


def picture(person: Person, rng: np.random.Generator, size: int) -> tuple[np.ndarray, dict]:
    """One view on a plain background: (size, size, 3) uint8, {"expression": ..., "background": ...}."""
    image, expression = sprite(person, rng, size)
    background = str(rng.choice(list(BACKGROUNDS)))
    alpha = image[..., 3:] / 255
    paper = image[..., :3] * alpha + np.array(BACKGROUNDS[background]) * (1 - alpha)
    # A lamp somewhere aside: brightness differs between pictures, and across each by a few per cent.
    brightness, slope = rng.uniform(0.92, 1.05), rng.uniform(-0.05, 0.05)
    light = brightness + slope * np.linspace(-1, 1, size)[None, :, None]
    return (paper * light).clip(0, 255).round().astype(np.uint8), {
        "expression": expression,
        "background": background,
    }


def _article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def phrase(person: Person, expression: str = "", name: str = "") -> str:
    """A caption's noun phrase, such as "a smiling person with short red hair and glasses"; "smiling NAME"."""
    if name:
        return f"{expression} {name}".strip()
    things = [] if person.length == "bald" else [f"{person.length} {person.hair} hair"]
    things += ["glasses"] * person.glasses
    words = [expression, "bald" if person.length == "bald" else "", "person"]
    noun = _article(" ".join(word for word in words if word))
    return f"{noun} with {' and '.join(things)}" if things else noun


def caption(person: Person, view: dict, name: str = "") -> str:
    """The caption of a picture, as in "a photo of a sad person with long blond hair on a blue background"."""
    background = _article(view["background"] + " background")
    return f"a photo of {phrase(person, view['expression'], name)} on {background}"


def licences() -> dict[str, dict[str, str]]:
    """style -> title, creator, licence, source, and the sentence that its artist asks for."""
    metas = {style: _definition(style)["meta"] for style in KITS}
    return {
        style: {
            "title": meta["source"]["name"],
            "creator": meta["creator"]["name"],
            "licence": meta["license"]["name"],
            "source": meta["source"]["url"],
            "sentence": meta["license"]["text"],
        }
        for style, meta in metas.items()
    }
