"""Uneven channels break plain INT8 of a trained network, and evened out they do not."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import onnx
import pytest

from saymask.calibration.channels import Channels
from saymask.calibration.gate import Judge, score_samples, with_runs
from saymask.calibration.migration import migrated_tensors
from saymask.calibration.qdq import runnable
from saymask.calibration.quantize import Calibration, candidates, plannable
from saymask.calibration.recording import Recorder
from saymask.calibration.samples import read_samples
from saymask.calibration.storage import read
from saymask.export.checkpoint import MINIATURES
from saymask.runtime.bundle import Bundle
from saymask.runtime.cli import main
from saymask.runtime.engine import open_engine
from saymask.runtime.systems import open_system

PICTURES = 24
MOST_EXPONENT = 3
"""Channels are made up to 8 times larger or smaller."""


def _uneven(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same network with channels that differ by powers of two, to the bit."""
    generator, channels = np.random.default_rng(0), Channels(model)
    wanted = migrated_tensors(model)
    for region in list(channels.regions()):
        read_names = region.read()
        if read_names.keys() <= wanted.keys():
            places, extents = region.places, channels.extents
            count = next(extents[name][places[name].axis] for name in places if name in extents)
            exponents = generator.integers(-MOST_EXPONENT, MOST_EXPONENT + 1, count)
            channels.rescale(region, (2.0**exponents).astype(np.float32))
    return channels.model()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """The trained miniature in FP32."""
    folder = tmp_path_factory.mktemp("breaker") / "evf-sam-mini-fp32"
    assert main(["export", "evf-sam", "--sample-limit", "2", "--out", str(folder)]) == 0
    return Bundle.read(folder)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "rtx"])
def test_uneven_channels_break_plain_int8_and_migration_cures_it(bundle, target):
    samples = read_samples(MINIATURES / "evf-sam-mini" / "samples", limit=PICTURES)
    uneven = _uneven(plannable(read(bundle.folder / bundle.stage("image").file)))
    with closing(open_system(bundle, device="cpu", threads=1)) as system:
        recorder = Recorder()
        scores, masks = score_samples(system.with_engines(recorder.watch), samples)

        def reopen(stage):
            return open_engine(bundle, stage.name, device="cpu", threads=1)

        judge = Judge(
            system=with_runs(system, recorder.runs, reopen),
            samples=samples,
            scores=scores,
            masks=masks,
            threads=1,
        )
        assert judge({"image": uneven}).apart < 0.01
        lost = {}
        for transforms in ((), ("smooth", "migrate")):
            calibration = Calibration(transforms=transforms)
            _, small, *_ = candidates(
                uneven, recorder.feeds("image"), target=target, calibration=calibration
            )
            lost[transforms] = judge({"image": runnable(small.model)}).lost
    print(f"\n{target}: {lost[()]:.2f} points lost as it is, {lost['smooth', 'migrate']:.2f} cured")
    assert lost[()] > 3
    assert lost["smooth", "migrate"] < 0.5
