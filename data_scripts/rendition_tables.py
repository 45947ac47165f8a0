"""Which emoji are classes, which are left out, and who drew them: the tables of renditions.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class IconSet:
    """Drawings of one artist in one technique, as an npm package @iconify-json/NAME.

    group: sets that redraw one another's pictures are of one artist, and a split by artist keeps them together.
    """

    version: str
    group: str
    work: str
    author: str
    licence: str

    @property
    def share_alike(self) -> bool:
        return "-SA-" in self.licence


ICON_SETS = {
    "noto": IconSet("1.2.9", "noto", "Noto Emoji", "Google", "Apache-2.0"),
    "noto-v1": IconSet("1.2.5", "noto-v1", "Noto Emoji (v1)", "Google", "Apache-2.0"),
    "fxemoji": IconSet("1.2.2", "fxemoji", "FxEmojis", "Mozilla", "Apache-2.0"),
    "twemoji": IconSet("1.2.5", "twemoji", "Twemoji", "Twitter", "CC-BY-4.0"),
    "emojione": IconSet("1.2.3", "emojione", "EmojiOne 2 (EmojiTwo)", "Emoji One", "CC-BY-4.0"),
    "emojione-monotone": IconSet("1.2.1", "emojione", "EmojiOne 2, monotone", "Emoji One", "CC-BY-4.0"),
    "streamline-emojis": IconSet("1.2.4", "streamline", "Streamline Emojis", "Streamline", "CC-BY-4.0"),
    "fluent-emoji": IconSet("1.2.7", "fluent", "Fluent Emoji", "Microsoft", "MIT"),
    "fluent-emoji-flat": IconSet("1.2.6", "fluent", "Fluent Emoji, flat", "Microsoft", "MIT"),
    "fluent-emoji-high-contrast": IconSet("1.2.6", "fluent", "Fluent Emoji, high contrast", "Microsoft", "MIT"),
    "emojione-v1": IconSet("1.2.3", "emojione-v1", "EmojiOne 1", "Emoji One", "CC-BY-SA-4.0"),
    "openmoji": IconSet("1.2.29", "openmoji", "OpenMoji", "HfG Schwäbisch Gmünd", "CC-BY-SA-4.0"),
}

# Kinds of emoji that the pre-training classes are taken from, and the fewest sets that must have drawn one.
KINDS = ("Animals & Nature", "Food & Drink", "Objects", "Activities", "Travel & Places", "People & Body")
FEWEST = 5
# Parts of names that are no pre-training class: clocks, moons and medals differ in a stroke, the same trade is drawn as
# a man, a woman and a person, hands and people come in many skins.
NO_CLASS = ("oclock", "-thirty", "moon", "-suit", "-medal", "banknote", "speaker-", "skin-tone", "facing-right", "man-")

# The 200 classes: each drawn by at least eleven of the twelve sets.
CLASSES = """
    airplane alarm-clock american-football anchor ant artist-palette automobile baby-bottle baby-chick balloon
    banana barber-pole baseball basketball bathtub battery bear beer-mug bell bento-box bicycle bikini
    blowfish bomb bouquet bowling bread briefcase bus cactus camel camera candle candy carousel-horse cat
    cherries chestnut chipmunk chocolate-bar christmas-tree church cigarette clapper-board cocktail-glass
    cookie crocodile crown crystal-ball custard dango deciduous-tree dog dolphin door doughnut dress
    electric-plug elephant factory ferris-wheel fire fishing-pole flashlight floppy-disk fork-and-knife
    fountain four-leaf-clover french-fries fried-shrimp frog fuel-pump game-die graduation-cap grapes guitar
    hamburger hammer handbag headphone helicopter hibiscus high-heeled-shoe honey-pot honeybee horse
    hot-beverage hourglass-done jack-o-lantern japanese-castle jeans kimono koala lady-beetle lemon light-bulb
    lipstick locomotive lollipop magnifying-glass-tilted-left maple-leaf megaphone microphone microscope moai
    money-bag monkey motorcycle mouse mushroom musical-keyboard necktie newspaper nut-and-bolt octopus old-key
    open-book ox package palm-tree paperclip paw-prints peach pear pencil penguin pig pill pineapple postbox
    poultry-leg printer pushpin rabbit radio rainbow ram red-apple rice-ball ring rocket roller-coaster
    rooster rose running-shoe sailboat satellite-antenna saxophone scroll seedling shaved-ice shortcake shower
    skis slot-machine snail snake snowflake snowman-without-snow soccer-ball soft-ice-cream spaghetti
    speedboat spider spiral-shell statue-of-liberty strawberry sunflower sunglasses sushi syringe t-shirt
    tangerine telephone telescope television tent thermometer tiger toilet tomato top-hat tractor
    triangular-ruler trophy tropical-fish trumpet tulip turtle umbrella-with-rain-drops vertical-traffic-light
    video-game violin volcano wastebasket watch watermelon whale wine-glass wrench
""".split()

# 50 classes on which settings are chosen, five tasks of ten; never part of the test or of the pre-training.
TUNING = """
    backpack bar-chart bed bookmark boxing-glove bug butterfly carp-streamer carrot clamp clipboard
    cloud-with-lightning couch-and-lamp crab cyclone dagger deer dragon droplet drum duck ear-of-corn eggplant
    envelope fax-machine film-frames fireworks fox gear gem-stone hospital hot-pepper joystick kitchen-knife
    lion memo milky-way owl paintbrush pizza rosette satellite scissors shield shopping-cart sun tornado
    tropical-drink world-map wrapped-gift
""".split()

# Left out altogether: as good as one of the classes above (a cow's face, a taxi, a blue book), or a part of one.
ALIKE = """
    airplane-arrival airplane-departure ambulance baguette-bread beetle bell-with-slash bellhop-bell bird
    birthday-cake bison black-bird black-cat blossom blue-book boar books brown-mushroom bullet-train
    camera-with-flash camping canoe castle cat-face cherry-blossom chicken circus-tent clinking-beer-mugs
    clinking-glasses closed-book closed-mailbox-with-lowered-flag closed-mailbox-with-raised-flag
    closed-umbrella cloud-with-snow clutch-bag computer-disk cooked-rice cooking cow cow-face crayon croissant
    curry-rice delivery-truck desktop-computer dog-face donkey evergreen-tree ewe fallen-leaf ferry
    fire-engine fish fork-and-knife-with-plate fountain-pen front-facing-baby-chick glass-of-milk glasses goat
    gorilla green-apple green-book guide-dog hammer-and-pick hammer-and-wrench hamster hatching-chick herb
    high-speed-train horizontal-traffic-light horse-face hourglass-not-done ice-cream key laptop ledger
    leopard light-rail lime linked-paperclips lizard locked-with-key loudspeaker magnifying-glass-tilted-right
    mans-shoe mantelpiece-clock martial-arts-uniform meat-on-bone metro minibus money-with-wings monkey-face
    monorail motor-boat motor-scooter mount-fuji mountain mountain-railway mouse-face movie-camera notebook
    notebook-with-decorative-cover oncoming-automobile oncoming-bus oncoming-police-car oncoming-taxi
    open-mailbox-with-lowered-flag open-mailbox-with-raised-flag orange-book panda passenger-ship pen pig-face
    pig-nose pine-decoration polar-bear police-car poodle pool-8-ball pot-of-food purse rabbit-face racing-car
    railway-car rat red-paper-lantern reminder-ribbon ribbon rice-cracker rolled-up-newspaper round-pushpin
    rugby-football running-shirt scorpion service-dog shamrock shark ship small-airplane snow-capped-mountain
    snowman sparkler spider-web sport-utility-vehicle spouting-whale station steaming-bowl stopwatch
    studio-microphone stuffed-flatbread suspension-railway tanabata-tree taxi teacup-without-handle teddy-bear
    telephone-receiver tennis tiger-face timer-clock train tram tram-car trolleybus tumbler-glass
    two-hump-camel umbrella umbrella-on-ground unicorn video-camera videocassette volleyball water-buffalo
    white-flower wilted-flower wind-chime wolf womans-boot womans-clothes womans-hat womans-sandal zebra
""".split()
