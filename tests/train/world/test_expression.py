from __future__ import annotations

import pytest

from saymask.train.world.expression import expression_about
from saymask.train.world.sight import targets_of


@pytest.mark.parametrize(("color", "is_held_out"), [("red", False), ("orange", True)])
def test_held_out_is_what_only_the_test_split_draws(color, is_held_out, seen, viewed) -> None:
    mug = seen(0, (0, 0, 0.3, 0.3), color=color)
    lamp = seen(1, (0.5, 0, 0.8, 0.3), "lamp", color="red")
    view = viewed(mug, lamp, split="test")
    about = expression_about(
        view, task="part", kind="any", text="x", targets=targets_of((mug,), "handle")
    )
    assert about.is_held_out is is_held_out
    assert about.references == ()
    assert about.answer == ""
    nothing = expression_about(view, task="multi", kind="none", text="x", targets=())
    assert not nothing.is_held_out
