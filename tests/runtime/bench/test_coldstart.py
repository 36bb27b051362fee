import pytest

from saymask.runtime.bench.closed_loop import Workload
from saymask.runtime.bench.coldstart import cold_start
from saymask.runtime.errors import SaymaskError


def _workload(frame, device: str = "cpu") -> Workload:
    return Workload(
        frames=(frame,),
        phrases=("the red square", "blue"),
        device=device,
        threads=1,
        iterations=1,
        warm_up=0,
    )


def test_a_fresh_process_reaches_its_first_mask(tiny_bundle, frame):
    start = cold_start(tiny_bundle, _workload(frame))
    assert 0 < start.first_mask_ms < start.load_ms + start.first_mask_ms < start.total_ms
    assert start.peak_bytes is None or 2**24 < start.peak_bytes < 2**30


def test_the_bundles_folder_is_taken_from_here(tiny_bundle, frame, monkeypatch):
    monkeypatch.chdir(tiny_bundle.parent)
    assert cold_start(tiny_bundle.relative_to(tiny_bundle.parent), _workload(frame)).total_ms > 0


def test_a_process_that_fails_is_reported_with_its_reason(tiny_bundle, frame):
    with pytest.raises(SaymaskError, match="ended with 1: .*DeviceError: .*cuda:99"):
        cold_start(tiny_bundle, _workload(frame, "cuda:99"))
