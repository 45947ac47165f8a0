"""Tables of the waterfalls: words and colours, what is held out, drawings as text, and the identities of the sets.

Colours are arrays (n, 3) of 0-255.
"""

import numpy as np
from PIL import ImageColor

KINDS = ("plunge", "tiered", "fan", "slide")
WIDTHS = ("narrow", "wide")
SIDES = ("left", "right")
RIDGES = ("peaks", "domes", "mesas", "hills")
CLIFFS = ("wall", "butte", "bowl", "slope")
TREES = ("pine", "round", "poplar")
POOLS = ("pond", "lake", "river")
TIMES = ("day", "sunset", "night", "dawn")
SEASONS = ("summer", "autumn", "winter", "spring")


def rgb(codes: str) -> np.ndarray:
    """Colours (n, 3) of n hexadecimal codes."""
    return np.array([ImageColor.getrgb(f"#{code}") for code in codes.split()], float)


ROCKS = {  # light, middle and dark stratum
    "grey": rgb("b0b2b6 8c8f96 6a6d76"),
    "red": rgb("d66a4e b84434 8a2e2a"),
    "brown": rgb("aa805c 865e40 62422e"),
    "black": rgb("62626e 464652 30303c"),
    "yellow": rgb("f4d47c deb24e b88a34"),
    "white": rgb("f4f0e6 dad4ca b6b0ac"),
}
RESERVED_ROCKS = {
    "purple": rgb("be96da 8c5cb8 5c3888"),
    "teal": rgb("7ccec2 369c9a 1a6872"),
    "coral": rgb("ffc4a0 f28082 faa04c"),
}
NEAREST_ROCK = {"purple": "grey", "teal": "grey", "coral": "red"}  # what a caption calls them
PAINT_NAMES = ["crimson", "white", "gold", "navy", "orange", "pink", "lime", "cyan", "ink", "wood", "straw"]
PAINT_CODES = "d01e30 faf8f0 fcc824 2c4296 f87e1c fa82b8 a4d632 3cc8e2 34303e 966036 d8b268"
PAINTS = dict(zip(PAINT_NAMES, rgb(PAINT_CODES), strict=True))
OUTLINE, WATER, STREAK, SNOW = rgb("241e2c f4faff 8cc4ec f8faff")
HAZES, POOL_BLUES = rgb("7892be 8680b2 6ca0a8 929eb6"), rgb("5ab0d6 4aa0ba 62bebe")
SUN, MOON, STAR = rgb("fff4b0 fffad6 e8ecff")
SKIES = {  # zenith, middle, horizon, fog
    "day": rgb("4a9ce0 8cc8f0 d6eef8 e2eaf0"),
    "sunset": rgb("7054a4 f48060 ffd67a fad4b4"),
    "night": rgb("222e70 3a509c 7088c8 7e8eb8"),
    "dawn": rgb("96b0e2 e8bed6 ffe8ce f0dee2"),
}
LIGHTS = {  # colour → colour × gain + lift: mild, so that a rock keeps its hue at any hour
    "day": ((1.0, 1.0, 1.0), (0, 0, 0)),
    "sunset": ((0.93, 0.86, 0.82), (18, 4, 0)),
    "night": ((0.58, 0.60, 0.68), (8, 14, 40)),
    "dawn": ((0.92, 0.90, 0.92), (16, 10, 18)),
}
GROUNDS = {  # grass, its shaded edge, leaves, needles
    "summer": rgb("70b048 4c8a3a 34863e 1e6042"),
    "autumn": rgb("ccac54 aa843e e87a24 5c6834"),
    "winter": rgb("f8faff cedcec 807070 2c5c52"),
    "spring": rgb("a6d460 7eb450 f6acc4 3c8854"),
}

# Drawings are "paint shape numbers; ..." from back to front, one unit high: x from the middle, y up from the
# foot. A box is left bottom right top, a disc (or a part of one, in degrees) x y rx ry, an arch rx ry thickness.
# "main", "dark" and "light" come from the landmark's own paint.
RESERVED_LANDMARKS = {
    "bridge": "dark box -.5 .3 -.42 .8; dark box -.04 .5 .04 .95; dark box .42 .3 .5 .8;"
    "main arch .95 1 .1; main arch .95 .68 .22",
    "arch": "main arch .52 1 .26",
    "tower": "main box -.2 0 .2 .8; main box -.28 .72 .28 .86; main box -.28 .84 -.14 1; main box -.07 .84 .07 1;"
    "main box .14 .84 .28 1; dark box .06 0 .2 .72; ink box -.07 .4 .05 .6",
    "tree": "wood poly -.1 0 .1 0 .05 .6 -.05 .6; main disc -.24 .56 .22 .17; main disc .24 .6 .24 .18;"
    "main disc 0 .78 .28 .22; dark disc .26 .53 .18 .09",
    "boulders": "main disc -.3 .28 .34 .28; dark disc .32 .24 .3 .24; main disc .02 .72 .3 .26",
    "lighthouse": "main poly -.2 0 .2 0 .12 .74 -.12 .74; light poly -.175 .2 .175 .2 .15 .42 -.15 .42;"
    "gold box -.11 .74 .11 .88; ink poly -.17 .87 .17 .87 0 1.02",
    "windmill": "main poly -.24 0 .24 0 .15 .64 -.15 .64; ink disc 0 .64 .17 .14 0 180; ink box -.06 0 .06 .2;"
    "white poly 0 .66 .25 .96 .37 .88 .05 .61; white poly 0 .66 -.3 .91 -.22 1.03 .05 .71;"
    "white poly 0 .66 -.25 .36 -.37 .44 -.05 .71; white poly 0 .66 .3 .41 .22 .29 -.05 .61",
    "cabin": "wood box .24 .5 .38 1; wood box -.5 0 .5 .5; main poly -.66 .46 .66 .46 .32 .92 -.32 .92;"
    "ink box -.32 0 -.08 .36; straw box .1 .16 .34 .36",
    "obelisk": "main poly -.15 .1 .15 .1 .1 .84 0 1 -.1 .84; dark poly .02 .1 .15 .1 .1 .84 0 1;"
    "dark box -.26 0 .26 .12",
    "balloon": "wood box -.1 0 .1 .14; main disc 0 .62 .36 .38; main poly -.26 .36 .26 .36 .08 .16 -.08 .16;"
    "light disc 0 .62 .13 .38",
}
BASE_OBJECTS = {
    "tent": "main poly -.62 0 .62 0 0 .95; ink poly -.16 0 .2 0 0 .7",
    "boat": "wood poly -.5 .26 .5 .26 .3 0 -.32 0; main poly -.04 .32 .42 .32 -.04 1",
    "hut": "straw disc 0 .2 .5 .62 0 180; main box -.42 0 .42 .3; ink box -.11 0 .11 .24",
}
HEIGHTS = {"tower": 0.44, "tree": 0.46, "lighthouse": 0.5, "windmill": 0.5, "obelisk": 0.48, "arch": 0.36, "cabin": 0.3}
HEIGHTS |= {"bridge": 0.27, "boulders": 0.3, "balloon": 0.3, "tent": 0.2, "boat": 0.2, "hut": 0.2}
CROWNS = {
    "pine": ("poly -.3 .15 .3 .15 0 .7", "poly -.22 .45 .22 .45 0 1"),
    "round": ("disc 0 .62 .34 .38",),
    "poplar": ("disc 0 .56 .17 .44",),
}

# One concept a row, in the order of the fields of `Falls`: 25 of mini50, two of tune5, ten of tune20. There are only
# ten landmarks, so those of the tuning sets are mini50's in another paint, on other rock.
CONCEPT_TABLE = """
plunge 1 purple wide   bridge     crimson right peaks wall  pine   river
tiered 2 grey   narrow windmill   white   left  hills butte round  pond
fan    1 teal   wide   balloon    orange  left  domes bowl  poplar lake
slide  1 yellow narrow lighthouse crimson right mesas slope pine   lake
plunge 3 black  narrow boulders   gold    left  peaks bowl  pine   pond
tiered 1 coral  wide   obelisk    navy    right mesas butte poplar river
fan    2 red    narrow tree       pink    right hills wall  round  lake
plunge 2 white  wide   tower      navy    left  domes slope pine   river
slide  2 brown  narrow arch       cyan    right peaks butte round  lake
tiered 3 yellow narrow cabin      crimson left  hills butte poplar pond
fan    1 purple narrow lighthouse white   left  hills slope round  river
plunge 1 brown  narrow balloon    pink    right peaks bowl  pine   lake
slide  1 grey   wide   tree       orange  left  mesas wall  poplar pond
tiered 1 black  wide   windmill   crimson right domes bowl  round  river
fan    3 coral  narrow tower      white   right peaks wall  pine   lake
plunge 2 teal   narrow cabin      gold    right mesas slope round  pond
slide  1 red    wide   obelisk    white   left  hills bowl  pine   river
tiered 2 purple wide   arch       lime    left  mesas butte poplar lake
fan    1 black  wide   bridge     gold    right hills slope poplar lake
plunge 1 yellow wide   tree       ink     left  domes butte pine   river
slide  2 teal   narrow boulders   crimson left  peaks wall  poplar river
tiered 1 white  narrow balloon    gold    right hills wall  round  pond
fan    2 grey   wide   tower      crimson left  peaks slope poplar river
plunge 3 red    narrow lighthouse navy    right domes wall  round  pond
slide  1 coral  narrow windmill   cyan    left  domes slope pine   lake
tiered 1 teal   narrow bridge     pink    left  peaks bowl  round  lake
plunge 2 brown  wide   obelisk    lime    right hills wall  poplar pond
slide  3 purple narrow boulders   white   right domes slope poplar pond
fan    1 yellow narrow balloon    lime    left  peaks bowl  round  river
plunge 1 teal   wide   arch       crimson right hills butte pine   lake
tiered 2 red    narrow lighthouse gold    left  mesas wall  poplar river
slide  1 black  wide   cabin      orange  right domes bowl  round  pond
fan    2 coral  narrow bridge     navy    left  hills slope pine   river
plunge 3 grey   narrow tree       crimson right peaks butte poplar lake
tiered 1 brown  wide   tower      gold    left  domes wall  pine   pond
slide  2 white  narrow windmill   pink    right mesas bowl  poplar river
fan    1 purple wide   obelisk    orange  left  peaks butte round  lake
"""
