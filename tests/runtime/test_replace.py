"""A folder is replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from saymask.runtime import replace
from saymask.runtime.replace import replacing


def _fill(folder: Path, text: str) -> None:
    with replacing(folder) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "file").write_text(text)


@pytest.fixture(params=["exchange", "two renames"])
def target(request, tmp_path, monkeypatch) -> Path:
    """Folder to replace, where names can be exchanged and where they cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(replace, "_exchange", lambda a, b: False)
    return tmp_path / "parent" / "a [1] name"


def test_new_then_replaced(target):
    for text in ("first", "second", "third"):
        _fill(target, text)
        assert (target / "inner" / "file").read_text() == text
        assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_one(target):
    _fill(target, "old")
    with pytest.raises(UnicodeEncodeError):
        _fill(target, "half \udcff")
    assert list(target.parent.rglob("*")) == [target, target / "inner", target / "inner" / "file"]


def test_leftovers_are_deleted_by_the_next(target):
    stale = target.with_name(f".{target.name}.0badf00d.partial")
    foreign = target.with_name(".another.0badf00d.partial")
    for folder in (stale, foreign):
        (folder / "inner").mkdir(parents=True)
    _fill(target, "new")
    assert sorted(target.parent.iterdir()) == sorted([target, foreign])
