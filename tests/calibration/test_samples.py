import json

import cv2
import numpy as np
import pytest

from saymask.calibration.samples import PHRASES_FILE, read_samples, sampled_pictures
from saymask.kernels import rle
from saymask.runtime.errors import SourceError
from saymask.train import samples

MASK = np.zeros((90, 120), np.bool_)
MASK[20:60, 10:50] = True
RED = {"image": "a.png", "text": "the red square", "rle": rle.encode(MASK)}
BLUE = {"image": "a.png", "text": "the blue one", "task": "multi", "rle": rle.encode(~MASK)}


@pytest.fixture
def write(tmp_path, frame):
    """Writes a folder with the pictures a.png to c.png and lines about them."""
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), frame[..., ::-1])

    def write(*rows: object):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / PHRASES_FILE).write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


def test_phrases_are_gathered_by_picture(write, frame):
    first, second = read_samples(write(RED, RED | {"image": "b.png"}, BLUE))
    assert (first.frame == frame).all()
    assert first.texts == ("the red square", "the blue one")
    assert first.tasks == ("single", "multi")
    assert first.masks is not None
    assert first.masks.dtype == np.bool_
    assert (first.masks == [MASK, ~MASK]).all()
    assert second.texts == ("the red square",)


def test_truth_is_known_of_all_phrases_of_a_picture_or_of_none(write):
    bare = {"image": "a.png", "text": "the table"}
    first, second = read_samples(write(RED, bare, RED | {"image": "b.png"}))
    assert first.masks is None
    assert second.masks is not None


def test_the_limit_counts_pictures_and_keeps_all_that_is_said_of_them(write):
    folder = write(*(RED | {"image": f"{name}.png"} for name in "abc"), BLUE)
    assert [len(each.texts) for each in read_samples(folder, limit=2)] == [2, 1]
    assert len(read_samples(folder)) == 3


def test_pictures_are_chosen_by_name(write):
    folder = write(*(RED | {"image": f"{name}.png"} for name in "abc"), BLUE)
    pictures = sampled_pictures(folder)
    assert [path.name for path in pictures] == ["a.png", "b.png", "c.png"]
    found = read_samples(folder, pictures=[pictures[2], pictures[0]])
    assert [len(each.texts) for each in found] == [1, 2]


def test_masks_may_be_called_segmentation(write):
    bare = {"image": "a.png", "text": "the red square"}
    (found,) = read_samples(write(bare | {"segmentation": rle.encode(MASK)}))
    assert found.masks is not None
    assert (found.masks == MASK).all()


def test_pictures_beyond_the_limit_need_not_be_there(write):
    folder = write(RED, RED | {"image": "missing.png"})
    assert len(read_samples(folder, limit=1)) == 1
    with pytest.raises(SourceError, match="missing.png"):
        read_samples(folder)


def test_it_reads_what_the_world_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "PICTURES", 2)
    samples.write_samples(tmp_path, tasks=("single", "semantic"))
    found = read_samples(tmp_path / "samples")
    assert len(found) == 2
    for sample in found:
        assert set(sample.tasks) == {"single", "semantic"}
        assert sample.masks is not None
        assert sample.masks.any((1, 2)).all()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "JSONDecodeError"),
        ("", "JSONDecodeError"),
        ([1], "TypeError"),
        ({"image": "a.png"}, "KeyError('text')"),
        ({"text": "the table"}, "KeyError('image')"),
        ({"image": 7, "text": "the table"}, "TypeError"),
        (RED | {"rle": {"size": [90, 120], "counts": "11"}}, "add up to 90 x 120"),
        (RED | {"rle": 5}, "TypeError"),
    ],
)
def test_a_bad_line_is_one_error_that_says_what_a_line_is(write, row, said):
    with pytest.raises(SourceError, match="image and text for each phrase") as caught:
        read_samples(write(RED, row))
    assert said in str(caught.value)
    assert PHRASES_FILE in str(caught.value)


def test_no_line_is_an_error(write):
    folder = write()
    (folder / PHRASES_FILE).write_text("")
    with pytest.raises(SourceError, match="it has no line"):
        read_samples(folder)


def test_no_folder_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(SourceError, match="saymask world stills"):
        read_samples(tmp_path / "nowhere")


def test_a_mask_of_another_size_is_an_error(write):
    with pytest.raises(SourceError, match=r"size \(90, 120\); one of .*a.png has \(120, 90\)"):
        read_samples(write(RED | {"rle": rle.encode(MASK.T)}))
