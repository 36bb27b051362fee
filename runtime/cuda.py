"""Arrays in a CUDA device's memory, and the stream on which one engine works.

It needs cuda-python and a device; nothing here is called before both were found.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import EngineError, require

__all__ = ["DeviceArray", "Stream"]

_NON_BLOCKING = 1
_LEAST_BYTES = 256


class Stream:
    """A stream of its own on one device, with the memory that its arrays take and give back.

    Freed blocks are kept for the next array of their size: cudaMalloc and cudaFree wait for the
    whole device, and the pools of cudaMallocAsync are not on every Jetson.
    """

    def __init__(self, index: int, *, extra: str) -> None:
        """Open a stream on CUDA device `index`; `extra` of ours brings cuda-python.

        Raises:
            EngineError: CUDA refuses it.
            MissingExtraError: cuda-python is not installed.
        """
        self._cuda: Any = require("cuda.bindings.runtime", extra=extra)
        self._index = index
        self._free_blocks: dict[int, list[int]] = {}
        self._graphs: list[Any] = []
        self._is_open = True
        self.activate()
        self._stream = self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)

    @property
    def device(self) -> str:
        """Its device as "cuda:N"."""
        return f"cuda:{self._index}"

    @property
    def handle(self) -> int:
        """The stream as the number that TensorRT takes."""
        return int(self._stream)

    def activate(self) -> None:
        """Make its device the calling thread's."""
        self._call("cudaSetDevice", self._index)

    def allocate(self, count_bytes: int) -> tuple[int, int]:
        """Return address and size of a block of at least so many bytes."""
        block_bytes = 1 << (max(count_bytes, _LEAST_BYTES) - 1).bit_length()
        blocks = self._free_blocks.setdefault(block_bytes, [])
        address = blocks.pop() if blocks else int(self._call("cudaMalloc", block_bytes))
        return address, block_bytes

    def free(self, address: int, block_bytes: int) -> None:
        """Take a block back."""
        if self._is_open:
            self._free_blocks[block_bytes].append(address)
        else:
            # At the end of the process CUDA may be gone already, and its status says no more.
            self._cuda.cudaFree(address)

    def copy(self, target: int, source: int, count_bytes: int) -> None:
        """Queue a copy between two addresses, each on the host or on the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        self._call("cudaMemcpyAsync", target, source, count_bytes, kind, self._stream)

    def download(self, target: int, source: int, count_bytes: int) -> None:
        """Copy from the device to the host at once, apart from the stream; closed, it still can."""
        self.activate()
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpy", target, source, count_bytes, kind)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], object]) -> Any:
        """Record what `work` queues as a CUDA graph, without running it.

        Raises:
            EngineError: CUDA cannot record it, or `work` raised it; the stream works on.
        """
        try:
            graph = self._recorded(work)
            try:
                self._graphs.append(self._call("cudaGraphInstantiate", graph, 0))
            finally:
                self._call("cudaGraphDestroy", graph)
        except EngineError:
            # Forgets the error, which else the next to ask for the last one would take for its own.
            self._cuda.cudaGetLastError()
            raise
        return self._graphs[-1]

    def _recorded(self, work: Callable[[], object]) -> Any:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException:
            # Says why; that the recording is of no use then needs no word.
            status, graph = self._cuda.cudaStreamEndCapture(self._stream)
            if not int(status):
                self._cuda.cudaGraphDestroy(graph)
            raise
        return self._call("cudaStreamEndCapture", self._stream)

    def launch(self, graph: Any) -> None:
        """Queue a recorded graph."""
        self._call("cudaGraphLaunch", graph, self._stream)

    def close(self) -> None:
        """Give the free memory back; arrays that are still held give theirs when they go."""
        self._is_open = False
        for graph in self._graphs:
            self._call("cudaGraphExecDestroy", graph)
        for blocks in self._free_blocks.values():
            while blocks:
                self._call("cudaFree", blocks.pop())
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime and return what it returns beside the status."""
        status, *values = getattr(self._cuda, name)(*arguments)
        if int(status):
            raise EngineError(
                f"{name} must succeed on cuda:{self._index}; got {status!s}; "
                "free memory of the device, or run: saymask doctor"
            )
        return values[0] if values else None


class DeviceArray:
    """A C-contiguous array on a CUDA device that stands in for NumPy's until NumPy asks for it.

    An engine takes it as it lies; `numpy.asarray`, an index or `astype` copies it to the host. Its
    content is complete: whoever made it has waited for its stream.
    """

    def __init__(self, stream: Stream, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Take memory from `stream` for an array whose content is undefined."""
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self._stream = stream
        self.address, block_bytes = stream.allocate(self.nbytes)
        weakref.finalize(self, stream.free, self.address, block_bytes)

    @property
    def device(self) -> str:
        """Its device as "cuda:N"."""
        return self._stream.device

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface that CuPy, Numba and PyTorch read."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def fill(self, source: np.ndarray | DeviceArray) -> None:
        """Queue a copy of a C-contiguous array of its shape and dtype, from host or device.

        `source` must stay alive until the stream is done.
        """
        is_here = isinstance(source, DeviceArray)
        address = source.address if is_here else source.ctypes.data
        self._stream.copy(self.address, address, self.nbytes)

    def astype(self, dtype: Any) -> np.ndarray:
        """Copy it to the host as another dtype."""
        return np.asarray(self).astype(dtype)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array of a CUDA device becomes NumPy's only by a copy")
        host = np.empty(self.shape, self.dtype)
        self._stream.download(host.ctypes.data, self.address, self.nbytes)
        return host if dtype is None else host.astype(dtype, copy=False)
