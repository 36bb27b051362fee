import numpy as np
import pytest

from saymask.runtime.bench.closed_loop import (
    END_TO_END,
    Workload,
    interleave,
    ratio_of_medians,
    spread_of,
)
from saymask.runtime.segmenter import Segmenter


def _workload(frames, iterations: int) -> Workload:
    return Workload(
        frames=tuple(frames),
        phrases=("the red square", "blue"),
        device="cpu",
        threads=1,
        iterations=iterations,
        warm_up=2,
    )


def test_every_stage_of_every_bundle_is_timed_once_a_round(tiny_bundle, frame):
    steps = []
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        samples = interleave(
            [segmenter, segmenter], _workload([frame, frame[::2]], 5), step=lambda: steps.append(1)
        )
    assert len(steps) == 2 + 5
    for stages in samples:
        assert set(stages) >= {"image", "prompt", "mask", END_TO_END}
        assert {len(ms) for ms in stages.values()} == {5}
        parts = sum(np.array(ms) for stage, ms in stages.items() if stage != END_TO_END)
        assert (parts <= stages[END_TO_END]).all()


def test_no_frame_follows_itself(tiny_bundle, frame):
    seen: list[np.ndarray] = []
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        segment = segmenter.segment
        segmenter.segment = lambda image, phrases: seen.append(image) or segment(image, phrases)  # type: ignore[method-assign]
        interleave([segmenter], _workload([frame], 4), step=lambda: None)
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[0], seen[1][:, ::-1])
    assert not np.array_equal(seen[0], seen[1])


class _Recorder:
    """Writes down who was asked for which frame."""

    def __init__(self, name: str, log: list, segmenter: Segmenter) -> None:
        self._name, self._log, self._segmenter = name, log, segmenter

    def segment(self, frame, prompts):
        self._log.append((self._name, frame.shape[0]))
        return self._segmenter.segment(frame, prompts)


def test_a_round_is_one_frame_in_an_order_of_its_own(tiny_bundle, frame):
    log: list[tuple[str, int]] = []
    with Segmenter.open(tiny_bundle, device="cpu", threads=1) as segmenter:
        recorders = [_Recorder(name, log, segmenter) for name in "abc"]
        interleave(recorders, _workload([frame, frame[::2]], 10), step=lambda: None)  # type: ignore[arg-type]
    rounds = [log[start : start + 3] for start in range(0, len(log), 3)]
    assert all({name for name, _ in each} == set("abc") for each in rounds)
    assert [{height for _, height in each} for each in rounds] == [{90}, {45}] * 6
    assert len({tuple(name for name, _ in each) for each in rounds}) > 2


def test_spread_is_percentiles_and_the_middle_half():
    spread = spread_of(list(range(101)))
    assert (spread.count, spread.p50_ms, spread.p90_ms, spread.p99_ms) == (101, 50, 90, 99)
    assert spread.quartile_range_ms == 50


@pytest.mark.parametrize("count", [1, 99])
def test_few_samples_have_no_p99(count):
    assert spread_of([1.0] * count).p99_ms is None


def test_the_ratio_is_of_medians_and_inside_its_interval():
    rng = np.random.default_rng(1)
    other = rng.normal(10, 0.5, 200)
    ratio = ratio_of_medians(2 * rng.normal(10, 0.5, 200), other)
    assert ratio.low < ratio.value < ratio.high
    assert ratio.low < 2 < ratio.high
    assert ratio.high - ratio.low < 0.1
    assert ratio_of_medians(other, other).high == 1


def test_a_shared_disturbance_does_not_widen_the_interval():
    drift = np.linspace(10, 30, 200)
    ratio = ratio_of_medians(2 * drift, drift)
    assert (ratio.low, ratio.value, ratio.high) == (2, 2, 2)
