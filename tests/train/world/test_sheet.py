from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.errors import UsageError
from saymask.train.world.sheet import contact_sheet, overlay


def item(height: int, width: int) -> tuple[np.ndarray, str, np.ndarray]:
    mask_hw = np.zeros((height, width), dtype=bool)
    mask_hw[: height // 2] = True
    return np.full((height, width, 3), 90, dtype=np.uint8), "the upper half of it all", mask_hw


def test_a_page_holds_every_picture_in_its_grid() -> None:
    page = contact_sheet([item(64, 64)] * 5, columns=3, tile_px=128)
    assert page.dtype == np.uint8
    assert page.shape[1] >= 3 * 128
    assert page.shape[0] >= 2 * 128
    assert (page == 90).all(axis=2).sum() > 5 * 128 * 128 * 0.45
    assert (page[-100:, -100:] == 255).all()


def test_pictures_of_any_aspect_share_a_page() -> None:
    page = contact_sheet([item(32, 64), item(64, 32)], columns=2, tile_px=64)
    assert (page == 90).all(axis=2).sum() > 2 * 32 * 64 * 0.4


def test_an_overlay_tints_the_mask_alone() -> None:
    image_hwc, _, mask_hw = item(40, 40)
    shown = overlay(image_hwc, mask_hw)
    assert (shown[~mask_hw] == 90).all()
    assert (shown[mask_hw] != 90).any(axis=1).all()


def test_an_empty_page_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one picture"):
        contact_sheet([])
