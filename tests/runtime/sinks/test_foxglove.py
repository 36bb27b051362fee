import sys

import cv2
import numpy as np
import pytest
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from foxglove_schemas_protobuf.PointsAnnotation_pb2 import PointsAnnotation

from saymask.runtime.errors import MissingExtraError
from saymask.runtime.masks import Masks
from saymask.runtime.overlay import PALETTE_RGB, draw
from saymask.runtime.sinks.foxglove import compressed_image, image_annotations

STAMP_NS = 1_700_000_000_123_456_789


def _masks(*planes: np.ndarray, labels: tuple[str, ...]) -> Masks:
    return Masks.of(np.stack(planes), np.full(len(planes), 0.75, np.float32), labels)


def _annotations(masks: Masks) -> ImageAnnotations:
    """Read what was written as anybody else does."""
    written = image_annotations(masks, STAMP_NS).SerializeToString()
    annotations = ImageAnnotations.FromString(written)
    assert annotations.SerializeToString() == written
    return annotations


@pytest.fixture
def blob() -> np.ndarray:
    """(120, 160) bool: a disk with a hole, and a part that touches the frame's corner."""
    y, x = np.mgrid[:120, :160]
    distance = np.hypot(y - 60.0, x - 70.0)
    return ((distance < 45) & (distance > 12)) | (y + (160 - x) < 30)


def test_outlines_drawn_again_give_the_mask(blob):
    loops = _annotations(_masks(blob, labels=("mug",))).points
    assert {loop.type for loop in loops} == {PointsAnnotation.LINE_LOOP}
    assert [loop.fill_color.a > 0 for loop in loops].count(True) == 2
    rings = [np.array([(p.x - 0.5, p.y - 0.5) for p in loop.points], np.int32) for loop in loops]
    drawn = cv2.fillPoly(np.zeros(blob.shape, np.uint8), rings, 1) > 0
    assert (drawn & blob).sum() / (drawn | blob).sum() > 0.98


def test_a_label_keeps_the_color_it_has_in_an_overlay(frame):
    red, blue = frame[..., 0] > 200, frame[..., 2] > 200
    masks = _masks(red, blue, blue, labels=("red", "blue", "red"))
    colors = [
        tuple(
            round(255 * level)
            for level in (loop.fill_color.r, loop.fill_color.g, loop.fill_color.b)
        )
        for loop in _annotations(masks).points
    ]
    assert colors == [PALETTE_RGB[0], PALETTE_RGB[1], PALETTE_RGB[0]]
    outlined = draw(frame, _masks(red, blue, labels=("red", "blue")))
    assert all((outlined == color).all(axis=2).any() for color in colors)


def test_texts_say_label_and_score_inside_the_frame(frame):
    masks = _masks(frame[..., 0] > 200, np.ones((90, 120), bool), labels=("rote Größe", "all"))
    texts = _annotations(masks).texts
    assert [text.text for text in texts] == ["rote Größe 0.75", "all 0.75"]
    assert [(text.position.x, text.position.y) for text in texts] == [(10, 20), (0, 12)]
    assert all(text.position.y >= text.font_size for text in texts)


def test_empty_masks_and_no_masks_draw_nothing(frame):
    empty = np.zeros((1, 90, 120), bool)
    for count in (0, 1):
        labels = ("nothing",) * count
        masks = Masks.of(empty[:count], np.zeros(count, np.float32), labels)
        annotations = _annotations(masks)
        assert not annotations.points
        assert not annotations.texts


def test_a_single_pixel_is_outlined():
    mask = np.zeros((8, 8), bool)
    mask[3, 5] = True
    (loop,) = _annotations(_masks(mask, labels=("dot",))).points
    assert [(point.x, point.y) for point in loop.points] == [(5.5, 3.5)]


def test_an_image_is_a_jpeg_with_its_time(frame):
    image = CompressedImage.FromString(compressed_image(frame, STAMP_NS).SerializeToString())
    assert (image.format, image.data[:2]) == ("jpeg", b"\xff\xd8")
    assert (image.timestamp.seconds, image.timestamp.nanos) == divmod(STAMP_NS, 10**9)
    seen = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(seen.astype(int) - frame).mean() < 3


def test_missing_schemas_are_named_with_their_extra(monkeypatch, frame):
    monkeypatch.setitem(sys.modules, "foxglove_schemas_protobuf.CompressedImage_pb2", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[mcap\]"):
        compressed_image(frame, 0)
