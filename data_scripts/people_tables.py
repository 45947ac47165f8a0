"""Tables of the cartoon people: what each drawing kit offers, what is held out, and the identities of the sets."""

from dataclasses import dataclass, field

EXPRESSIONS = ("smiling", "laughing", "sad", "angry", "surprised")

BACKGROUNDS = {
    "white": (250, 250, 250),
    "grey": (150, 152, 156),
    "cream": (250, 232, 196),
    "yellow": (252, 218, 70),
    "orange": (246, 150, 50),
    "pink": (250, 178, 200),
    "red": (214, 52, 56),
    "purple": (150, 92, 196),
    "blue": (74, 128, 226),
    "navy": (36, 48, 104),
    "cyan": (120, 222, 232),
    "green": (92, 178, 92),
}

# One palette for all styles, so that a word means the same colour everywhere; two shades a word.
HAIR_COLOURS = {
    "black": ("#1c1818", "#2c2422"),
    "brown": ("#724133", "#6a4322"),
    "blond": ("#e6c35c", "#dcb650"),
    "red": ("#c93305", "#b92c12"),
    "grey": ("#a4a4aa", "#b8b6b6"),
    "pink": ("#f285a8", "#ec74b0"),
    "green": ("#3eac2c", "#2f9a48"),
    "blue": ("#3f78d8", "#2f66b8"),
    "purple": ("#7a3b9c", "#8a4ab4"),
}


def choices(text: str) -> dict[str, list[str]]:
    """Read "nose 01 02, ears round" as {"nose": ["variant01", "variant02"], "ears": ["round"]}."""
    groups = [group.split() for group in text.split(",") if group]
    return {name: ["variant" + v if v.isdigit() else v for v in variants] for name, *variants in groups}


@dataclass(frozen=True)
class Kit:
    """What one drawing kit offers; which variant is what was sorted by looking at each.

    Both kits draw a head from the front, its features at the same place whatever the hair. drop: how far the drawing is
    moved down, in frames, so that the faces of both kits share one place.
    heads: length -> variants of the hair; long means that it hangs to the jaw or lower (a bun does not).
    parts: identity components that every person has; marks: rare ones (freckles, earrings).
    glasses: variants, or none.
    """

    skins: str
    heads: dict[str, list[str]]
    drop: float
    parts: dict[str, list[str]] = field(default_factory=dict)
    marks: dict[str, list[str]] = field(default_factory=dict)
    glasses: tuple[str, ...] = ()


KITS = {
    "big-ears": Kit(
        skins="#f8b788 #da9969 #c07f50 #a66637 #89532c",
        heads=choices(
            "long long02 long03 long04 long07 long08 long09 long11 long12 long13 long14 long15 long16 long17"
            " long18 long19 long20 short09, short long01 long05 long06 long10 short01 short02 short03 short04"
            " short05 short06 short07 short08 short10 short11 short12 short13 short14 short15 short16 short17"
            " short18 short19 short20"
        ),
        drop=-0.03,
        parts=choices(
            "head 01 02 06 08, nose 01 03 05 07 09 12, ears 01 03 05 08, frontHair 01 05 06 10 11 12,"
            "sideburns 01 03 05 06"
        ),
        marks=choices("details 01 02 03 04 05 06"),
    ),
    "adventurer": Kit(
        skins="#f2d3b1 #ecad80 #9e5622 #763900",
        heads=choices(
            "long long01 long02 long03 long04 long05 long07 long08 long09 long14 long15 long16 long17 long18"
            " long19 long20 long22 long24 long26, short long10 long11 long12 long13 long21 long23 long25"
            " short01 short02 short03 short04 short05 short06 short07 short08 short09 short10 short11 short12"
            " short13 short14 short15 short16 short17 short18, bald short19"
        ),
        drop=0.05,
        marks=choices("details birthmark blush freckles, earrings 01 02 03 04 05 06"),
        glasses=("variant02", "variant03", "variant04", "variant05"),
    ),
}

# Which parts make which expression.
FACES = {
    "big-ears": {
        "smiling": "eyes 03 08, mouth 0203 0702",
        "laughing": "eyes 11, mouth 0204 0303",
        "sad": "eyes 07 23, mouth 0704 0705",
        "angry": "eyes 01 25, mouth 0504 0705",
        "surprised": "eyes 24 26, mouth 0101 0105",
    },
    "adventurer": {
        "smiling": "eyes 01 24, eyebrows 10, mouth 01 22",
        "laughing": "eyes 19, eyebrows 10, mouth 25 27",
        "sad": "eyes 15 16, eyebrows 06, mouth 03 04",
        "angry": "eyes 11 12, eyebrows 01, mouth 09 14",
        "surprised": "eyes 03 08, eyebrows 12, mouth 15 18",
    },
}

# 40 % of the heads: the base set never shows them.
RESERVED = {
    "big-ears": "long02 long03 long05 long08 long11 long12 long13 long16 long19"
    " short02 short04 short06 short07 short10 short15 short18 short19".split(),
    "adventurer": "long01 long04 long09 long15 long16 long17 long18 long22 long23 long26"
    " short03 short07 short08 short12 short15 short16 short18".split(),
}

# Kit, head, hair colour, skins (two skins: a look-alike pair), glasses, marks.
# Every caption fits at least two of the 25 people.
CONCEPTS = [
    ("big-ears", "short19", "black", ("#f8b788", "#89532c"), "", {}),
    ("adventurer", "long16", "blond", ("#f2d3b1", "#9e5622"), "", {}),
    ("big-ears", "short18", "red", ("#f8b788", "#a66637"), "", {}),
    ("adventurer", "short16", "pink", ("#ecad80", "#763900"), "", {}),
    ("big-ears", "long16", "red", ("#f8b788",), "", {"details": "variant02"}),
    ("adventurer", "long01", "black", ("#9e5622",), "variant02", {}),
    ("big-ears", "long02", "brown", ("#f8b788",), "", {}),
    ("adventurer", "short15", "pink", ("#9e5622",), "", {}),
    ("big-ears", "short06", "black", ("#c07f50",), "", {"details": "variant04"}),
    ("adventurer", "long22", "red", ("#f2d3b1",), "", {"details": "freckles"}),
    ("big-ears", "long11", "blond", ("#a66637",), "", {}),
    ("adventurer", "long23", "blue", ("#ecad80",), "variant04", {"earrings": "variant03"}),
    ("big-ears", "short15", "brown", ("#da9969",), "", {"details": "variant03"}),
    ("adventurer", "short03", "brown", ("#f2d3b1",), "", {"details": "blush"}),
    ("big-ears", "long12", "green", ("#89532c",), "", {}),
    ("adventurer", "long17", "brown", ("#f2d3b1",), "", {}),
    ("big-ears", "short04", "purple", ("#f8b788",), "", {}),
    ("adventurer", "short08", "blue", ("#763900",), "variant03", {}),
    ("big-ears", "long08", "green", ("#da9969",), "", {"details": "variant01"}),
    ("adventurer", "long26", "black", ("#f2d3b1",), "variant05", {}),
    ("big-ears", "short07", "purple", ("#a66637",), "", {}),
]
TUNE5 = [
    ("big-ears", "long05", "red", ("#c07f50",), "", {}),
    ("adventurer", "short18", "blond", ("#9e5622",), "", {}),
    ("adventurer", "long15", "purple", ("#ecad80",), "variant03", {}),
]
TUNE20 = [
    ("big-ears", "long03", "pink", ("#a66637",), "", {}),
    ("adventurer", "long18", "brown", ("#9e5622",), "", {}),
    ("big-ears", "short02", "blond", ("#89532c",), "", {"details": "variant05"}),
    ("adventurer", "short07", "grey", ("#f2d3b1",), "", {"details": "freckles"}),
    ("big-ears", "long13", "black", ("#f8b788",), "", {}),
    ("adventurer", "long04", "blue", ("#ecad80",), "variant02", {}),
    ("big-ears", "short10", "green", ("#f8b788",), "", {}),
    ("adventurer", "short12", "red", ("#763900",), "", {"earrings": "variant01"}),
    ("big-ears", "long19", "purple", ("#da9969",), "", {"details": "variant06"}),
    ("adventurer", "long09", "black", ("#9e5622",), "", {}),
]
