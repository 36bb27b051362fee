"""TensorRT-RTX opens under its own name what was built for it."""

from __future__ import annotations

import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.engine import open_engine
from saymask.runtime.errors import DeviceError, EngineError

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu(engine_bundle):
    bundle = Bundle.read(engine_bundle("tensorrt_rtx", rtx.__version__))
    with pytest.raises(DeviceError, match="tensorrt_rtx runs on a CUDA device"):
        open_engine(bundle, "image", backend="tensorrt_rtx")


@pytest.mark.usefixtures("gpu")
def test_an_engine_of_the_other_library(engine_bundle):
    bundle = Bundle.read(engine_bundle("tensorrt"))
    with pytest.raises(EngineError, match="there is none; run: saymask build .* --target rtx"):
        open_engine(bundle, "image", backend="tensorrt_rtx")


@pytest.mark.usefixtures("gpu", "host_cuda")
def test_a_file_that_the_library_refuses(engine_bundle):
    bundle = Bundle.read(engine_bundle("tensorrt_rtx", rtx.__version__))
    with pytest.raises(EngineError, match="tensorrt_rtx .* refuses .*image.engine: .*; run: say"):
        open_engine(bundle, "image", backend="tensorrt_rtx")
