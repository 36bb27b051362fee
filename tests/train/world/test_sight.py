from __future__ import annotations

import numpy as np

from saymask.train.world.catalogue import CATEGORIES
from saymask.train.world.sight import look, targets_of
from saymask.train.world.truth import Target, mask_of, visible_objects


def test_a_view_measures_what_the_maps_show(drawings) -> None:
    for drawing in drawings["test"][:40]:
        view, short = look(drawing), min(drawing.instance_map_hw.shape)
        assert tuple(one.index for one in view.clear) == visible_objects(drawing)
        shown = set(np.unique(drawing.instance_map_hw)) - {0}
        assert {one.index + 1 for one in view.seen} == shown
        for one in view.seen:
            mask_hw = mask_of(drawing, targets_of((one,)))
            rows, columns = np.nonzero(mask_hw)
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(one.box_xyxy, np.array(edges) / short)
            np.testing.assert_allclose(one.area, mask_hw.sum() / short**2)
            traces = {
                part.name
                for part in CATEGORIES[one.thing.category].parts
                if mask_of(drawing, (Target(object_index=one.index, part=part.name),)).any()
            }
            assert set(one.traces) == traces
            assert set(one.parts) <= traces


def test_an_opinion_on_any_object_makes_a_match_doubtful(seen, viewed) -> None:
    first, second = seen(0, (0, 0, 0.2, 0.2)), seen(1, (0.5, 0, 0.7, 0.2))
    view = viewed(first, second)
    assert view.matches(lambda one: one is first) == (first,)
    assert view.matches(lambda _: False) == ()
    assert view.matches(lambda one: None if one is second else True) is None


def test_a_barely_visible_object_makes_a_match_doubtful(seen, viewed) -> None:
    clear, hidden = seen(0, (0, 0, 0.2, 0.2)), seen(1, (0.5, 0, 0.7, 0.2), is_clear=False)
    view = viewed(clear, hidden)
    assert view.clear == (clear,)
    assert view.matches(lambda _: True) is None
    assert view.matches(lambda one: one is clear) == (clear,)
