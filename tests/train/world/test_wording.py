from __future__ import annotations

import random
from collections import Counter

from saymask.train.world.wording import draw_kind, say, wording

TABLE = wording(
    train="the {full} | {a} {full}\n    | the {noun} in\n {color}",
    val="one {full}",
    test="no {full}",
)


def test_patterns_are_split_at_bars_and_joined_over_lines() -> None:
    assert TABLE.of("train") == ("the {full}", "{a} {full}", "the {noun} in {color}")
    assert TABLE.of("val") == ("one {full}",)
    assert TABLE.of("test") == ("no {full}",)


def test_only_patterns_whose_slots_have_words_are_said() -> None:
    slots = {"full": "mug", "noun": "mug", "a": None, "color": None}
    said = {say(random.Random(seed), TABLE, "train", slots) for seed in range(20)}
    assert said == {"the mug"}
    assert say(random.Random(0), TABLE, "val", {"full": None}) is None


def test_kinds_come_as_often_as_their_weights_say() -> None:
    rng = random.Random(0)
    counts = Counter(draw_kind(rng, {"often": 3, "never": 0, "seldom": 1}) for _ in range(4000))
    assert counts["never"] == 0
    assert 2800 < counts["often"] < 3200
