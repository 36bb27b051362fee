"""What the tabletop world knows by name: categories with their parts, colors, sizes, patterns."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = ("train", "val", "test")
PATTERNS = ("plain", "striped", "dotted")
TEXTURES = ("plain", "wood", "cloth", "checker", "marble", "speckle")

SIZES = {"small": 0.17, "medium": 0.25, "large": 0.35}
"""Length of an outline's unit, in shorter sides of the image."""

COLORS = {
    "red": (208, 36, 38),
    "orange": (244, 128, 24),
    "yellow": (246, 212, 38),
    "green": (44, 152, 62),
    "blue": (36, 88, 206),
    "purple": (128, 52, 168),
    "white": (240, 240, 238),
    "black": (38, 38, 42),
}
"""Color name -> RGB, 0 to 255, under even light."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A named piece of a category, with a mask of its own."""

    name: str
    """What it is called, for example "handle"."""
    functions: tuple[str, ...]
    """What it is for; each completes "the part ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One kind of everyday thing."""

    plural: str
    """Its name in the plural."""
    parts: tuple[Part, ...]
    """Its parts, in the order of `Drawing.part_map_hw`."""
    functions: tuple[str, ...]
    """What it is for; each completes "something you can ..."."""
    is_flat: bool
    """True when it lies on the table and may point anywhere; False when it stands upright."""
    takes_pattern: bool
    """True when its main parts are broad enough for stripes and dots."""


def _part(name: str, *functions: str) -> Part:
    return Part(name=name, functions=functions)


def _thing(
    plural: str,
    *functions: str,
    parts: tuple[Part, ...],
    is_flat: bool = False,
    takes_pattern: bool = True,
) -> Category:
    return Category(
        plural=plural,
        parts=parts,
        functions=functions,
        is_flat=is_flat,
        takes_pattern=takes_pattern,
    )


_HANDLE = _part("handle", "you hold", "where your hand goes", "you grip")

CATEGORIES = {
    "apple": _thing(
        "apples",
        "eat",
        "bite into",
        "make a pie from",
        parts=(
            _part("body", "you eat", "that tastes sweet"),
            _part("stem", "it hung from the tree by"),
            _part("leaf", "that grows beside the stem"),
        ),
    ),
    "book": _thing(
        "books",
        "read",
        "learn a story from",
        "turn the pages of",
        parts=(
            _part("cover", "that protects the pages", "that carries the title"),
            _part("pages", "you read", "made of paper"),
        ),
        is_flat=True,
    ),
    "bottle": _thing(
        "bottles",
        "drink from",
        "carry water in",
        "keep juice in",
        parts=(
            _part("body", "that holds the liquid"),
            _part("cap", "you twist open", "that closes it"),
            _part("label", "that says what is inside"),
        ),
    ),
    "box": _thing(
        "boxes",
        "store things in",
        "pack a gift in",
        "put things away in",
        parts=(
            _part("body", "that holds the contents"),
            _part("lid", "you lift to open it", "that closes it"),
        ),
    ),
    "car": _thing(
        "cars",
        "drive",
        "travel in",
        "park",
        parts=(
            _part("body", "that is painted"),
            _part("wheels", "that roll", "that touch the road"),
            _part("windows", "you look out through", "made of glass"),
        ),
    ),
    "chair": _thing(
        "chairs",
        "sit on",
        "take a seat on",
        "rest on",
        parts=(
            _part("seat", "you sit on"),
            _part("back", "you lean against"),
            _part("legs", "that stand on the floor", "that carry the weight"),
        ),
    ),
    "clock": _thing(
        "clocks",
        "tell the time with",
        "wake up with",
        "see the hour on",
        parts=(
            _part("frame", "that rings"),
            _part("face", "that carries the hours"),
            _part("hands", "that point at the time", "that turn"),
        ),
    ),
    "flower": _thing(
        "flowers",
        "water",
        "smell",
        "give to somebody you love",
        parts=(
            _part("blossom", "that smells sweet", "that bees visit"),
            _part("leaves", "that catch the sunlight"),
            _part("pot", "that holds the soil"),
        ),
    ),
    "hammer": _thing(
        "hammers",
        "drive nails with",
        "hit a nail with",
        "build with",
        parts=(_part("head", "that hits the nail", "that strikes"), _HANDLE),
        is_flat=True,
        takes_pattern=False,
    ),
    "knife": _thing(
        "knives",
        "cut with",
        "slice bread with",
        "spread butter with",
        parts=(_part("blade", "that cuts", "that is sharp"), _HANDLE),
        is_flat=True,
        takes_pattern=False,
    ),
    "lamp": _thing(
        "lamps",
        "light the room with",
        "switch on in the dark",
        "read at night by",
        parts=(
            _part("shade", "that softens the light", "around the bulb"),
            _part("base", "it stands on"),
        ),
    ),
    "mug": _thing(
        "mugs",
        "drink from",
        "sip coffee from",
        "warm your hands on",
        parts=(_part("body", "that holds the drink"), _HANDLE),
    ),
    "pan": _thing(
        "pans",
        "cook with",
        "fry an egg in",
        "put on the stove",
        parts=(_part("body", "that gets hot", "the food fries in"), _HANDLE),
        is_flat=True,
    ),
    "scissors": _thing(
        "pairs of scissors",
        "cut with",
        "cut paper with",
        "trim a thread with",
        parts=(
            _part("blades", "that cut", "that are sharp"),
            _part("handles", "you hold", "your fingers go through"),
        ),
        is_flat=True,
        takes_pattern=False,
    ),
    "spoon": _thing(
        "spoons",
        "eat soup with",
        "stir with",
        "scoop sugar with",
        parts=(_part("bowl", "that scoops", "you put in your mouth"), _HANDLE),
        is_flat=True,
        takes_pattern=False,
    ),
    "teapot": _thing(
        "teapots",
        "pour tea from",
        "brew tea in",
        "serve tea with",
        parts=(
            _part("body", "that holds the tea"),
            _part("spout", "the tea pours out of"),
            _HANDLE,
            _part("lid", "you lift to fill it", "that closes it"),
        ),
    ),
}
"""Category name -> what is known of it."""

HELD_OUT_PAIRS = frozenset(
    {
        ("red", "book"),
        ("red", "lamp"),
        ("orange", "mug"),
        ("orange", "hammer"),
        ("yellow", "car"),
        ("yellow", "teapot"),
        ("green", "bottle"),
        ("green", "knife"),
        ("blue", "apple"),
        ("blue", "chair"),
        ("purple", "pan"),
        ("purple", "clock"),
        ("white", "box"),
        ("white", "scissors"),
        ("black", "flower"),
        ("black", "spoon"),
    }
)
"""(color, category) pairs that only the test split draws; each category misses one color, each
color two categories."""
