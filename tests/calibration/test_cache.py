"""What is kept is what was counted, of the same graph and data alone."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.cache import KeptHistograms, claim, data_sha256
from saymask.calibration.histogram import Histogram
from saymask.runtime.errors import UsageError

KEY = {"graph": "a", "data": "b"}


@pytest.fixture
def histograms() -> dict[str, Histogram]:
    generator = np.random.default_rng(0)
    found = {"/x/y": Histogram(), "z": Histogram(channel_axis=1)}
    for histogram in found.values():
        histogram.add(generator.normal(size=(5, 6)))
    return found


def _empty() -> dict[str, Histogram]:
    return {"/x/y": Histogram(), "z": Histogram(channel_axis=1)}


def test_there_and_back(tmp_path, histograms):
    kept = KeptHistograms(tmp_path / "part")
    assert kept.load(_empty())[1] == 0
    kept.save(histograms, 3)
    found, runs = kept.load(_empty())
    assert runs == 3
    for name, histogram in histograms.items():
        assert found[name].channel_axis == histogram.channel_axis
        for part, array in histogram.state().items():
            np.testing.assert_array_equal(found[name].state()[part], array)


@pytest.mark.parametrize("rest", [0, 1, 1000])
def test_a_damaged_file_counts_as_none(tmp_path, histograms, rest):
    kept = KeptHistograms(tmp_path)
    kept.save(histograms, 3)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:rest])
    found, runs = kept.load(_empty())
    assert runs == 0
    assert len(found["z"].lows) == 0


def test_a_folder_is_claimed_once(tmp_path):
    claim(tmp_path / "new", KEY)
    claim(tmp_path / "new", KEY)
    with pytest.raises(UsageError, match="holds that of another data; delete that folder or"):
        claim(tmp_path / "new", {**KEY, "data": "c"})
    with pytest.raises(UsageError, match="another graph and another data"):
        claim(tmp_path / "new", {"graph": "b", "data": "c"})
    (tmp_path / "new" / "key.json").write_text("{")
    with pytest.raises(UsageError, match="another graph and another data"):
        claim(tmp_path / "new", KEY)


def test_data_is_known_by_all_it_holds(images):
    digest = data_sha256(images)
    assert digest == data_sha256([{"image": each["image"].copy()} for each in images])
    assert digest != data_sha256(images[::-1])
    assert digest != data_sha256([{"picture": each["image"]} for each in images])
    assert digest != data_sha256([{"image": each["image"].reshape(3, 32, 32)} for each in images])
