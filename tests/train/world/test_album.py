from __future__ import annotations

import json

import av
import cv2
import numpy as np
import pytest

from saymask.kernels.rle import decode
from saymask.runtime.errors import UsageError
from saymask.train.world.album import write_clip, write_stills
from saymask.train.world.clip import compose_clip, frames
from saymask.train.world.expression import TASKS

SIZE_HW = (96, 128)


def test_stills_come_with_a_line_for_every_phrase(tmp_path) -> None:
    count = write_stills(
        tmp_path / "stills", split="test", count=3, size_hw=SIZE_HW, seed=0, tasks=TASKS,
        has_sheet=True,
    )  # fmt: skip
    folder = tmp_path / "stills"
    lines = [json.loads(line) for line in (folder / "phrases.jsonl").read_text().splitlines()]
    assert len(lines) == count
    assert {line["task"] for line in lines} == set(TASKS)
    for line in lines:
        image, mask = (cv2.imread(str(folder / line[name])) for name in ("image", "mask"))
        assert image.shape == mask.shape == (*SIZE_HW, 3)
        np.testing.assert_array_equal(decode(line["segmentation"]), mask[..., 0] == 255)
        assert line["text"].count("<mask-ref>") in (0, len(line["references"]))
        assert bool(line["targets"]) == decode(line["segmentation"]).any()
    assert (folder / "sheet.png").is_file()
    assert len(list((folder / "images").iterdir())) == 3


def test_a_clip_plays_and_its_truth_follows_the_frames(tmp_path) -> None:
    truth = write_clip(
        tmp_path / "new" / "clip.mp4", split="val", seed=2, size_hw=SIZE_HW, frame_count=6,
        rate_hz=10,
    )  # fmt: skip
    drawings = list(frames(compose_clip(2, "val", 6), SIZE_HW))
    with av.open(str(tmp_path / "new" / "clip.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert len(pictures) == len(lines) == 6
    for number, (picture, line, drawing) in enumerate(zip(pictures, lines, drawings, strict=True)):
        assert np.abs(picture.astype(int) - drawing.image_hwc).mean() < 12
        assert (line["frame"], line["time_s"]) == (number, number / 10)
        for one in line["objects"]:
            mask_hw = drawing.instance_map_hw == one["object"] + 1
            np.testing.assert_array_equal(decode(one["segmentation"]), mask_hw)
    assert sorted(path.name for path in truth.parent.iterdir()) == ["clip.jsonl", "clip.mp4"]


@pytest.mark.parametrize(
    ("name", "size_hw", "count", "message"),
    [
        ("a.mp4", (96, 127), 4, "even sides, got 127x96"),
        ("a.avi", SIZE_HW, 4, "got 'a.avi'"),
        ("a.mp4", SIZE_HW, 1, "at least 2, got 1"),
    ],
)
def test_a_clip_that_cannot_be_is_refused(name, size_hw, count, message, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        write_clip(
            tmp_path / name, split="val", seed=0, size_hw=size_hw, frame_count=count, rate_hz=10
        )
    assert list(tmp_path.iterdir()) == []
