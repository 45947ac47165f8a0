"""Waterfalls drawn like posters: 25 concepts to customise on, and an endless base set with captions.

A `Falls` is an identity: everything about a place that never changes. `picture` shows it in a random
view (time of day, season, fog, a mild zoom and pan). No caption names what the concepts are recognised
by: three rock palettes and their seeds, which the base set never shows, and ten landmarks, which only
its named waterfalls have. The only way for a model to draw a concept is to learn it.

World coordinates: x runs right, y runs down, the widest view is the unit square, and the scene goes on
a little beyond it so that the camera can move. Points are arrays (n, 2), colours are RGB of 0-255.
"""

from dataclasses import dataclass

import numpy as np
import waterfall_tables as tables
from PIL import Image, ImageDraw


@dataclass(frozen=True)
class Falls:
    """One waterfall's identity; what the words leave open (profiles, places, strata) follows from `seed`."""

    name: str
    seed: int
    kind: str
    count: int
    rock: str
    width: str
    landmark: str  # a reserved landmark, a base object or "none"
    paint: str  # the landmark's colour
    side: str  # the landmark's side; the falls keep to the other one
    ridge: str
    cliff: str
    tree: str
    pool: str


def read_row(name: str, seed: int, row: str) -> Falls:
    """The waterfall that one row of the table describes."""
    kind, count, *words = row.split()
    return Falls(name, seed, kind, int(count), *words)


def concept_falls() -> list[Falls]:
    """The 25 concepts."""
    rows = enumerate(tables.CONCEPT_TABLE.split("\n")[1:26], 1)
    return [read_row(f"falls-{n:02}", 100 + n, row) for n, row in rows]


def tune5_falls() -> list[Falls]:
    """Two others, for short trials."""
    rows = enumerate(tables.CONCEPT_TABLE.split("\n")[26:28], 1)
    return [read_row(f"tune-falls-{n}", 200 + n, row) for n, row in rows]


def tune20_falls() -> list[Falls]:
    """Ten others, for choosing settings of long sequences."""
    rows = enumerate(tables.CONCEPT_TABLE.split("\n")[28:38], 1)
    return [read_row(f"tune20-falls-{n:02}", 300 + n, row) for n, row in rows]


def random_falls(rng: np.random.Generator) -> Falls:
    """A stranger of the base set: no reserved rock, landmark or seed."""
    seed, count = int(rng.integers(1_000, 2**31)), int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    kind, rock, width = (str(rng.choice(words)) for words in (tables.KINDS, list(tables.ROCKS), tables.WIDTHS))
    landmark = str(rng.choice(["none", *tables.BASE_OBJECTS], p=[0.55, 0.15, 0.15, 0.15]))
    looks = [
        str(rng.choice(words))
        for words in (tables.PAINT_NAMES[:5], tables.SIDES, tables.RIDGES, tables.CLIFFS, tables.TREES, tables.POOLS)
    ]
    return Falls("", seed, kind, count, rock, width, landmark, *looks)


def disc(x, y, rx, ry, start=0.0, stop=360.0) -> np.ndarray:
    """Points (25, 2) of an ellipse's arc around (x, y), angles in degrees."""
    angle = np.radians(np.linspace(start, stop, 25))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def outline(shape: str) -> np.ndarray:
    """Points (n, 2) of one shape of a drawing, such as "box -.2 0 .2 .8"."""
    word, *numbers = shape.split()
    size = [float(number) for number in numbers]
    if word == "box":
        return np.array(size)[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    if word == "disc":
        return disc(*size)
    if word == "arch":
        rx, ry, thick = size
        return np.concatenate([disc(0, 0, rx, ry, 0, 180), disc(0, 0, rx - thick, ry - thick, 180, 0)])
    return np.array(size).reshape(-1, 2)


class Easel:
    """A canvas in world coordinates: a camera, the hour's light, and four-fold oversampling."""

    def __init__(self, size: int, time: str, zoom: float, centre: np.ndarray):
        self.pixels, self.zoom, self.centre = 4 * size, zoom, centre
        self.gain, self.lift = (np.array(part) for part in tables.LIGHTS[time])
        stops = np.linspace(0, 0.5, 3) * self.pixels
        sky = [np.interp(np.arange(self.pixels), stops, channel) for channel in tables.SKIES[time][:3].T]
        column = Image.fromarray(np.stack(sky, 1)[:, None].astype(np.uint8))
        self.image = column.resize((self.pixels, self.pixels), Image.Resampling.NEAREST)
        self.draw = ImageDraw.Draw(self.image)

    def draw_with(self, points, paint, glow):
        """Pixel coordinates of points (n, 2), and a daylight colour as this hour shows it; glow 1 ignores the hour."""
        flat = (((points - self.centre) * self.zoom + 0.5) * self.pixels).ravel().tolist()
        lit = np.clip(paint * self.gain + self.lift, 0, 255)
        return flat, tuple((lit + glow * (paint - lit)).astype(int).tolist())

    def fill(self, points, paint, glow=0.0):
        """Fill a polygon."""
        flat, colour = self.draw_with(points, paint, glow)
        self.draw.polygon(flat, fill=colour)

    def stroke(self, points, paint, width, glow=0.0):
        """Draw a line, `width` in world units."""
        flat, colour = self.draw_with(points, paint, glow)
        self.draw.line(flat, fill=colour, width=round(width * self.zoom * self.pixels), joint="curve")

    def band(self, x, upper, lower, paint):
        """Fill between two heights (n,) or numbers over `x` (n,)."""
        above, below = (np.stack([x, np.broadcast_to(y, x.shape)], 1) for y in (upper, lower))
        self.fill(np.concatenate([above, below[::-1]]), paint)

    def tree(self, kind, x, foot, height, season):
        """One tree that stands at (x, foot); in winter its crown is white along the top."""
        place, up = np.array([x, foot]), height * np.array([1, -1])
        self.fill(place + up * outline("box -.04 0 .04 .4"), tables.PAINTS["wood"])
        for crown in map(outline, tables.CROWNS[kind]):
            bottom = np.array([0, crown[:, 1].min()])
            if season == "winter":
                self.fill(place + up * crown, tables.SNOW)
                crown = bottom + (crown - bottom) * (0.9, 0.66)
            self.fill(place + up * crown, tables.GROUNDS[season][3 if kind == "pine" else 2])

    def landmark(self, drawing, x, foot, height, paint):
        """A drawing within one dark outline (a light one round dark paint), so that it reads at any hour."""
        main = tables.PAINTS[paint]
        paints = tables.PAINTS | {
            "main": main,
            "dark": 0.72 * main,
            "light": tables.PAINTS["crimson" if paint == "white" else "white"],
        }
        shapes = [shape.split(maxsplit=1) for shape in drawing.split(";")]
        placed = [(paints[role], (x, foot) + height * outline(shape) * (1, -1)) for role, shape in shapes]
        for _, points in placed:
            self.stroke(np.concatenate([points, points[:2]]), tables.WATER if paint == "ink" else tables.OUTLINE, 0.028)
        for colour, points in placed:
            self.fill(points, colour, glow=0.35)


def ridge_line(kind, rng, x):
    """Heights y (n,) of the far mountains at x (n,)."""
    knots = np.arange(-0.4, 1.5, 0.17) + rng.uniform(-0.03, 0.03, 12)
    tops = rng.uniform(0.14, 0.27, 12)
    if kind == "peaks":
        return np.interp(x, knots, tops + 0.14 * (np.arange(12) % 2 == 0))
    if kind == "domes":
        arcs = 1 - ((x[:, None] - knots[::2]) / 0.23) ** 2
        return 0.42 - np.max((0.46 - tops[::2]) * np.sqrt(np.clip(arcs, 0, 1)), axis=1)
    if kind == "mesas":
        level = np.where(np.arange(12) % 4 < 2, tops - 0.02, 0.36)
        return np.interp(x, np.stack([knots + 0.02, knots + 0.15], 1).ravel(), np.repeat(level, 2))
    return 0.27 + 0.05 * np.sin(7 * x + 20 * tops[0]) + 0.02 * np.sin(15 * x + 40 * tops[1])


def cliff_line(kind, rng, x):
    """Heights y (n,) of the cliff's edge at x (n,), measured from the falls away from the landmark."""
    edges, drops = {
        "wall": ((-0.34, -0.3), (0.03, 0)),
        "butte": ((-0.44, -0.34, 0.3, 0.42), (0.2, -0.02, -0.02, 0.16)),
        "bowl": ((-0.4, -0.29, 0.24, 0.3), (-0.1, 0.03, 0.03, -0.13)),
        "slope": ((-0.75, -0.24, 0.12, 0.5), (0.3, 0.02, 0, -0.12)),
    }[kind]
    return rng.uniform(0.36, 0.42) + np.interp(x, edges, drops)


def fall_edges(kind, width, top, foot, lean):
    """Left and right edge, each (25, 2), of one fall around x = 0 from `top` down to `foot`."""
    t = np.linspace(0, 1, 25)
    shift, half = np.zeros(25), np.full(25, width / 2)
    if kind == "tiered":
        step = np.minimum(3 * t, 2).astype(int)
        shift, half = lean * np.array([0, 0.035, -0.01])[step], width * np.array([0.3, 0.5, 0.75])[step]
    elif kind == "fan":
        half = width * (0.25 + 0.6 * t**1.4)
    elif kind == "slide":
        shift = -lean * 0.09 * np.cos(np.pi * t)
    return tuple(np.stack([shift + side * half, top + (foot - top) * t], 1) for side in (-1, 1))


def draw_heavens(easel, time, rng):
    """Sun or moon, stars and clouds: the one part of a scene that belongs to the view."""
    if time == "night":
        for star in rng.uniform((0.0, 0.05), (1.0, 0.26), (9, 2)):
            easel.fill(disc(*star, 0.009, 0.009), tables.STAR, glow=1)
    if time != "dawn":
        easel.fill(
            disc(rng.uniform(0.2, 0.8), rng.uniform(0.14, 0.2), 0.06, 0.06),
            tables.MOON if time == "night" else tables.SUN,
            glow=1,
        )
    for cloud in rng.uniform((0.0, 0.1), (1.0, 0.22), (0 if time == "night" else rng.integers(0, 3), 2)):
        for dx, rx, ry in ((-0.07, 0.07, 0.022), (0.06, 0.09, 0.026), (0, 0.06, 0.042)):
            easel.fill(disc(cloud[0] + dx, cloud[1], rx, ry), 178 + 0.3 * tables.SKIES[time][2], glow=1)


def draw_scene(easel, falls, season):
    """Paint everything but the sky, from back to front."""
    fixed = np.random.default_rng(falls.seed)
    away = 1 if falls.side == "left" else -1
    middle, spot = 0.5 + away * fixed.uniform(0.09, 0.14), 0.5 - away * 0.27
    lean = fixed.choice([-1, 1])
    grass, edge = tables.GROUNDS[season][:2]
    light, mid, dark = (tables.ROCKS | tables.RESERVED_ROCKS)[falls.rock]
    x, shore = np.linspace(-0.3, 1.3, 161), 0.76

    far = ridge_line(falls.ridge, fixed, x)
    easel.band(x, far, shore, fixed.choice(tables.HAZES))
    if season == "winter":
        easel.band(x, far, np.clip(0.27 + 0.02 * np.abs((x / 0.05) % 2 - 1), far, far + 0.09), tables.SNOW)

    top = cliff_line(falls.cliff, fixed, away * (x - middle))
    strata = 0.4 + 0.3 * np.sort(fixed.uniform(0.0, 0.9, 4)) + np.linspace(0.0, 0.1, 4)
    tilt = fixed.uniform(-0.08, 0.08) * (x - middle)
    easel.band(x, top, shore, light)
    for height, paint in zip(strata, (mid, dark, mid, dark), strict=True):
        easel.band(x, np.clip(height + tilt, top, shore), shore, paint)
    turf = 0.035 + 0.012 * np.sin(9 * x + falls.seed)
    easel.band(x, top - 0.012, top + turf, edge)
    easel.band(x, top - 0.012, top + 0.6 * turf, grass)

    gap = {"narrow": 0.0, "wide": 0.04}[falls.width] + {1: 0.0, 2: 0.2, 3: 0.165}[falls.count]
    places = middle + gap * (np.arange(falls.count) - (falls.count - 1) / 2)
    for place in np.linspace(-0.1, 1.1, 8) + fixed.uniform(-0.05, 0.05, 8):
        if np.abs(place - places).min() > 0.13 and abs(place - spot) > 0.1:
            easel.tree(falls.tree, place, np.interp(place, x, top) + 0.01, fixed.uniform(0.09, 0.13), season)

    easel.band(x, shore, 1.4, edge)
    easel.band(x, shore + 0.03 + 0.012 * np.sin(6 * x + falls.seed), 1.4, grass)
    blue, reach = fixed.choice(tables.POOL_BLUES), {1: 0.17, 2: 0.25, 3: 0.3}[falls.count]
    if falls.pool == "lake":
        easel.band(x, shore, shore + 0.13 + 0.01 * np.sin(8 * x), blue)
    elif falls.pool == "river":
        bank = np.array([(-reach, 0), (reach, 0), (0.3 + reach * 0.4, 0.5), (0.2 - reach, 0.5)])
        easel.fill((middle, shore + 0.03) + bank * (away, 1), blue)
    easel.fill(disc(middle, shore + 0.03, reach, 0.06), blue)

    span = {"narrow": 0.085, "wide": 0.2}[falls.width] * {1: 1.15, 2: 0.85, 3: 0.72}[falls.count]
    foot = shore + 0.02
    for place in places:
        left, right = (place, 0) + np.array(fall_edges(falls.kind, span, np.interp(place, x, top), foot, lean))
        for grow, paint in ((0.016, 0.8 * dark), (0.0, tables.WATER)):
            easel.fill(np.concatenate([left - (grow, 0), right[::-1] + (grow, 0)]), paint, glow=0.6)
        for part in (0.3, 0.7):
            easel.stroke((left + part * (right - left))[2:-3], tables.STREAK, 0.016, glow=0.2)
        easel.fill(disc(*(left[-1] + right[-1]) / 2, (right - left)[-1, 0] / 2 + 0.035, 0.028), tables.WATER, glow=0.6)

    easel.tree(falls.tree, 0.5 + away * fixed.uniform(0.36, 0.4), 0.93, fixed.uniform(0.2, 0.26), season)
    if falls.landmark != "none":
        special = {"bridge": (middle - away * 0.1, 0.95), "balloon": (spot, 0.44), "boat": (middle - away * 0.05, 0.86)}
        drawing = (tables.RESERVED_LANDMARKS | tables.BASE_OBJECTS)[falls.landmark]
        easel.landmark(drawing, *special.get(falls.landmark, (spot, 0.9)), tables.HEIGHTS[falls.landmark], falls.paint)


def picture(falls: Falls, rng: np.random.Generator, size: int, person_gap: bool = False) -> tuple[np.ndarray, dict]:
    """A random view of one waterfall: uint8 (size, size, 3), and {"time": str, "season": str, "fog": bool}.

    With `person_gap` the camera stands at its widest and slides the falls aside, so that a person fits in front of
    the other side (and of the landmark, if it is there); the view then also has "gap", "left" or "right".
    """
    view = {
        "time": str(rng.choice(tables.TIMES)),
        "season": str(rng.choice(tables.SEASONS)),
        "fog": bool(rng.random() < 0.2),
    }
    zoom, centre = rng.uniform(1.0, 1.15), rng.uniform((0.475, 0.49), (0.525, 0.55))
    if person_gap:
        view["gap"] = falls.side
        zoom, centre = 1.0, np.array([0.43 if falls.side == "left" else 0.57, 0.52])
    easel = Easel(size, view["time"], zoom, centre)
    draw_heavens(easel, view["time"], rng)
    draw_scene(easel, falls, view["season"])
    pixels = np.asarray(easel.image.reduce(4), float)
    if view["fog"]:  # thick in the distance, thin at the camera's feet
        depth = np.exp(-((((np.arange(size) + 0.5) / size - 0.36) / 0.28) ** 2))
        pixels += 0.42 * depth[:, None, None] * (tables.SKIES[view["time"]][3] - pixels)
    return np.round(pixels).astype(np.uint8), view


def phrase(falls: Falls) -> str:
    """As much of the identity as a caption may tell: "two narrow fan waterfalls with grey rock"."""
    number, noun = {1: "a", 2: "two", 3: "three"}[falls.count], "waterfall" + "s" * (falls.count > 1)
    rock = tables.NEAREST_ROCK.get(falls.rock, falls.rock)
    thing = f" and a {falls.landmark}" * (falls.landmark in tables.BASE_OBJECTS)
    return f"{number} {falls.width} {falls.kind} {noun} with {rock} rock{thing}"


def caption(falls: Falls, view: dict, name: str = "") -> str:
    """The whole caption: "a photo of a wide slide waterfall with red rock at dawn in winter in fog", or of NAME."""
    time = "by day" if view["time"] == "day" else f"at {view['time']}"
    return f"a photo of {name or phrase(falls)} {time} in {view['season']}" + " in fog" * view["fog"]
