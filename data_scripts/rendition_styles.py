"""One drawing in eight techniques, as ImageNet-R shows its classes in paintings, sketches, embroidery and tattoos.

Every technique takes art: (S, S, 4) floats in [0, 1], a drawing with its alpha, and a random generator, and returns
(S, S, 3) floats in [0, 1].
"""

import colorsys

import numpy as np
from PIL import Image, ImageFilter

LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
SKINS = ((0.96, 0.84, 0.74), (0.88, 0.70, 0.56), (0.74, 0.54, 0.40), (0.52, 0.36, 0.26))


def plain(art, rng):
    """On a ground of one colour, or of two that run into one another."""
    return over(art, ground(art, rng))


def sketch(art, rng):
    """Pencil: a picture divided by its own blurred negative leaves its lines (colour dodge)."""
    grey = over(art, np.ones_like(art[..., :3])) @ LUMA
    lines = np.clip(grey / np.maximum(1e-3, blurred(grey, rng.uniform(2, 4))), 0, 1) ** rng.uniform(1.5, 3)
    grain = 1 - 0.15 * rng.random(grey.shape) * (1 - grey)
    return (lines * grain)[..., None] * colour(rng, saturation=(0.0, 0.15), value=(0.9, 1.0))


def pixel(art, rng):
    """A few large pixels in a few colours."""
    size, small = len(art), int(rng.integers(16, 25))
    picture = to_image(plain(art, rng)).resize((small, small), Image.BOX).quantize(int(rng.integers(6, 13)))
    return from_image(picture.convert("RGB").resize((size, size), Image.NEAREST))


def embroidery(art, rng):
    """Patches of thread, each colour stitched in a direction of its own, on a woven cloth."""
    cloth = colour(rng, saturation=(0.05, 0.5), value=(0.55, 0.95))
    picture = to_image(over(art, np.broadcast_to(cloth, art[..., :3].shape))).quantize(int(rng.integers(5, 9)))
    patch, y, x = np.array(picture), *np.indices(art.shape[:2])
    angle = rng.uniform(0, np.pi, 256)[patch]
    thread = 0.5 + 0.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / rng.uniform(3, 4.5))
    weave = 0.5 + 0.25 * (np.sin(x * np.pi / 2) + np.sin(y * np.pi / 2))
    inside = art[..., 3] > 0.5
    light = np.where(inside, 0.72 + 0.36 * thread, 0.85 + 0.2 * weave)
    edge = blurred(inside.astype(float), 1.5)
    shadow = 1 - 0.35 * np.clip(edge * (1 - inside), 0, 1)
    return from_image(picture.convert("RGB")) * (light * shadow)[..., None]


def halftone(art, rng):
    """Ink dots on paper, the larger the darker, in rows at an angle."""
    paper = colour(rng, saturation=(0.0, 0.35), value=(0.9, 1.0))
    ink = colour(rng, saturation=(0.3, 1.0), value=(0.05, 0.45))
    grey = over(art, np.ones_like(art[..., :3])) @ LUMA
    y, x = np.indices(grey.shape) * 2 * np.pi / rng.uniform(4, 6)
    angle = rng.uniform(0, np.pi / 2)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    dots = (0.5 + (np.cos(u) + np.cos(v)) / 4 > grey * 0.9 + 0.05).astype(float)[..., None]
    return dots * ink + (1 - dots) * paper


def tattoo(art, rng):
    """Dark lines and faded colour on skin."""
    skin = np.array(SKINS[rng.integers(len(SKINS))])
    y, x = np.indices(art.shape[:2]) / len(art) - 0.5
    shade = 1 - 0.35 * (x * np.cos(a := rng.uniform(0, 2 * np.pi)) + y * np.sin(a)) ** 2 / 0.25
    body = skin * shade[..., None]
    grey = over(art, np.ones_like(art[..., :3])) @ LUMA
    lines = np.clip(4 * (edges(grey) + edges(art[..., 3])), 0, 1)[..., None]
    faded = art[..., :3] * 0.6 + grey[..., None] * 0.4
    stain = art[..., 3:] * rng.uniform(0.15, 0.5)
    return (body * (1 - stain) + body * faded * stain) * (1 - 0.85 * lines) + np.array(
        [0.08, 0.12, 0.16]
    ) * 0.85 * lines


def duotone(art, rng):
    """Two inks, one dark and one light, whichever way round the drawing is."""
    dark, light = colour(rng, (0.4, 1.0), (0.05, 0.4)), colour(rng, (0.1, 0.7), (0.85, 1.0))
    around = rng.choice([0.0, 1.0])
    inside = art[..., :3] @ LUMA
    seen = inside[art[..., 3] > 0.5]
    low, high = np.quantile(seen, (0.02, 0.98)) if len(seen) else (0.0, 1.0)
    inside = np.clip((inside - low) / max(0.05, high - low), 0, 1)
    if abs(inside[art[..., 3] > 0.5].mean() - around) < 0.4 if len(seen) else False:
        around = 1 - around  # a drawing of the ground's own tone would not be seen
    tone = (inside * art[..., 3] + around * (1 - art[..., 3]))[..., None]
    return dark * (1 - tone) + light * tone


def painting(art, rng):
    """Broad strokes: flat patches with ragged edges, their tone unsteady, on canvas."""
    picture = to_image(plain(art, rng)).filter(ImageFilter.ModeFilter(int(rng.choice([5, 7]))))
    y, x = np.indices(art.shape[:2])
    strokes = blurred(rng.random(art.shape[:2]), 1.2) - 0.5
    angle, canvas = rng.uniform(0, np.pi), 0.5 * (np.sin(x * np.pi / 2) + np.sin(y * np.pi / 2))
    run = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.9 + 30 * strokes)
    return from_image(picture) * (1 + 0.09 * run + 0.03 * canvas)[..., None] + 0.25 * strokes[..., None]


STYLES = {f.__name__: f for f in (plain, sketch, pixel, embroidery, halftone, tattoo, duotone, painting)}


def over(art: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A drawing laid on a picture: (S, S, 3)."""
    return art[..., :3] * art[..., 3:] + below * (1 - art[..., 3:])


def ground(art: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A background that the drawing stands out from."""
    alpha = art[..., 3:]
    own = (art[..., :3] * alpha).sum((0, 1)) / max(1e-6, alpha.sum())
    tries = [colour(rng, (0.0, 0.8), (0.25, 1.0)) for _ in range(4)]
    near = max(tries, key=lambda c: np.abs(c - own).sum())
    far = np.clip(near + rng.uniform(-0.25, 0.25, 3), 0, 1) if rng.random() < 0.5 else near
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.indices(art.shape[:2]) / len(art) - 0.5
    along = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    return near * (1 - along) + far * along


def colour(rng, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A random colour of any hue: (3,)."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def blurred(values: np.ndarray, radius: float) -> np.ndarray:
    """(S, S) in [0, 1], blurred by a Gaussian."""
    image = Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=float) / 255


def edges(values: np.ndarray) -> np.ndarray:
    """How steep (S, S) values are."""
    return np.hypot(*np.gradient(values))


def to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * np.clip(picture, 0, 1)).round().astype(np.uint8))


def from_image(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float) / 255
