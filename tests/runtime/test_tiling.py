from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.errors import FrameError
from saymask.runtime.geometry import fit
from saymask.runtime.spec import ViewSpec
from saymask.runtime.tiling import TilingSpec, best_grid, cut, token_order

VIEW = ViewSpec(
    name="vision",
    size_hw=(24, 24),
    fit="stretch",
    interpolation="bicubic",
    is_antialiased=True,
    rounds_to_uint8=True,
    mean_rgb=(120.0, 110.0, 100.0),
    std_rgb=(60.0, 50.0, 40.0),
    canvas_hw=(24, 24),
)
SPEC = TilingSpec(view=VIEW, tokens_hw=(4, 4), grids=((2, 1), (1, 2), (2, 2), (1, 3), (3, 1)))
OFFICIAL = replace(SPEC, view=replace(VIEW, size_hw=(336, 336)), tokens_hw=(24, 24))
NEWLINE = 16


def _frame(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("frame_hw", "grid"),
    [
        ((672, 672), (2, 2)),
        ((480, 640), (2, 2)),
        ((100, 900), (1, 3)),
        ((900, 100), (3, 1)),
        ((300, 600), (1, 2)),
        ((300, 300), (2, 1)),
    ],
)
def test_the_grid_keeps_pixels_and_wastes_few(frame_hw, grid):
    assert best_grid(frame_hw, OFFICIAL) == grid


def test_a_square_frame_of_the_official_size_becomes_2928_tokens():
    assert len(token_order((672, 672), OFFICIAL)) == 576 + 48 * 48 + 48 == 2928


def test_rounding_errors_count_as_in_the_original():
    assert 110 * (48 / 352) < 15
    assert len(token_order((110, 352), OFFICIAL)) == 576 + 14 * (48 + 1)


def test_the_whole_frame_comes_first():
    frame = _frame(40, 50)
    tiles = cut(frame, SPEC)
    assert tiles.shape == (5, 3, 24, 24)
    assert tiles.dtype == np.float32
    np.testing.assert_array_equal(tiles[:1], fit(frame, VIEW)[0])


def test_tiles_are_cut_row_by_row_from_a_frame_amid_black():
    pixels = cut(_frame(36, 48), SPEC)[1:] * np.reshape(VIEW.std_rgb, (3, 1, 1))
    pixels += np.reshape(VIEW.mean_rgb, (3, 1, 1))
    canvas = np.concatenate(
        [np.concatenate(pixels[0:2], axis=2), np.concatenate(pixels[2:4], axis=2)], axis=1
    )
    expected = np.zeros((48, 48, 3))
    expected[6:42] = _frame(36, 48)
    np.testing.assert_allclose(canvas.transpose(1, 2, 0), expected, atol=1e-3)


def test_rows_that_see_black_alone_are_dropped():
    order = token_order((24, 48), replace(SPEC, grids=((2, 2),)))
    lines = order[16:].reshape(4, 9)
    np.testing.assert_array_equal(order[:16], np.arange(16))
    assert (lines[:, -1] == NEWLINE).all()
    # Of eight rows of tokens the upper two, in the first tiles, and the lower two see black.
    tile, token = np.divmod(lines[:, :-1], NEWLINE + 1)
    assert tile.tolist() == [[1] * 4 + [2] * 4] * 2 + [[3] * 4 + [4] * 4] * 2
    rows, columns = np.divmod(token, 4)
    assert rows[:, 0].tolist() == [2, 3, 0, 1]
    assert columns.tolist() == [[0, 1, 2, 3] * 2] * 4


def test_columns_that_see_black_alone_are_dropped():
    lines = token_order((48, 12), replace(SPEC, grids=((2, 2),)))[16:].reshape(8, 3)
    tile, token = np.divmod(lines[:, :-1], NEWLINE + 1)
    assert tile[:, 0].tolist() == [1] * 4 + [3] * 4
    assert (token[:, 0] % 4 == 3).all()
    assert (token[:, 1] % 4 == 0).all()


@pytest.mark.parametrize("frame_hw", [(1, 1), (7, 300), (333, 11), (479, 641), (1080, 1920)])
def test_the_number_of_tokens_is_known_beforehand(frame_hw):
    order = token_order(frame_hw, SPEC)
    tiles = 1 + np.prod(best_grid(frame_hw, SPEC))
    assert order.dtype == np.int64
    assert order.max() < tiles * (NEWLINE + 1)
    drawn = order[order % (NEWLINE + 1) != NEWLINE]
    assert len(set(drawn.tolist())) == len(drawn)


def test_without_grids_the_whole_frame_is_all():
    whole = replace(SPEC, grids=())
    frame = _frame(40, 50)
    np.testing.assert_array_equal(cut(frame, whole), fit(frame, VIEW)[0])
    np.testing.assert_array_equal(token_order((40, 50), whole), np.arange(16))


def test_what_is_no_frame_is_refused():
    with pytest.raises(FrameError, match="must be a uint8"):
        cut(np.zeros((4, 4), np.uint8), SPEC)
