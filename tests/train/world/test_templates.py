from __future__ import annotations

import re

import pytest

from saymask.train.world import question_templates, templates
from saymask.train.world.relations import RELATIONS
from saymask.train.world.wording import Wording

TABLES = {
    f"{module.__name__.rpartition('.')[2]}.{name}": table
    for module in (templates, question_templates)
    for name, table in vars(module).items()
    if isinstance(table, Wording)
}


def words_of(patterns) -> set[str]:
    bare = (re.sub(r"\{\w+\}", " ", pattern.lower()) for pattern in patterns)
    return {word for text in bare for word in re.findall(r"[a-z]+", text)}


@pytest.fixture(scope="module")
def heard() -> set[str]:
    """Every word that training hears in a pattern or in a list of words."""
    patterns = [pattern for table in TABLES.values() for pattern in table.train]
    return words_of([*patterns, *templates.GENERIC_NOUNS])


@pytest.mark.parametrize("name", TABLES)
def test_splits_are_rich_and_disjoint(name: str) -> None:
    train, val, test = (set(TABLES[name].of(split)) for split in ("train", "val", "test"))
    assert len(train) >= 10
    assert len(val) >= 5
    assert len(test) >= 5
    assert not train & val
    assert not train & test
    assert not val & test


@pytest.mark.parametrize("name", TABLES)
def test_paraphrases_use_words_that_training_hears(name: str, heard: set[str]) -> None:
    assert words_of(TABLES[name].val + TABLES[name].test) <= heard


@pytest.mark.parametrize("name", TABLES)
def test_splits_have_the_same_slots_to_choose_from(name: str) -> None:
    slots = {
        split: set(re.findall(r"\{(\w+)\}", " ".join(TABLES[name].of(split))))
        for split in ("train", "val", "test")
    }
    assert slots["val"] <= slots["train"]
    assert slots["test"] <= slots["train"]


def test_every_relation_has_words() -> None:
    assert templates.RELATION_WORDS.keys() == RELATIONS.keys() - {"same"}
    said = [words for each in templates.RELATION_WORDS.values() for words in each]
    assert len(set(said)) == len(said)
