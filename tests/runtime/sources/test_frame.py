import dataclasses

import numpy as np
import pytest

from saymask.runtime.sources.frame import Frame


def test_a_frame_is_a_value_and_equals_itself_alone():
    fields = {
        "image_hwc": np.zeros((2, 3, 3), np.uint8),
        "name": "0",
        "index": 4,
        "captured_ns": 5,
        "time_s": None,
    }
    frame = Frame(**fields)
    assert frame == frame
    assert frame != Frame(**fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.index = 5
