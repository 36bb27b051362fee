"""Noun phrases: what may be said of an object, in which words, and whom else it would fit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from . import relations
from .catalogue import CATEGORIES
from .sight import Seen, Verdict, View
from .templates import GENERIC_NOUNS, MARKS, SIZE_WORDS

_TRAITS = ("size", "color", "pattern")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Traits that a noun phrase names; None leaves a trait unsaid."""

    category: str | None
    """The noun; None says "object" or "thing"."""
    color: str | None
    """Color said, or None."""
    size: str | None
    """Size said, or None."""
    pattern: str | None
    """Pattern said, or None."""

    def fits(self, one: Seen) -> bool:
        """Say whether every trait named is the object's."""
        thing = one.thing
        return (
            self.category in (None, thing.category)
            and self.color in (None, thing.color)
            and self.size in (None, thing.size)
            and self.pattern in (None, thing.pattern)
        )


ANYTHING = Description(category=None, color=None, size=None, pattern=None)


def bare(one: Seen) -> Description:
    """Return the description that names an object's category and nothing else."""
    return described(one, (), names_category=True)


def described(one: Seen, traits: tuple[str, ...], *, names_category: bool) -> Description:
    """Return the description that names these traits of an object."""
    thing = one.thing
    return Description(
        category=thing.category if names_category else None,
        color=thing.color if "color" in traits else None,
        size=thing.size if "size" in traits else None,
        pattern=thing.pattern if "pattern" in traits else None,
    )


def only(view: View, description: Description) -> bool:
    """Say whether a description fits exactly one object, and nobody would doubt it."""
    found = view.matches(description.fits)
    return found is not None and len(found) == 1


def related(view: View, head: Description, relation: str, other: Seen) -> Callable[[Seen], Verdict]:
    """Return the judge of "is a `head` that is `relation` `other`", for `View.matches`."""
    return lambda one: head.fits(one) and relations.holds(view, relation, one, other)


def unique_descriptions(view: View, one: Seen) -> Iterator[Description]:
    """Yield what names this object alone, the fewest traits first.

    The bare category comes first when it is unique. A generic noun ("the red thing") needs a color.
    """
    for count in range(len(_TRAITS) + 1):
        for traits in combinations(_TRAITS, count):
            for names_category in (True, False):
                if not _is_sayable(view, one, traits, names_category=names_category):
                    continue
                description = described(one, traits, names_category=names_category)
                if only(view, description):
                    yield description


def _is_sayable(view: View, one: Seen, traits: tuple[str, ...], *, names_category: bool) -> bool:
    """Keep traits that a person would use: sizes need a comparison, "plain" a contrast."""
    if not names_category:
        says_plain = "pattern" in traits and one.thing.pattern == "plain"
        return "color" in traits and "size" not in traits and not says_plain
    peers = [other.thing for other in view.seen if other.thing.category == one.thing.category]
    if "size" in traits and not says_size(one.thing.size, [peer.size for peer in peers]):
        return False
    if "pattern" in traits and one.thing.pattern == "plain":
        return any(peer.pattern != "plain" for peer in peers)
    return True


def says_size(size: str, sizes: list[str]) -> bool:
    """Say whether a size word means the same to everybody among things of these sizes."""
    if len(set(sizes)) < 2:
        return False
    return size != "medium" or len(set(sizes)) == 3


def noun_slots(rng: random.Random, description: Description) -> dict[str, str | None]:
    """Return the words of a description as slots (see `templates`)."""
    noun = description.category or rng.choice(GENERIC_NOUNS)
    size = rng.choice(SIZE_WORDS[description.size]) if description.size else None
    marks = MARKS.get(description.pattern or "")
    inner = [description.color, description.pattern]
    rng.shuffle(inner)
    adjectives = [word for word in (size, *inner) if word]
    rest = [word for word in (size, description.color) if word] if marks else []
    full = " ".join((*adjectives, noun))
    return {
        "full": full,
        "the": f"the {full}",
        "a": "a pair of" if is_plural(noun) else _article(full),
        "noun": noun,
        **_group_slots(description, adjectives, noun),
        "trait": listed(adjectives) if description.category is None else None,
        "post": listed(adjectives),
        "rest": " ".join(rest),
        "color": description.color if adjectives == [description.color] else None,
        "marks": marks if len(adjectives) == 1 + len(rest) else None,
        **verbs(noun),
    }


def part_slots(part: str, name: str, *, ends_in_noun: bool = False) -> dict[str, str | None]:
    """Return the words for a part of what `name` names; only a name that ends in its noun owns."""
    return {
        "part": part,
        "belong": "belong" if is_plural(part) else "belongs",
        "x": name,
        "owner": name if ends_in_noun else None,
        "owners": name + ("'" if name.endswith("s") else "'s") if ends_in_noun else None,
    }


def verbs(noun: str) -> dict[str, str]:
    """Return the verbs that agree with a noun, as slots."""
    if is_plural(noun):
        return {"is": "are", "has": "have", "looks": "look"}
    return {"is": "is", "has": "has", "looks": "looks"}


def is_plural(name: str) -> bool:
    """Say whether the name of a category or part is a plural: "scissors", "wheels"."""
    return name.endswith("s")


def listed(words: Sequence[str]) -> str:
    """Join words as people do: "a", "a and b", "a, b and c"."""
    *first, last = words or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _group_slots(description: Description, adjectives: Sequence[str], noun: str) -> dict[str, str]:
    """Return the words for every object that a description fits."""
    words = " ".join((*adjectives, noun))
    if is_plural(noun):
        return {"one": f"pair of {words}", "plural": f"pairs of {words}"}
    nouns = CATEGORIES[noun].plural if description.category else f"{noun}s"
    return {"one": words, "plural": " ".join((*adjectives, nouns))}


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"
