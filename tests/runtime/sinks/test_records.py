import json
from dataclasses import replace

import numpy as np

from saymask.kernels.rle import decode
from saymask.runtime.masks import Masks, Said
from saymask.runtime.sinks.records import RECORD_SCHEMA, records
from saymask.runtime.sources.frame import Frame

KINDS = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
    "array": list,
    "object": dict,
}


def _fits(value: object, schema: dict) -> bool:
    """Check the few words of JSON Schema that records use."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, KINDS[kind]) for kind in kinds):
        return False
    if isinstance(value, list):
        return all(_fits(item, schema["items"]) for item in value)
    if isinstance(value, dict) and "properties" in schema:
        return value.keys() == schema["properties"].keys() and all(
            _fits(value[name], member) for name, member in schema["properties"].items()
        )
    if isinstance(value, dict):
        return all(_fits(member, schema["additionalProperties"]) for member in value.values())
    return True


def test_what_a_system_wrote_down(frame):
    said = Said(
        answer="[083,222,417,667]\nYes",
        reason="",
        boxes_xyxy=np.float32([[10, 20, 50.004, 60]]),
        points_xy=np.float32([[30, 40.333]]),
        labels=np.array([1]),
        confidences=np.float32([[0.91234567, 0.01]]),
    )
    written = replace(said, confidences=None)
    masks = Masks.of(np.zeros((2, *frame.shape[:2]), bool), np.zeros(2, np.float32), ("a", "b"))
    shot = Frame(image_hwc=frame, name="a.mp4", index=0, captured_ns=0, time_s=None)
    found = json.loads(json.dumps(list(records(shot, replace(masks, said=(said, written))))))
    assert all(_fits(record, RECORD_SCHEMA) for record in found)
    assert found[0]["said"] == {
        "answer": "[083,222,417,667]\nYes",
        "reason": "",
        "boxes_xyxy": [[10, 20, 50, 60]],
        "points": [{"xy": [30, 40.33], "label": 1, "yes": 0.912346, "no": 0.01}],
    }
    assert found[1]["said"]["points"] == [{"xy": [30, 40.33], "label": 1, "yes": None, "no": None}]


def test_records_are_json_that_fits_its_schema(frame):
    boolean = np.stack([frame[..., 0] > 200, np.zeros(frame.shape[:2], bool)])
    masks = replace(
        Masks.of(boolean, np.float32([0.875, 0]), ("red", "green")), timings_ms=(("mask", 2.00049),)
    )
    for time_s in (None, 0.0, 0.1234567):
        shot = Frame(image_hwc=frame, name="a.mp4", index=3, captured_ns=0, time_s=time_s)
        written = json.loads(json.dumps(list(records(shot, masks))))
        assert all(_fits(record, RECORD_SCHEMA) for record in written)
        assert [record["phrase"] for record in written] == ["red", "green"]
        assert [record["area_px"] for record in written] == [1600, 0]
        assert written[0]["time_s"] == (time_s and 0.123457)
        assert written[0]["times_ms"] == {"mask": 2.0}
        np.testing.assert_array_equal(decode(written[0]["rle"]), boolean[0])
