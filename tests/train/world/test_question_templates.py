from __future__ import annotations

import pytest

from saymask.train.world import question_templates
from saymask.train.world.wording import Wording

TABLES = {name: t for name, t in vars(question_templates).items() if isinstance(t, Wording)}


@pytest.mark.parametrize("name", TABLES)
def test_questions_and_answers_are_sentences(name: str) -> None:
    ends = "." if name.startswith("ANSWER") else "?."
    for split in ("train", "val", "test"):
        for pattern in TABLES[name].of(split):
            assert pattern[-1] in ends
            assert pattern[0].isupper() or pattern.startswith(("{x}", "{is}"))


@pytest.mark.parametrize("name", ["ASK_PART", "ASK_PART_BY_USE", "ASK_BOTH"])
def test_a_part_is_asked_for_with_its_use(name: str) -> None:
    for split in ("train", "val", "test"):
        assert all("{part} {what_for}" in pattern for pattern in TABLES[name].of(split))
