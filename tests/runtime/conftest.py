"""Image and video files to read, the console script to run, and a machine with a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from saymask.runtime import engine_cache, machine
from saymask.runtime.bundle import Bundle
from saymask.runtime.spec import TensorSpec


@pytest.fixture
def write_image(frame: np.ndarray) -> Callable[[Path], Path]:
    """Writes `frame` in the format of the path's suffix."""
    import cv2

    def write(path: Path) -> Path:
        path.write_bytes(cv2.imencode(path.suffix, frame[..., ::-1])[1].tobytes())
        return path

    return write


@pytest.fixture
def image_file(tmp_path: Path, write_image: Callable[[Path], Path]) -> Path:
    """PNG of `frame`."""
    return write_image(tmp_path / "table.png")


@pytest.fixture
def write_video(frame: np.ndarray) -> Callable[..., Path]:
    """Writes `frame`, which moves one pixel to the right each time, at 25 Hz."""
    import av

    def write(path: Path, count: int = 12, codec: str = "h264", **options: str) -> Path:
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
            for index in range(count):
                image = av.VideoFrame.from_ndarray(np.roll(frame, index, axis=1), format="rgb24")
                image.pts = index
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def video_file(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """MP4 of 12 frames whose index comes first, so that its beginning plays alone."""
    return write_video(tmp_path / "walk.mp4", movflags="faststart")


@pytest.fixture
def saymask(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the console script in a process of its own, in `tmp_path`."""
    script = Path(sys.executable).with_name("saymask")

    def run(*words: str | Path, shell: str = 'exec "$@"') -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = ["sh", "-c", shell, "sh", str(script), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


class HostCuda(ModuleType):
    """CUDA's runtime on host memory: a stream runs what it is given at once, or records it."""

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4, cudaMemcpyDeviceToHost=2)
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        self.blocks: dict[int, ctypes.Array] = {}
        self.launches = 0
        self.is_broken = False
        self.captures_fail = False
        self.graphs = 0
        self._tape: list[Callable[[], object]] | None = None

    def queue(self, work: Callable[[], object]) -> tuple[int]:
        if self._tape is None:
            work()
        else:
            self._tape.append(work)
        return (int(self.is_broken),)

    def cudaSetDevice(self, index):
        return (0,)

    def cudaStreamCreateWithFlags(self, flags):
        return 0, 7

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaStreamDestroy(self, stream):
        return (0,)

    def cudaMalloc(self, size):
        block = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address):
        del self.blocks[address]
        return (0,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        return self.queue(lambda: ctypes.memmove(target, source, size))

    def cudaMemcpy(self, target, source, size, kind):
        ctypes.memmove(target, source, size)
        return (int(self.is_broken),)

    def cudaStreamBeginCapture(self, stream, mode):
        self._tape = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        tape, self._tape = self._tape, None
        if self.captures_fail:
            return 901, None
        self.graphs += 1
        return 0, tape

    def cudaGetLastError(self):
        return (0,)

    def cudaGraphInstantiate(self, graph, flags):
        return 0, graph

    def cudaGraphDestroy(self, graph):
        self.graphs -= 1
        return (0,)

    def cudaGraphExecDestroy(self, graph):
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        for work in graph:
            work()
        return (0,)


@pytest.fixture
def host_cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    """Stands in for cuda-python, so that all but the device itself is tested without one."""
    cuda = HostCuda()
    monkeypatch.setitem(sys.modules, cuda.__name__, cuda)
    return cuda


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the machine one with an RTX 4090."""
    device = machine.CudaDevice(name="RTX 4090", capability="8.9", memory_bytes=24 << 30)
    monkeypatch.setattr(machine, "cuda_devices", lambda: (device,))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the machine one without a CUDA device."""
    monkeypatch.setattr(machine, "cuda_devices", tuple)


@pytest.fixture
def engine_bundle(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny bundle with an engine file for each stage that nothing could run."""

    def make(library: str = "tensorrt", version: str = "10.3.0", sm: tuple[int, ...] = (89,)):
        folder = shutil.copytree(tiny_bundle, tmp_path / f"{library}-{version}-{sm[0]}")
        key = engine_cache.device_key(library, version, sm)
        place = folder / engine_cache.ENGINES / key.folder
        place.mkdir(parents=True)
        for stage in Bundle.read(folder).manifest.stages:
            engine = place / f"{stage.name}.engine"
            engine.write_bytes(b"no plan" * 100)
            report = engine_cache.EngineReport(
                stage=stage.name,
                key=key,
                precision="fp16",
                phrases=4,
                graph_sha256=engine_cache.graph_sha256(folder / stage.file),
                engine_sha256=engine_cache.graph_sha256(engine),
                engine_bytes=700,
                shapes=tuple(_shape_range(tensor) for tensor in stage.inputs),
                asked=(engine_cache.LayerCount(kind="Conv", precision="fp16", count=1),),
                built=(engine_cache.LayerCount(kind="correlation", precision="fp16", count=1),),
                shares=(engine_cache.Share(precision="fp16", nodes=1, multiply_adds=9, share=1.0),),
                seconds=1.5,
                peak_memory_bytes=300 << 20,
            )
            engine_cache.write_report(place, report)
        return folder

    return make


def _shape_range(tensor: TensorSpec) -> engine_cache.ShapeRange:
    least, most = (
        tuple(end if isinstance(axis, str) else axis for axis in tensor.shape) for end in (1, 4)
    )
    return engine_cache.ShapeRange(input=tensor.name, least=least, usual=least, most=most)
