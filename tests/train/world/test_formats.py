from __future__ import annotations

import pytest

from saymask.runtime.errors import OutputError, UnknownNameError, UsageError
from saymask.train.world import formats
from saymask.train.world.formats import FORMATS, write_dataset

SIZE_HW = (48, 64)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_written_whole_and_the_same_again(name: str, tmp_path) -> None:
    counted = []
    for folder in ("one", "two"):
        records = write_dataset(
            name, tmp_path / folder, "train", 3, SIZE_HW, 5, on_page=lambda: counted.append(1)
        )
        assert records > 0
    assert len(counted) == 6
    one, two = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_what_fails_leaves_nothing(tmp_path, monkeypatch) -> None:
    def draw_and_die(*_: object):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "draw_pages", draw_and_die)
    with pytest.raises(KeyboardInterrupt):
        write_dataset("coco", tmp_path / "data", "val", 2, SIZE_HW, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="must not exist yet or be empty"):
        write_dataset("coco", tmp_path, "val", 1, SIZE_HW, 0)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_bad_names_and_counts_are_refused(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="coco, grefcoco.*got 'voc'"):
        write_dataset("voc", tmp_path / "a", "val", 1, SIZE_HW, 0)
    with pytest.raises(UnknownNameError, match="got 'dev'"):
        write_dataset("coco", tmp_path / "a", "dev", 1, SIZE_HW, 0)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        write_dataset("coco", tmp_path / "a", "val", 0, SIZE_HW, 0)
