"""Arrays of a device stand in for NumPy's, and their memory is taken and given back."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from saymask.runtime.cuda import DeviceArray, Stream
from saymask.runtime.errors import EngineError, MissingExtraError

HOST = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def stream(host_cuda) -> Stream:
    return Stream(1, extra="rtx")


@pytest.fixture
def array(stream) -> DeviceArray:
    array = DeviceArray(stream, HOST.shape, HOST.dtype)
    array.fill(HOST)
    return array


def test_numpy_gets_a_copy_when_it_asks(array):
    assert (array.shape, array.dtype, array.ndim, array.nbytes, len(array)) == (
        (2, 3),
        np.float32,
        2,
        24,
        2,
    )
    copy = np.asarray(array)
    np.testing.assert_array_equal(copy, HOST)
    copy[:] = 0
    np.testing.assert_array_equal(array[:, 1], HOST[:, 1])
    assert array.astype(np.float64).dtype == np.float64
    assert np.asarray(array, dtype=np.int64).dtype == np.int64
    with pytest.raises(ValueError, match="only by a copy"):
        array.__array__(copy=False)


def test_arrays_are_copied_among_each_other(stream, array):
    other = DeviceArray(stream, HOST.shape, HOST.dtype)
    other.fill(array)
    array.fill(doubled := HOST * 2)
    np.testing.assert_array_equal(other, HOST)
    np.testing.assert_array_equal(array, doubled)


def test_other_libraries_read_it(array):
    interface = array.__cuda_array_interface__
    assert interface["data"] == (array.address, False)
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((2, 3), "<f4", 3)


def test_memory_is_used_again_and_given_back(stream, host_cuda):
    first = DeviceArray(stream, (100,), np.dtype("float32"))
    address = first.address
    del first
    again = DeviceArray(stream, (90,), np.dtype("float32"))
    assert again.address == address
    empty = DeviceArray(stream, (0, 3), np.dtype("float32"))
    assert np.asarray(empty).shape == (0, 3)
    stream.close()
    assert set(host_cuda.blocks) == {again.address, empty.address}
    assert np.asarray(again).shape == (90,), "what outlives its stream can still be read"
    del again, empty
    assert not host_cuda.blocks


def test_a_recorded_graph_runs_later(stream, host_cuda, array):
    other = DeviceArray(stream, HOST.shape, HOST.dtype)
    other.fill(np.zeros_like(HOST))
    graph = stream.capture(lambda: other.fill(array))
    assert not np.asarray(other).any()
    stream.launch(graph)
    np.testing.assert_array_equal(other, HOST)
    assert not host_cuda.graphs, "only what was made of it is kept"
    stream.close()


@pytest.mark.parametrize("captures_fail", [False, True])
def test_a_recording_that_fails_says_why_and_leaves_the_stream_as_it_was(
    stream, host_cuda, array, captures_fail
):
    def work():
        raise EngineError("the kernel is missing")

    host_cuda.captures_fail = captures_fail
    with pytest.raises(EngineError, match="the kernel is missing"):
        stream.capture(work)
    if captures_fail:
        with pytest.raises(EngineError, match="cudaStreamEndCapture must succeed .*; got 901"):
            stream.capture(lambda: array.fill(HOST))
    assert not host_cuda.graphs
    array.fill(doubled := HOST * 2)
    np.testing.assert_array_equal(array, doubled)


def test_cuda_that_fails(stream, host_cuda, array):
    assert stream.device == "cuda:1"
    host_cuda.is_broken = True
    with pytest.raises(EngineError, match="cudaMemcpy must succeed on cuda:1; got 1; free"):
        np.asarray(array)


def test_without_cuda_python(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[rtx\]"):
        Stream(0, extra="rtx")
