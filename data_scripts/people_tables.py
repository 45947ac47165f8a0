"""Tables of the cartoon people: what each drawing style offers, what is held out, and the 25 + 3 identities."""

from dataclasses import dataclass, field

EXPRESSIONS = ("smiling", "laughing", "sad", "angry", "surprised", "winking", "calm")

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
CLOTHES_COLOURS = "#6f8fdf #5fc878 #ffcf77 #d964b8 #e06a5a #8fd4d6 #33343c #f2f2ee".split()


def choices(text: str) -> dict[str, list[str]]:
    """Read "nose 01 02, ears round" as {"nose": ["variant01", "variant02"], "ears": ["round"]}."""
    groups = [group.split() for group in text.split(",") if group]
    return {name: ["variant" + v if v.isdigit() else v for v in variants] for name, *variants in groups}


@dataclass(frozen=True)
class Kit:
    """What one drawing style offers; which variant is what was sorted by looking at each.

    head, hair_colours, skin, clothes_colour: the style's names for them.
    heads: length -> variants; long means that the hair hangs to the jaw or lower (a bun does not).
    parts: identity components that every person has; marks: rare ones (freckles, earrings).
    glasses, beard: one component and its variants, or nothing.
    coloured: where named, the only heads that take a hair colour (the others are black ink).
    bust: drawn down to the canvas edge, so a view may never lift that edge into the frame.
    """

    weight: float
    skins: str
    heads: dict[str, list[str]]
    head: str = "hair"
    hair_colours: tuple[str, ...] = ("hair",)
    skin: str = "skin"
    parts: dict[str, list[str]] = field(default_factory=dict)
    marks: dict[str, list[str]] = field(default_factory=dict)
    glasses: dict[str, list[str]] = field(default_factory=dict)
    beard: dict[str, list[str]] = field(default_factory=dict)
    clothes: dict[str, list[str]] = field(default_factory=dict)
    clothes_colour: str = ""
    coloured: str = ""
    bust: bool = False


KITS = {
    "big-ears": Kit(
        weight=0.25,
        skins="#f8b788 #da9969 #c07f50 #a66637 #89532c",
        heads=choices(
            "long long02 long03 long04 long07 long08 long09 long11 long12 long13 long14 long15 long16 long17"
            " long18 long19 long20 short09, short long01 long05 long06 long10 short01 short02 short03 short04"
            " short05 short06 short07 short08 short10 short11 short12 short13 short14 short15 short16 short17"
            " short18 short19 short20"
        ),
        parts=choices(
            "head 01 02 03 06 07 08 09 10, nose 01 02 03 04 05 06 07 08 09 10 11 12,"
            "ears 01 02 03 04 05 06 07 08, frontHair 01 02 03 04 05 06 07 08 09 10 11 12,"
            "sideburns 01 02 03 04 05 06 07"
        ),
        marks=choices("details 01 02 03 04 05 06"),
    ),
    "adventurer": Kit(
        weight=0.245,
        skins="#f2d3b1 #ecad80 #9e5622 #763900",
        heads=choices(
            "long long01 long02 long03 long04 long05 long07 long08 long09 long14 long15 long16 long17 long18"
            " long19 long20 long22 long24 long26, short long10 long11 long12 long13 long21 long23 long25"
            " short01 short02 short03 short04 short05 short06 short07 short08 short09 short10 short11 short12"
            " short13 short14 short15 short16 short17 short18, bald short19"
        ),
        marks=choices("details birthmark blush freckles, earrings 01 02 03 04 05 06"),
        glasses=choices("glasses 02 03 04 05"),
    ),
    "open-peeps": Kit(
        weight=0.245,
        skins="#ffdbb4 #edb98a #d08b5b #ae5d29 #694d3d",
        head="head",
        hair_colours=("headContrast",),
        heads=choices(
            "long bangs bangs2 cornrows2 dreads1 grayMedium long longAfro longBangs longCurly medium1 medium2"
            " medium3 mediumBangs mediumBangs2 mediumBangs3 mediumStraight, short afro bantuKnots bun bun2 buns"
            " dreads2 flatTop flatTopLong grayBun grayShort mohawk mohawk2 pomp shaved1 shaved2 shaved3 short1"
            " short2 short3 short4 short5 twists twists2, bald noHair1 noHair2"
        ),
        coloured="bangs grayBun grayMedium grayShort mediumBangs2 mohawk mohawk2 short4 noHair1 noHair2",
        glasses=choices("accessories glasses glasses2 glasses3 glasses4 glasses5"),
        beard=choices("facialHair full4"),
        clothes_colour="clothing",
        bust=True,
    ),
    "micah": Kit(
        weight=0.065,
        skins="#f9c9b6 #ac6651 #77311d",
        hair_colours=("hair", "facialHair"),
        skin="base",
        heads=choices("long dannyPhantom full pixie, short fonze mrT turban, bald dougFunny mrClean"),
        parts=choices("nose curve pointed tound, ears attached detached"),
        glasses=choices("glasses round square"),
        beard=choices("facialHair beard"),
        clothes=choices("clothes collared crew open"),
        clothes_colour="shirt",
        bust=True,
    ),
    "toon-head": Kit(
        weight=0.065,
        skins="#5c3829 #f1c3a5 #a36b4f #c68e7a #b98e6a",
        heads=choices("short bun sideComed spiky undercut, long longStraight longWavy neckHigh shoulderHigh"),
        beard=choices("beard fullBeard longBeard"),
        clothes=choices("clothes dress openJacket shirt tShirt turtleNeck"),
        clothes_colour="clothes",
        bust=True,
    ),
    "personas": Kit(
        weight=0.065,
        skins="#eeb4a4 #e5a07e #d78774 #b16a5b #92594b #623d36",
        hair_colours=("hair", "facialHair"),
        heads=choices(
            "long bobBangs bobCut curly extraLong long pigtails sideShave, bald bald,"
            "short curlyBun curlyHighTop fade shortCombover shortComboverChops straightBun"
        ),
        parts=choices("nose mediumRound smallRound wrinkles"),
        beard=choices("facialHair goatee"),
        clothes=choices("clothes checkered rounded small squared"),
        clothes_colour="clothing",
        bust=True,
    ),
    "big-smile": Kit(
        weight=0.065,
        skins="#ffe4c0 #efcc9f #c99c62 #a47539 #8c5a2b #643d19",
        heads=choices(
            "long bangs curlyBob straightHair wavyBob,"
            "short bowlCutHair bunHair curlyShortHair froBun shavedHead shortHair"
        ),
        glasses=choices("accessories glasses"),
    ),
}

# Which faces show which expression; not every style can draw every one.
FACES = {
    "big-ears": {
        "smiling": "eyes 03 05 08 09 15, mouth 0203 0701 0702 0707",
        "laughing": "eyes 11 12 32, mouth 0203 0204 0205 0303",
        "sad": "eyes 06 07 23, mouth 0405 0704 0705",
        "angry": "eyes 01 25, mouth 0501 0502 0504 0601 0604 0705",
        "surprised": "eyes 14 24 26, mouth 0101 0102 0105",
        "calm": "eyes 31, mouth 0701 0702 0707",
    },
    "adventurer": {
        "smiling": "eyes 01 02 03 24 25 26, eyebrows 10 12 13, mouth 01 02 22 23",
        "laughing": "eyes 03 19, eyebrows 10 12 13, mouth 25 26 27 28",
        "sad": "eyes 15 16 18, eyebrows 06 07, mouth 03 04 14",
        "angry": "eyes 05 11 12 13, eyebrows 01 02, mouth 09 11 14",
        "surprised": "eyes 03 08, eyebrows 05 12 15, mouth 15 18",
        "winking": "eyes 21 22, eyebrows 10 12 13, mouth 01 02 16 22",
        "calm": "eyes 20, eyebrows 10 12 13, mouth 02 09 29",
    },
    "open-peeps": {
        "smiling": "expression smile smileBig smileTeethGap",
        "laughing": "expression smileLOL",
        "sad": "expression solemn tired",
        "angry": "expression rage veryAngry angryWithFang driven",
        "surprised": "expression awe fear hectic",
        "calm": "expression calm cute",
    },
    "micah": {
        "smiling": "eyes eyes round, eyebrows up, mouth smile smirk",
        "laughing": "eyes smiling round, eyebrows up, mouth laughing",
        "sad": "eyes eyes round, eyebrows down, mouth sad frown",
        "surprised": "eyes eyes round, eyebrows up, mouth surprised",
        "calm": "eyes smiling, eyebrows up, mouth smile smirk",
    },
    "toon-head": {
        "smiling": "eyes happy, eyebrows happy neutral, mouth smile",
        "laughing": "eyes bow happy, eyebrows happy, mouth laugh",
        "sad": "eyes happy, eyebrows sad, mouth sad",
        "angry": "eyes happy, eyebrows angry, mouth angry",
        "surprised": "eyes wide, eyebrows raised, mouth agape",
        "winking": "eyes wink, eyebrows happy raised, mouth smile laugh",
        "calm": "eyes humble, eyebrows neutral, mouth smile",
    },
    "personas": {
        "smiling": "eyes open, mouth smile smirk",
        "laughing": "eyes happy, mouth bigSmile",
        "sad": "eyes open, mouth frown",
        "surprised": "eyes open, mouth surprise",
        "winking": "eyes wink, mouth smile bigSmile",
        "calm": "eyes sleep, mouth smile smirk",
    },
    "big-smile": {
        "smiling": "eyes normal cheery, mouth teethSmile kawaii",
        "laughing": "eyes normal cheery, mouth openedSmile gapSmile",
        "sad": "eyes sad, mouth openSad unimpressed",
        "angry": "eyes angry, mouth unimpressed awkwardSmile",
        "winking": "eyes winking, mouth kawaii openedSmile",
        "calm": "eyes sleepy, mouth kawaii",
    },
}

# 30 % of the heads of the three concept styles: the base set never shows them.
RESERVED = {
    "big-ears": "long02 long05 long08 long11 long12 long16 short04 short06 short07 short15 short18 short19".split(),
    "adventurer": "long01 long15 long16 long17 long18 long22 long23 long26"
    " short03 short08 short15 short16 short18".split(),
    "open-peeps": "bangs2 buns dreads2 flatTopLong grayBun longCurly medium2 mediumBangs2 mediumStraight"
    " mohawk pomp shaved3 short4".split(),
}

# Style, head, hair colour, skins (two skins: a look-alike pair), glasses, beard, marks.
# Every caption fits at least two of the 25 people.
CONCEPTS = [
    ("big-ears", "short19", "black", ("#f8b788", "#89532c"), "", "", {}),
    ("big-ears", "short18", "red", ("#f8b788", "#a66637"), "", "", {}),
    ("big-ears", "short06", "black", ("#c07f50",), "", "", {"details": "variant04"}),
    ("big-ears", "long16", "red", ("#f8b788",), "", "", {"details": "variant02"}),
    ("big-ears", "long02", "brown", ("#f8b788",), "", "", {}),
    ("big-ears", "long11", "blond", ("#a66637",), "", "", {}),
    ("big-ears", "short15", "brown", ("#da9969",), "", "", {"details": "variant03"}),
    ("adventurer", "long16", "blond", ("#f2d3b1", "#9e5622"), "", "", {}),
    ("adventurer", "short16", "pink", ("#ecad80",), "", "", {}),
    ("adventurer", "short15", "pink", ("#9e5622",), "", "", {}),
    ("adventurer", "long01", "black", ("#9e5622",), "variant02", "", {}),
    ("adventurer", "long22", "red", ("#f2d3b1",), "", "", {"details": "freckles"}),
    ("adventurer", "long23", "black", ("#ecad80",), "variant04", "", {"earrings": "variant03"}),
    ("adventurer", "short03", "brown", ("#f2d3b1",), "", "", {"details": "blush"}),
    ("open-peeps", "grayBun", "red", ("#ffdbb4", "#694d3d"), "", "", {}),
    ("open-peeps", "mohawk", "brown", ("#d08b5b",), "", "full4", {}),
    ("open-peeps", "short4", "brown", ("#ffdbb4",), "", "full4", {}),
    ("open-peeps", "mediumBangs2", "brown", ("#edb98a",), "", "", {}),
    ("open-peeps", "bangs2", "black", ("#edb98a",), "glasses2", "", {}),
    ("open-peeps", "buns", "black", ("#ae5d29",), "glasses4", "", {}),
    ("open-peeps", "longCurly", "black", ("#d08b5b",), "glasses", "", {}),
]
TUNING = [
    ("big-ears", "long05", "red", ("#c07f50",), "", "", {}),
    ("adventurer", "short18", "blond", ("#9e5622",), "", "", {}),
    ("open-peeps", "pomp", "black", ("#edb98a",), "", "full4", {}),
]
