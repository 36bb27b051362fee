"""Ranges of known data, however little memory there is and however often it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from saymask.calibration.arrays import StoredArrays
from saymask.calibration.cache import KeptHistograms
from saymask.calibration.ranges import Range, observe
from saymask.calibration.session import open_model
from saymask.runtime.errors import EngineError, OutputError, UsageError

CHAIN_STEPS = 10
RUNS = 3
KILLED = """
import os, signal, sys
import numpy as np, onnx
from saymask.calibration import ranges
from saymask.calibration.ranges import observe

def die(line):
    if line.startswith("part 2 of"):
        os.kill(os.getpid(), signal.SIGKILL)

model, data, work, every_s = sys.argv[1:]
ranges._KEEP_EVERY_S = float(every_s)
feeds = [{"x": array} for array in np.load(data)]
observe(onnx.load(model), feeds, ["x", *(f"t{n}" for n in range(10))],
        memory_mib=1, work=work and __import__("pathlib").Path(work), say=die)
"""
CAPPED = """
import numpy as np, onnx, sys
from saymask.calibration.ranges import observe
from saymask.runtime.machine import forget_peak_memory, peak_memory_bytes

model, tensors = onnx.load(sys.argv[1]), [f"t{n}" for n in range(50)]
small = {"x": np.ones((1, 64), np.float32)}
observe(model, [small], tensors)
feeds = [{"x": np.ones((1, 2**21), np.float32)}]
forget_peak_memory()
before = peak_memory_bytes()
observe(model, feeds, tensors, memory_mib=int(sys.argv[2]))
print(peak_memory_bytes() - before)
"""


class Feeds(Sequence):
    """Makes each feed when it is asked for, and counts that."""

    def __init__(self, arrays):
        self.arrays, self.asked, self.alive = arrays, 0, []

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, number):
        if number >= len(self.arrays):
            raise IndexError
        assert sum(each() is not None for each in self.alive) <= 1
        feed = {"x": np.array(self.arrays[number])}
        self.alive.append(weakref.ref(feed["x"]))
        self.asked += 1
        return feed


@pytest.fixture(scope="module")
def model(build):
    return build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        line (float[n] x) => (float[n] y) {
          [twice] t = Mul (x, two)
          [shift] s = Add (t, one)
          [back] y = Neg (s)
        }
        """,
        two=np.float32(2),
        one=np.float32(1),
    )


@pytest.fixture(scope="module")
def chain(build):
    """Makes a line of nodes t0, t1, ...; each also reads the graph's input."""

    def chain(steps: int) -> onnx.ModelProto:
        nodes = ["[n0] t0 = Sin (x)"]
        for number in range(1, steps):
            operator = ("Add", "Mul", "Sub")[number % 3]
            nodes.append(f"[n{number}] t{number} = {operator} (t{number - 1}, x)")
        return build(
            '<ir_version: 9, opset_import: ["" : 20]>\n'
            f"chain (float[1,n] x) => (float[1,n] t{steps - 1}) {{\n" + "\n".join(nodes) + "\n}"
        )

    return chain


@pytest.fixture(scope="module")
def arrays() -> np.ndarray:
    """Data of `RUNS` runs, a quarter of a MiB each."""
    return np.random.default_rng(0).normal(size=(RUNS, 1, 2**16)).astype(np.float32)


def _extremes(histograms) -> dict[str, Range]:
    return {name: histogram.range(100) for name, histogram in histograms.items()}


def test_inner_tensors_inputs_and_outputs(model):
    feeds = [{"x": np.float32([0, 1])}, {"x": np.float32([-3])}, {"x": np.float32([2, 5, 4])}]
    assert _extremes(observe(model, feeds, ["x", "s", "y"])) == {
        "x": Range(low=-3, high=5),
        "s": Range(low=-5, high=11),
        "y": Range(low=-11, high=5),
    }


def test_an_input_alone_needs_no_node(model):
    assert _extremes(observe(model, [{"x": np.float32([-3, 4])}], ["x"])) == {
        "x": Range(low=-3, high=4)
    }


def test_channels_apart(convolutions, images):
    found = observe(convolutions, images, ["b", "g"], channel_axes={"g": 1})
    assert found["b"].absmax.shape == (1,)
    assert found["g"].absmax.shape == (32,)
    assert found["g"].absmax.max() == observe(convolutions, images, ["g"])["g"].absmax[0]


def test_one_feed_is_held_at_a_time(model):
    feeds = Feeds([np.ones(1000, np.float32)] * 5)
    observe(model, feeds, ["s", "x"])
    assert feeds.asked == 5 + 1 + 5, "for its size, the largest for all sizes, for its values"


def test_no_feed_is_an_error(model):
    with pytest.raises(UsageError, match="calibration must see real inputs; got none"):
        observe(model, [], ["s"])


def test_parts_see_what_the_whole_sees(chain, arrays):
    model, feeds = chain(CHAIN_STEPS), [{"x": array} for array in arrays]
    tensors, said = ["x", "t9", "t0", "t4", "t5", "t7"], []
    whole = observe(model, feeds, tensors)
    parts = observe(model, feeds, tensors, memory_mib=1, say=said.append)
    assert list(parts) == tensors
    for name, histogram in whole.items():
        for part, array in histogram.state().items():
            np.testing.assert_array_equal(parts[name].state()[part], array)
    assert "6 tensors over 3 runs: 1 MiB a run, in 2 x at most 1 MiB, and 2 MiB on" in said[0]
    assert said[1].startswith("part 1 of 2: ")
    assert said[1].endswith(" min left")


def test_a_tensor_beyond_the_cap(chain):
    with pytest.raises(UsageError, match=r"'n0' needs 2 MiB of 1; give --calib-mem-mib 2"):
        observe(chain(2), [{"x": np.ones((1, 2**19), np.float32)}], ["t0", "t1"], memory_mib=1)


@pytest.mark.parametrize("memory_mib", [1024, 1])
def test_the_first_node_that_makes_no_number_is_named(build, memory_mib):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        broken (float[1,n] x) => (float[1,n] y) {
          [fine] a = Neg (x)
          [root] b = Sqrt (a)
          [then] c = Add (b, x)
          [end] y = Relu (c)
        }
        """
    )
    feeds = [{"x": np.full((1, 2**16), value, np.float32)} for value in (-1, 2)]
    with pytest.raises(EngineError) as caught:
        observe(model, feeds, ["a", "c"], memory_mib=memory_mib)
    assert "tensor 'c' of run 1: calibrated tensors must be finite" in str(caught.value)
    assert "node 'root' (Sqrt) is the first to make NaN, in 'b'" in str(caught.value)


def test_data_that_holds_no_number_is_named(model):
    with pytest.raises(EngineError, match="the graph's input 'x' already holds it"):
        observe(model, [{"x": np.float32([1, np.inf])}], ["s"])


def test_a_second_call_runs_nothing(chain, arrays, tmp_path):
    model, feeds = chain(CHAIN_STEPS), Feeds(arrays)
    first = observe(model, feeds, ["x", "t5"], work=tmp_path)
    feeds.asked = 0
    again = observe(model, feeds, ["x", "t5"], work=tmp_path)
    assert feeds.asked == RUNS, "once for the digest"
    assert _extremes(again) == _extremes(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.json", "whole"]


@pytest.mark.parametrize(("memory_mib", "every_s", "spared"), [(1, 0, 1), (1, 99, 0), (2, 0, None)])
def test_a_killed_calibration_goes_on(chain, arrays, tmp_path, memory_mib, every_s, spared):
    model, work = chain(CHAIN_STEPS), tmp_path / "work"
    tensors = ["x", *(f"t{number}" for number in range(CHAIN_STEPS))]
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", arrays)
    given = [tmp_path / "model.onnx", tmp_path / "data.npy", work, str(every_s)]
    process = subprocess.run([sys.executable, "-c", KILLED, *given])
    assert process.returncode == -signal.SIGKILL
    fresh, resumed = Feeds(arrays), Feeds(arrays)
    expected = observe(model, fresh, tensors, memory_mib=memory_mib, work=tmp_path / "other")
    found = observe(model, resumed, tensors, memory_mib=memory_mib, work=work)
    assert _extremes(found) == _extremes(expected)
    assert all((found[n].counts == expected[n].counts).all() for n in tensors)
    if spared is not None:
        assert fresh.asked - resumed.asked == RUNS + spared, "part 1, and what was kept of part 2"


@pytest.mark.parametrize(("every_s", "times"), [(30, 1 + 1), (0, 40 + 1)])
def test_short_runs_are_kept_together(model, tmp_path, monkeypatch, every_s, times):
    kept, save = [], KeptHistograms.save
    monkeypatch.setattr("saymask.calibration.ranges._KEEP_EVERY_S", every_s)
    monkeypatch.setattr(KeptHistograms, "save", lambda *given: (kept.append(1), save(*given)))
    observe(model, [{"x": np.ones(3, np.float32)}] * 40, ["x", "s"], work=tmp_path)
    assert len(kept) == times, "of the one part, and at the end of the whole"


def test_many_channels_take_little(build, tmp_path):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        wide (float[n,c] x) => (float[n,c] y) { [back] y = Neg (x) }
        """
    )
    feeds = [{"x": np.full((2, 20_000), number, np.float32)} for number in range(5)]
    tracemalloc.start()
    found = observe(model, feeds, ["x", "y"], channel_axes={"x": 1, "y": 1}, work=tmp_path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["y"].absmax.tolist() == [4] * 20_000
    assert peak_bytes < 8 * 2**20, "1024 bins a channel would be 312 MiB"
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npz")) < 2**20


@pytest.mark.parametrize("memory_mib", [1024, 1])
def test_what_the_graph_returns_is_left_on_the_way(chain, arrays, tmp_path, memory_mib):
    model, feeds = chain(CHAIN_STEPS), [{"x": array} for array in arrays]
    tensors, said = ["x", "t0", "t4", "t5", "t7", "t8"], []
    places = [tmp_path / f"{number}" / "outputs" for number in range(RUNS)]
    found = observe(model, feeds, tensors, memory_mib=memory_mib, outputs=places, say=said.append)
    assert ("in 1 x" in said[0]) == (memory_mib == 1024)
    expected = observe(model, feeds, tensors)
    assert all((found[name].counts == expected[name].counts).all() for name in tensors)
    engine = open_model(model, threads=1)
    for place, feed in zip(places, feeds, strict=True):
        assert list(StoredArrays(place)) == ["t9"]
        np.testing.assert_array_equal(StoredArrays(place)["t9"], engine.run(feed)["t9"])


def test_a_stop_loses_no_output(chain, arrays, tmp_path, monkeypatch):
    def stop(line):
        if line.startswith("part 1 of 1"):
            raise KeyboardInterrupt

    monkeypatch.setattr("saymask.calibration.ranges._KEEP_EVERY_S", 0)
    model, places = chain(CHAIN_STEPS), [tmp_path / f"{number}" for number in range(RUNS)]
    feeds = Feeds(arrays)
    with pytest.raises(KeyboardInterrupt):
        observe(model, feeds, ["t4"], work=tmp_path / "work", outputs=places, say=stop)
    assert [place.is_dir() for place in places] == [True, False, False]
    left = {path: path.stat().st_mtime_ns for path in places[0].iterdir()}
    observe(model, feeds, ["t4"], work=tmp_path / "work", outputs=places)
    assert [list(StoredArrays(place)) for place in places] == [["t9"]] * RUNS
    assert {path: path.stat().st_mtime_ns for path in places[0].iterdir()} == left


@pytest.mark.parametrize("other", ["graph", "data", "set of tensors"])
def test_what_was_kept_of_something_else_is_refused(chain, arrays, tmp_path, other):
    feeds = [{"x": array} for array in arrays]
    observe(chain(CHAIN_STEPS), feeds, ["x", "t5"], work=tmp_path)
    steps = CHAIN_STEPS + (other == "graph")
    feeds = feeds[: RUNS - (other == "data")]
    tensors = ["x", "t5", "t6"][: 2 + (other == "set of tensors")]
    with pytest.raises(UsageError, match=f"another {other}; delete that folder or give another"):
        observe(chain(steps), feeds, tensors, work=tmp_path)


def test_a_place_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="must keep the graph and its arrays on disk"):
        observe(model, [{"x": np.ones(3, np.float32)}], ["s"], work=tmp_path / "file")


def test_memory_stays_under_the_cap(chain, tmp_path):
    onnx.save(chain(50), tmp_path / "model.onnx")

    def grown_mib(cap_mib: int) -> float:
        command = [sys.executable, "-c", CAPPED, str(tmp_path / "model.onnx"), str(cap_mib)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return int(done.stdout) / 2**20

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not say how much memory a process held")
    assert grown_mib(1024) > 400, "all tensors at once"
    assert grown_mib(64) < 128, "the cap, and as much for the run itself"
