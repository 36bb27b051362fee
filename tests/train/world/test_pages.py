from __future__ import annotations

import cv2
import numpy as np

from saymask.kernels.rle import decode
from saymask.train.world.expression import Expression
from saymask.train.world.pages import (
    CATEGORY_NAMES,
    CocoBook,
    by_targets,
    category_name,
    draw_pages,
    mask_record,
    save_image,
    visible_targets,
)
from saymask.train.world.truth import Target, mask_of


def test_pages_are_numbered_scenes() -> None:
    pages = list(draw_pages("val", 3, (48, 64), seed=7))
    assert [page.image_id for page in pages] == [1, 2, 3]
    assert [page.drawing.scene.seed for page in pages] == [7, 8, 9]
    assert pages[0].size_hw == (48, 64)


def test_images_are_written_as_rgb(tmp_path) -> None:
    image_hwc = np.zeros((4, 6, 3), np.uint8)
    image_hwc[..., 0] = 200
    save_image(tmp_path / "deep" / "red.png", image_hwc)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "deep/red.png"))[..., 2], 200)


def test_a_book_holds_every_visible_object_and_part() -> None:
    book = CocoBook()
    page = next(draw_pages("test", 1, (96, 128), seed=3))
    ids = book.add(page, "a.jpg")
    assert set(ids) == set(visible_targets(page.drawing))
    for target, number in ids.items():
        record = book.annotations[number - 1]
        assert record["id"] == number
        name = CATEGORY_NAMES[record["category_id"] - 1]
        assert name == category_name(page.drawing, target)
        assert (":" in name) == (target.part is not None)
        whole = Target(object_index=target.object_index, part=None)
        assert record["obj_ann_id"] == ids[whole]
        mask_hw = mask_of(page.drawing, (target,))
        np.testing.assert_array_equal(decode(record["segmentation"]), mask_hw)


def test_a_record_measures_its_mask() -> None:
    mask_hw = np.zeros((5, 8), bool)
    mask_hw[1:3, 2:7] = True
    record = mask_record(mask_hw)
    assert record["area"] == 10
    assert record["bbox"] == [2, 1, 5, 2]


def test_expressions_that_mean_the_same_are_gathered() -> None:
    one, two = (Target(object_index=index, part=None) for index in (0, 1))
    a, b, c = (
        Expression(
            task="single", kind="any", text=text, targets=(target,), references=(), answer="",
            is_held_out=False,
        )
        for text, target in (("a", one), ("b", two), ("c", one))
    )  # fmt: skip
    assert by_targets((a, b, c)) == {(one,): [a, c], (two,): [b]}
