from __future__ import annotations

from saymask.train.world import compose


def test_a_scene_is_a_value() -> None:
    scene = compose(3, "train")
    assert scene == compose(3, "train")
    assert len({scene, compose(3, "train"), compose(4, "train")}) == 2
