import numpy as np
import pytest

from saymask.calibration.samples import Sample, read_samples
from saymask.train import samples
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.speak import express
from saymask.train.world.truth import mask_of

TASKS = ("single", "semantic")


@pytest.fixture
def written(tmp_path, monkeypatch) -> tuple[Sample, ...]:
    monkeypatch.setattr(samples, "PICTURES", 3)
    samples.write_samples(tmp_path, tasks=TASKS)
    return read_samples(tmp_path / "samples")


def test_calibration_reads_the_val_scenes_with_their_truth(written):
    assert len(written) == 3
    for seed, sample in enumerate(written):
        drawing = draw(compose(seed, "val"), samples.SIZE_HW)
        said = express(drawing, seed=seed, tasks=TASKS, per_task=samples.PER_TASK)
        assert sample.texts == tuple(expression.text for expression in said)
        assert sample.tasks == tuple(expression.task for expression in said)
        assert sample.masks is not None
        for mask_hw, expression in zip(sample.masks, said, strict=True):
            np.testing.assert_array_equal(mask_hw, mask_of(drawing, expression.targets))


def test_pictures_keep_their_colors(written):
    for seed, sample in enumerate(written):
        drawn = draw(compose(seed, "val"), samples.SIZE_HW).image_hwc
        assert np.abs(sample.frame.astype(int) - drawn).mean() < 4
