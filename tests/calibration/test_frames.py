"""Frames that stand for all the others, and what is said of them."""

from __future__ import annotations

import json
import logging
import weakref

import av
import cv2
import numpy as np
import pytest

from saymask.calibration.frames import calibration_samples, fingerprint, read_phrases
from saymask.runtime.errors import SourceError, UsageError
from saymask.train.world.album import write_stills
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw

PHRASES = ("the mug", "the red one", "a lamp", "the knife", "the handle")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Eight scenes, (96, 128, 3) uint8."""
    return [draw(compose(seed, "train"), (96, 128)).image_hwc for seed in range(8)]


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of numbered pictures."""

    def folder(*images_hwc: np.ndarray):
        for number, image_hwc in enumerate(images_hwc):
            cv2.imwrite(str(tmp_path / f"{number}.png"), image_hwc[..., ::-1])
        return tmp_path

    return folder


def _write_clip(path, images_hwc) -> str:
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.height, stream.width = images_hwc[0].shape[:2]
        for image_hwc in images_hwc:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(image_hwc, format="rgb24")))
        video.mux(stream.encode(None))
    return str(path)


def _positions(samples, pictures) -> list[int]:
    """Which picture each sample shows."""
    prints = np.array([fingerprint(each) for each in pictures])
    return [int((prints != fingerprint(each.frame)).sum(1).argmin()) for each in samples]


def test_a_folder_is_covered_evenly(folder, pictures, caplog):
    found = calibration_samples(str(folder(*pictures)), 4, phrases=PHRASES)
    assert _positions(found, pictures) == [1, 3, 5, 7]
    assert all(
        (each.frame == pictures[n]).all() for each, n in zip(found, (1, 3, 5, 7), strict=True)
    )
    assert not caplog.records


def test_a_video_is_covered_evenly(tmp_path, pictures):
    clip = _write_clip(tmp_path / "clip.mp4", [p for p in pictures for _ in range(5)])
    assert _positions(calibration_samples(clip, 4, phrases=PHRASES), pictures) == [1, 3, 5, 7]


def test_near_duplicates_give_way_to_others(folder, pictures, caplog):
    small = cv2.resize(cv2.resize(pictures[0], (64, 48)), (128, 96))
    found = calibration_samples(
        str(folder(pictures[0], small, pictures[0], pictures[0], *pictures[1:3])), 3, phrases=["a"]
    )
    assert sorted(_positions(found, pictures)) == [0, 1, 2]
    assert not caplog.records


def test_one_picture_repeated_is_one_and_said_so(folder, pictures, caplog):
    with caplog.at_level(logging.WARNING, "saymask"):
        found = calibration_samples(str(folder(*pictures[:1] * 6)), 4, phrases=PHRASES)
    assert len(found) == 1
    assert "of 6 frames in" in caplog.text
    assert "only 1 differ where 4 were asked for" in caplog.text


def test_phrases_are_dealt_out_in_turn(folder, pictures):
    found = list(calibration_samples(str(folder(*pictures[:3])), 3, phrases=PHRASES))
    assert found[0].texts == PHRASES[:4]
    assert found[1].texts == (PHRASES[4], *PHRASES[:3])
    assert found[2].tasks == ("single",) * 4
    assert found[2].masks is None
    few = calibration_samples(str(folder(*pictures[:2])), 2, phrases=PHRASES[:1])
    assert [each.texts for each in few] == [PHRASES[:1]] * 2


def test_pictures_nobody_speaks_of(folder, pictures):
    with pytest.raises(UsageError, match=r"has no phrases.jsonl.*give --calib-phrases FILE"):
        calibration_samples(str(folder(*pictures)), 4)


def test_the_drawn_world_brings_its_phrases_and_masks(tmp_path):
    write_stills(
        tmp_path / "stills", split="train", count=5, size_hw=(96, 128), seed=0,
        tasks=("single",), has_sheet=False,
    )  # fmt: skip
    found = calibration_samples(str(tmp_path / "stills"), 3)
    assert len(found) == 3
    lines = (tmp_path / "stills" / "phrases.jsonl").read_text().splitlines()
    texts = {json.loads(line)["text"] for line in lines}
    for sample in found:
        assert texts.issuperset(sample.texts)
        assert sample.masks is not None
        assert sample.masks.shape == (len(sample.texts), 96, 128)
    (bare,) = calibration_samples(str(tmp_path / "stills" / "images"), 1, phrases=["the mug"])
    assert bare.texts == ("the mug",)
    (other,) = calibration_samples(str(tmp_path / "stills" / "images"), 1, phrases=PHRASES)
    assert other.masks is None


@pytest.mark.parametrize("kind", ["pictures", "clip", "stills"])
def test_one_frame_is_in_memory_at_a_time(tmp_path, folder, pictures, kind):
    phrases, source = PHRASES, str(tmp_path)
    if kind == "pictures":
        folder(*pictures)
    elif kind == "clip":
        source = _write_clip(tmp_path / "clip.mp4", pictures)
    else:
        phrases = ()
        write_stills(
            tmp_path, split="train", count=8, size_hw=(96, 128), seed=0,
            tasks=("single",), has_sheet=False,
        )  # fmt: skip
    found = calibration_samples(source, 8, phrases=phrases)
    seen = []
    for _ in range(2):
        frames = []
        for sample in found:
            frames.append(weakref.ref(sample.frame))
            seen.append((sample.texts, fingerprint(sample.frame).tobytes()))
            assert sum(frame() is not None for frame in frames) == 1
    assert len(found) == 8
    assert seen[:8] == seen[8:]
    assert len(set(seen)) == 8


def test_a_wrong_line_is_told_when_its_turn_comes(tmp_path, folder, pictures):
    lines = [{"image": f"{n}.png", "text": "the mug"} for n in range(4)]
    del lines[2]["text"]
    (folder(*pictures[:4]) / "phrases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    samples = iter(calibration_samples(str(tmp_path), 4))
    assert [next(samples).texts for _ in range(2)] == [("the mug",)] * 2
    with pytest.raises(SourceError, match="samples are a folder with phrases.jsonl"):
        next(samples)


@pytest.mark.parametrize("name", ["", "nothing.png", "*.jpg", "damaged"])
def test_what_cannot_be_read(tmp_path, name):
    if name == "damaged":
        (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(SourceError):
        calibration_samples(str(tmp_path / name), 4, phrases=PHRASES)


def test_what_is_live():
    with pytest.raises(UsageError, match="calibration reads its source twice"):
        calibration_samples("test://tabletop", 4, phrases=PHRASES)


def test_how_many(tmp_path):
    with pytest.raises(UsageError, match="--calib-images must be at least 1; got 0"):
        calibration_samples(str(tmp_path), 0)


def test_fingerprints_know_copies_from_others(pictures):
    prints = np.array([fingerprint(each) for each in pictures])
    between = (prints[:, None] != prints[None]).sum(2)[np.triu_indices(8, 1)]
    _, data = cv2.imencode(".jpg", pictures[0], [cv2.IMWRITE_JPEG_QUALITY, 80])
    copy = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert (fingerprint(copy) != prints[0]).sum() <= 20 < between.min()
    assert fingerprint(np.zeros((5, 3, 3), np.uint8)).shape == (256,)


def test_a_file_of_phrases(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("the mug\n\n  la lampe à gauche \n", "utf-8")
    assert read_phrases(path) == ("the mug", "la lampe à gauche")
    path.write_text("\n")
    with pytest.raises(SourceError, match="has none; write some"):
        read_phrases(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SourceError, match="must be a readable text"):
        read_phrases(path)
