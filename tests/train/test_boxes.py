from __future__ import annotations

import numpy as np

from saymask.kernels.boxes import boxes_xyxy_from_masks
from saymask.train.boxes import scene_boxes
from saymask.train.cache import MAX_OBJECTS, MAX_PARTS


def test_boxes_are_those_of_the_maps(cache, boxes):
    assert boxes.shape == (len(cache), 1 + MAX_OBJECTS, 1 + MAX_PARTS, 4)
    sides = np.array([160, 120, 160, 120], np.float32)
    for scene in (0, 5, 23):
        instances, parts = cache.instance_map[scene], cache.part_map[scene]
        objects = np.arange(1, 1 + MAX_OBJECTS)
        whole = boxes_xyxy_from_masks(instances == objects[:, None, None])
        np.testing.assert_allclose(boxes[scene, 1:, 0], whole / sides, atol=1e-6)
        for part in range(1, 1 + MAX_PARTS):
            seen = (instances == objects[:, None, None]) & (parts == part)
            wanted = boxes_xyxy_from_masks(seen) / sides
            np.testing.assert_allclose(boxes[scene, 1:, part], wanted, atol=1e-6)
    assert not boxes[:, 0].any(), "the table is no object"


def test_boxes_are_measured_once(cache, tmp_path):
    path = tmp_path / "new" / "boxes.npy"
    first = scene_boxes(cache, path)
    np.save(path, 2 * first)
    np.testing.assert_array_equal(scene_boxes(cache, path), 2 * first)
