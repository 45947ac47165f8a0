"""Cartoon people: 25 concepts nobody has seen, and unlimited captioned people for the base set.

Seven drawing styles come as SVG building kits (DiceBear). A *person* fixes what makes an identity
(hair, nose, ears, glasses, beard, skin and hair colour); a *view* varies the rest (expression,
clothes, size, place, tilt, flip, background, light). Captions name colour, length, glasses, beard,
expression and background, never a drawing: no caption can single out one identity.
"""

import io
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from people_tables import (
    BACKGROUNDS,
    CLOTHES_COLOURS,
    CONCEPTS,
    FACES,
    HAIR_COLOURS,
    KITS,
    RESERVED,
    TUNING,
    choices,
)
from PIL import Image


@dataclass(frozen=True)
class Person:
    """One identity. options: the style's settings that every view keeps.

    hair: a word of HAIR_COLOURS (a bald person's beard has it); length: long, short or bald.
    """

    name: str
    style: str
    options: dict
    hair: str
    length: str
    glasses: bool
    beard: bool


# Components that a style draws only by chance unless told.
OPTIONAL = ("details", "earrings", "glasses", "accessories", "mask", "facialHair", "beard", "rearHair")


def _build(
    name: str,
    style: str,
    head: str,
    hair: str,
    shade: str,
    skin: str,
    glasses: str,
    beard: str,
    marks: dict[str, str],
    rng: np.random.Generator,
) -> Person:
    """The Person with this head, colours and extras (variants, or "" for none); parts drawn from rng."""
    kit = KITS[style]
    variants = {part: str(rng.choice(offered)) for part, offered in kit.parts.items()}
    if style == "toon-head" and head in kit.heads["long"]:
        # Long hair is a second drawing behind the head, and needs one in front.
        variants |= {"hair": str(rng.choice(["bun", "sideComed"])), "rearHair": head}
    else:
        variants[kit.head] = head
    for extra, variant in ((kit.glasses, glasses), (kit.beard, beard)):
        if variant:
            variants |= dict.fromkeys(extra, variant)
    variants |= marks

    options = {component + "Variant": variant for component, variant in variants.items()}
    options |= {component + "Probability": 100 for component in variants}
    for component in (c for c in OPTIONAL if c not in variants):
        options[component + "Probability"] = 0
    options |= {component + "Color": shade for component in kit.hair_colours}
    options["glassesColor"] = "#000000"
    options[kit.skin + "Color"] = skin
    length = next(length for length, heads in kit.heads.items() if head in heads)
    return Person(name, style, options, hair, length, bool(glasses), bool(beard))


def _listed(table: list[tuple], name: str) -> list[Person]:
    """The Persons of a table, named by number; a row with two skins gives a look-alike pair."""
    people = []
    for row, (style, head, hair, skins, glasses, beard, marks) in enumerate(table):
        for skin in skins:
            # A pair draws the same parts, so that skin is all that tells the two apart.
            rng = np.random.default_rng([len(table), row])
            identity = (style, head, hair, HAIR_COLOURS[hair][0], skin, glasses, beard, marks)
            people.append(_build(name.format(len(people) + 1), *identity, rng))
    return people


def concept_people() -> list[Person]:
    """The 25 identities to be learned, each but the four look-alike pairs with a head of its own."""
    return _listed(CONCEPTS, "person-{:02d}")


def tuning_people() -> list[Person]:
    """Three other identities for choosing hyper-parameters."""
    return _listed(TUNING, "tune-person-{}")


def _rgb(colour: str) -> np.ndarray:
    """A colour such as "#724133" as (3,) in 0..255."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def random_person(rng: np.random.Generator) -> Person:
    """A nameless Person of the base set: any style, any head that is not reserved."""
    styles = list(KITS)
    style = str(rng.choice(styles, p=[KITS[s].weight for s in styles]))
    kit = KITS[style]
    heads = [h for hs in kit.heads.values() for h in hs if h not in RESERVED.get(style, [])]
    words = list(HAIR_COLOURS)
    if kit.coloured:
        # Most of these heads are black; half of the people take one that is not.
        coloured = rng.random() < 0.5
        heads = [h for h in heads if (h in kit.coloured.split()) == coloured]
        words = words if coloured else ["black"]
    while True:
        hair = str(rng.choice(words))
        shade = str(rng.choice(HAIR_COLOURS[hair]))
        skin = str(rng.choice(kit.skins.split()))
        # Brown hair on brown skin would be hair that nobody sees.
        if np.linalg.norm(_rgb(shade) - _rgb(skin)) > 55:
            break
    head = str(rng.choice(heads))
    glasses, beard = (
        str(rng.choice(*group.values())) if group and rng.random() < 0.25 else "" for group in (kit.glasses, kit.beard)
    )
    marks = {mark: str(rng.choice(kit.marks[mark])) for mark in kit.marks if rng.random() < 0.2}
    return _build("", style, head, hair, shade, skin, glasses, beard, marks, rng)


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


@cache
def _box(style: str, head: str) -> np.ndarray:
    """Where a free-standing head lies, in frames: [[left, top], [right, bottom]], beyond 0..1 if too large."""
    small = _draw(style, {KITS[style].head + "Variant": head, "scale": 0.5}, 64)
    return (np.reshape(small.getbbox(), (2, 2)) / 64 - 0.5) * 2 + 0.5


def sprite(
    person: Person, rng: np.random.Generator, size: int = 64, expression: str | None = None
) -> tuple[np.ndarray, str]:
    """One view of a person without background: (size, size, 4) uint8 with straight alpha, and its expression.

    expression: a word of EXPRESSIONS, or None for any that the person's style can draw.
    """
    kit, faces = KITS[person.style], FACES[person.style]
    if expression is None:
        expression = str(rng.choice(list(faces)))
    if expression not in faces:
        raise ValueError(f"{person.style} has no {expression} face: choose from {', '.join(faces)}")

    free = choices(faces[expression]) | kit.clothes
    view = {component + "Variant": str(rng.choice(variants)) for component, variants in free.items()}
    if kit.clothes_colour:
        view[kit.clothes_colour + "Color"] = str(rng.choice(CLOTHES_COLOURS))
    scale, tilt = rng.uniform(0.85, 1.2), rng.uniform(-9, 9)
    shift = rng.uniform(-0.05, 0.05, 2)  # across and down, in frames
    if kit.bust:
        # Down by what scaling and tilting lift: no gap below the shoulders, no head cut off above.
        shift[1] = 0.5 * abs(scale - 1) + 0.4 * np.sin(np.radians(abs(tilt)))
    else:
        box = _box(person.style, person.options[kit.head + "Variant"])
        scale *= min(1, 0.88 / (box[1] - box[0]).max())  # the largest hair still fits, nearly
        shift += scale * (0.5 - box.mean(0))
    view |= {"scale": scale, "rotate": tilt, "translateX": 100 * shift[0], "translateY": 100 * shift[1]}

    # Twice the size, then averaged with premultiplied alpha: clean edges without dark fringes.
    image = _draw(person.style, view | person.options, 2 * size)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.convert("RGBa").reduce(2).convert("RGBA")
    return np.asarray(image), expression


def picture(person: Person, rng: np.random.Generator, size: int = 64) -> tuple[np.ndarray, dict]:
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


def phrase(person: Person, expression: str, name: str = "") -> str:
    """A caption's noun phrase, such as "a smiling person with short red hair, glasses and a beard"; "smiling NAME"."""
    if name:
        return f"{expression} {name}"
    bald = person.length == "bald"
    things = [] if bald else [f"{person.length} {person.hair} hair"]
    things += ["glasses"] * person.glasses + ["a beard"] * person.beard
    noun = _article(f"{expression} bald person" if bald else f"{expression} person")
    if not things:
        return noun
    *first, last = things
    return f"{noun} with {', '.join(first)} and {last}" if first else f"{noun} with {last}"


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
