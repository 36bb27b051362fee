import os
import shutil
from pathlib import Path

import pytest

from saymask.runtime.errors import BundleError
from saymask.runtime.shelf import find_bundle, newest_bundle


@pytest.fixture
def shelf(tmp_path, tiny_bundle, monkeypatch) -> Path:
    """./bundles/ with an older and a newer bundle."""
    monkeypatch.chdir(tmp_path)
    for name, time_s in (("newer", 2000), ("older", 1000), (".newest.partial", 3000)):
        folder = shutil.copytree(tiny_bundle, tmp_path / "bundles" / name)
        os.utime(folder / "bundle.json", (time_s, time_s))
    (tmp_path / "bundles" / "empty").mkdir()
    return tmp_path / "bundles"


def test_a_bundle_is_found_by_path_or_by_name(shelf):
    assert find_bundle(shelf / "older") == shelf / "older"
    assert find_bundle("older") == Path("bundles/older")
    (shelf.parent / "older").mkdir()
    assert find_bundle("older") == Path("older")


def test_what_is_not_there_is_said_with_its_places(shelf):
    with pytest.raises(BundleError, match="looked for none and bundles/none in .*saymask export"):
        find_bundle("none")


def test_the_newest_is_the_one_written_last(shelf):
    assert newest_bundle() == Path("bundles/newer")


def test_an_empty_shelf_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="make one with: saymask export evf-sam --int8"):
        newest_bundle()
