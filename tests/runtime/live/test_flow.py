import sys

import numpy as np
import pytest

from saymask.runtime.errors import MissingExtraError
from saymask.runtime.live.flow import FEWEST_CELLS, MOST_CELLS, BackwardFlow, Grid
from saymask.runtime.masks import Masks


def blotches(size_hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with soft blots of a twelfth of the longer side."""
    import cv2

    height, width = size_hw
    seeds = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    side = max(size_hw)
    return cv2.resize(seeds, (side, side), interpolation=cv2.INTER_CUBIC)[:height, :width]


def carried(flow: BackwardFlow, mask_hw: np.ndarray) -> tuple[np.ndarray, float]:
    (box_xyxy,) = Masks.of(mask_hw[None], np.ones(1, np.float32), ("",)).boxes_xyxy
    out_hw = np.zeros_like(mask_hw)
    return out_hw, flow.carry(mask_hw, box_xyxy, out_hw)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("size_hw", [(240, 320), (1080, 1920), (97, 131), (2160, 3840)])
def test_a_grid_covers_its_frame(size_hw):
    grid = Grid.over(size_hw)
    assert max(grid.size_hw) <= MOST_CELLS
    for cells, side in zip(grid.size_hw, size_hw, strict=True):
        assert 0 <= cells * grid.cell_px - side < grid.cell_px


def test_a_narrow_frame_gets_cells_beyond_it():
    assert Grid.over((90, 1920)).size_hw == (FEWEST_CELLS, 120)
    assert Grid.over((1, 1)).size_hw == (FEWEST_CELLS, FEWEST_CELLS)


@pytest.mark.parametrize("size_hw", [(120, 160), (240, 320), (301, 517)])
@pytest.mark.parametrize("seed", range(2))
def test_a_mask_goes_where_the_picture_goes(size_hw, seed):
    height, width = size_hw
    picture = blotches((height + 40, width + 40), seed)
    mask_hw = np.zeros(size_hw, np.bool_)
    mask_hw[height // 4 : height // 2, width // 4 : width // 2] = True
    flow = BackwardFlow(picture[20 : 20 + height, 20 : 20 + width])
    for step in range(1, 6):
        x, y = 20 - 3 * step, 20 + 2 * step  # the window moves, so the picture does the reverse
        flow.advance(picture[y : y + height, x : x + width])
    moved_hw, support = carried(flow, mask_hw)
    truth_hw = np.roll(mask_hw, (-10, 15), (0, 1))
    assert iou(moved_hw, truth_hw) > 0.9
    assert iou(moved_hw, mask_hw) < 0.75
    assert support > 0.95


def test_marking_starts_anew():
    picture = blotches((120, 200))
    flow = BackwardFlow(picture[:, 20:180])
    flow.advance(picture[:, 15:175])
    flow.mark()
    mask_hw = np.zeros((120, 160), np.bool_)
    mask_hw[30:70, 50:100] = True
    np.testing.assert_array_equal(carried(flow, mask_hw)[0], mask_hw)
    flow.advance(picture[:, 10:170])
    assert iou(carried(flow, mask_hw)[0], np.roll(mask_hw, 5, 1)) > 0.93


def test_what_leaves_the_view_does_not_come_back():
    picture = blotches((120, 300))
    mask_hw = np.zeros((120, 160), np.bool_)
    mask_hw[40:80, 130:150] = True
    flow = BackwardFlow(picture[:, 70:230])
    for x in (64, 58, 52, 46, 40, 46, 52, 58, 64, 70):
        flow.advance(picture[:, x : x + 160])
    assert carried(flow, mask_hw)[0].sum() < 0.2 * mask_hw.sum()


def test_another_picture_supports_nothing():
    flow = BackwardFlow(blotches((120, 160)))
    mask_hw = np.zeros((120, 160), np.bool_)
    mask_hw[30:90, 40:120] = True
    flow.advance(255 - blotches((120, 160), seed=9))
    assert carried(flow, mask_hw)[1] < 0.5


def test_flow_recovers_from_pictures_that_have_nothing_in_common():
    one, other = blotches((120, 160)), 255 - blotches((120, 160), seed=9)
    flow = BackwardFlow(one)
    for _ in range(50):
        flow.advance(other)
        flow.advance(one)
    flow.advance(one)
    flow.mark()
    flow.advance(one)
    mask_hw = np.zeros((120, 160), np.bool_)
    mask_hw[30:90, 40:120] = True
    moved_hw, support = carried(flow, mask_hw)
    np.testing.assert_array_equal(moved_hw, mask_hw)
    assert support == 1


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5), (3, 400), (400, 3), (31, 33)])
def test_the_smallest_frames_are_followed(size_hw):
    frame = blotches(size_hw)
    flow = BackwardFlow(frame)
    for _ in range(3):
        flow.advance(frame)
    mask_hw = np.ones(size_hw, np.bool_)
    np.testing.assert_array_equal(carried(flow, mask_hw)[0], mask_hw)


def test_a_frame_may_be_a_view_of_another_array():
    picture = blotches((120, 160))
    flow = BackwardFlow(picture[:, ::-1, ::-1])
    flow.advance(np.ascontiguousarray(picture[:, ::-1, ::-1]))
    mask_hw = np.zeros((160, 120), np.bool_).T
    mask_hw[30:70, 50:100] = True
    moved_hw, support = carried(flow, mask_hw)
    assert iou(moved_hw, mask_hw) > 0.99
    assert support == 1


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[video\]"):
        BackwardFlow(np.zeros((40, 40, 3), np.uint8))
