import sys
from itertools import combinations

import numpy as np
import pytest

from saymask.runtime.errors import MissingExtraError
from saymask.runtime.masks import Masks
from saymask.runtime.overlay import PALETTE_RGB, draw

GRAY = 120


def _scene(height: int, width: int, labels: tuple[str, ...]):
    """A gray frame and a mask for each label: squares from left to right."""
    masks = np.zeros((len(labels), height, width), bool)
    side = min(height, width // max(1, len(labels))) // 2
    for index, mask in enumerate(masks):
        left = index * width // len(labels) + side // 2
        mask[height // 4 : height // 4 + side, left : left + side] = True
    scores = np.linspace(0.9, 0.5, len(labels), dtype=np.float32)
    return np.full((height, width, 3), GRAY, np.uint8), Masks.of(masks, scores, labels)


def _distances(picture, color_rgb):
    return np.abs(picture.astype(int) - color_rgb).max(axis=-1)


@pytest.mark.parametrize(
    ("size_hw", "zoom"), [((128, 128), 4), ((480, 640), 1), ((1080, 1920), 1), ((300, 60), 2)]
)
def test_small_frames_are_enlarged_by_a_whole_factor(size_hw, zoom):
    picture = draw(*_scene(*size_hw, ("red mug",)))
    height, width = zoom * size_hw[0], zoom * size_hw[1]
    assert picture.dtype == np.uint8
    assert picture.shape[1] == width
    assert height + 20 < picture.shape[0] < height + 100


def test_each_phrase_has_its_tint_outline_and_chip():
    frame, masks = _scene(600, 800, ("a", "b"))
    picture = draw(frame, masks)
    for mask, color in zip(masks.boolean, PALETTE_RGB, strict=False):
        ys, xs = np.nonzero(mask)
        middle = picture[ys.mean().astype(int), xs.mean().astype(int)]
        assert _distances(middle, 0.55 * GRAY + 0.45 * np.array(color)) <= 1
        edge = picture[ys.min() - 1 : ys.min() + 2, xs.mean().astype(int)]
        assert _distances(edge, color).min() < 60
        assert (_distances(picture[600:], color) == 0).sum() > 50


def test_what_is_outside_all_masks_stays_as_it_is():
    frame, masks = _scene(600, 800, ("a", "b"))
    picture = draw(frame, masks)
    far = ~masks.boolean.any(axis=0)
    far[1:] &= far[:-1]
    for _ in range(6):
        far[:-1] &= far[1:]
        far[1:] &= far[:-1]
        far[:, :-1] &= far[:, 1:]
        far[:, 1:] &= far[:, :-1]
    np.testing.assert_array_equal(picture[:600][far], frame[far])


def test_masks_of_one_phrase_share_a_color_and_a_line():
    frame, masks = _scene(600, 800, ("mug", "mug"))
    one_line = draw(*_scene(600, 800, ("mug",))).shape
    picture = draw(frame, masks)
    assert picture.shape == one_line
    assert (_distances(picture, PALETTE_RGB[1]) > 0).all()


def test_an_empty_mask_keeps_its_place_in_the_legend():
    frame, masks = _scene(300, 400, ("a", "b"))
    empty = Masks.of(np.zeros_like(masks.boolean), np.zeros(2, np.float32), masks.labels)
    picture = draw(frame, empty)
    np.testing.assert_array_equal(np.unique(picture[:600]), [GRAY])
    assert picture.shape == draw(frame, masks).shape


def test_nothing_asked_is_the_plain_frame():
    frame, masks = _scene(600, 800, ())
    np.testing.assert_array_equal(draw(frame, masks), frame)


def test_a_narrow_legend_breaks_lines_and_cuts_words():
    words = "the third small red mug from the left that stands behind the lamp"
    wide = draw(*_scene(600, 800, ("a", "b", "c"))).shape[0]
    narrow = draw(*_scene(600, 100, (words, "b", words + "!"))).shape[0]
    assert narrow > wide


def test_words_of_any_script_are_drawn():
    for words in ("die grüne Tasse", "красная кружка", "红色的杯子", "x" * 500, "{}%s"):
        draw(*_scene(64, 64, (words,)))


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 50), (50, 1), (3, 2000)])
def test_odd_sizes_are_drawn(size_hw):
    frame, masks = _scene(*size_hw, ("a", "b"))
    picture = draw(frame, Masks.of(~masks.boolean, masks.scores, masks.labels))
    assert picture.shape[1] % size_hw[1] == 0


def test_the_frame_is_not_changed():
    frame, masks = _scene(600, 800, ("a",))
    draw(frame, masks)
    assert (frame == GRAY).all()


def test_colors_are_apart():
    for one, other in combinations(PALETTE_RGB, 2):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 60


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[video\]"):
        draw(*_scene(8, 8, ("a",)))
