"""OpenVINO computes the stages as ONNX Runtime does, and tells what it computes them in."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from saymask.runtime.backends.openvino import (
    ExecutedWork,
    executed_precisions,
    integer_nodes,
    open_graph,
)
from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import DeviceError, EngineError, MissingExtraError
from saymask.runtime.spec import TensorSpec

pytestmark = pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")


@pytest.fixture
def bundle(tiny_bundle) -> Bundle:
    return Bundle.read(tiny_bundle)


def _open(bundle: Bundle, name: str, **changes):
    stage = replace(bundle.stage(name), **changes)
    return open_graph(bundle.folder / stage.file, stage, device="cpu", threads=1)


@pytest.mark.parametrize("stage", ["image", "prompt", "mask"])
def test_golden(bundle, stage):
    engine, golden = _open(bundle, stage), bundle.golden()
    assert engine.device == "cpu"
    outputs = engine.run(
        {each.name: golden[f"{stage}/{each.name}"] for each in engine.stage.inputs}
    )
    assert set(outputs) == {each.name for each in engine.stage.outputs}
    for name, output in outputs.items():
        np.testing.assert_allclose(output, golden[f"{stage}/{name}"], rtol=1e-4, atol=1e-4)


def test_axes_vary_and_results_stay(bundle):
    engine = _open(bundle, "prompt")
    image = np.zeros((1, 3, 32, 32), np.float32)
    first = engine.run({"image": image, "token_ids": np.full((1, 2), 4)})["prompt_embedding"]
    kept = first.copy()
    more = engine.run({"image": image, "token_ids": np.full((3, 5), 5)})["prompt_embedding"]
    assert (first.shape, more.shape) == ((1, 1, 4), (3, 1, 4))
    np.testing.assert_array_equal(first, kept)


def test_threads_may_share_it(bundle):
    engine = _open(bundle, "image")
    images = [np.full((1, 3, 64, 64), value, np.float32) for value in range(20)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: engine.run({"image": image}), images))
    for value, outputs in enumerate(found):
        assert outputs["image_embedding"][0, 0, 5, 5] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_another_device(bundle, device):
    stage = bundle.stage("image")
    with pytest.raises(DeviceError, match=f"on auto or cpu here; got {device}"):
        open_graph(bundle.folder / stage.file, stage, device=device, threads=1)


def test_a_file_that_is_no_graph(bundle, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\x00broken")
    with pytest.raises(EngineError, match=r"OpenVINO \S+ refuses .*broken\.onnx"):
        open_graph(tmp_path / "broken.onnx", bundle.stage("image"), device="cpu", threads=1)


def test_the_graph_of_another_stage(bundle):
    with pytest.raises(EngineError, match="must be image; got image_embedding, prompt_embedding"):
        _open(bundle, "image", file="stages/mask.onnx")


def test_a_run_that_fails(bundle):
    loose = TensorSpec(name="image", dtype="float32", shape=("n", "c", "h", "w"))
    engine = _open(bundle, "image", inputs=(loose,))
    with pytest.raises(EngineError, match="stage 'image' failed in OpenVINO"):
        engine.run({"image": np.zeros((1, 3, 7, 7), np.float32)})


def test_closed(bundle):
    engine = _open(bundle, "image")
    engine.close()
    with pytest.raises(EngineError, match="stage 'image' was closed"):
        engine.run({"image": np.zeros((1, 3, 64, 64), np.float32)})


_SIGNALLED = """
import signal, sys, threading
from pathlib import Path
from saymask.runtime.backends.openvino import open_graph
from saymask.runtime.bundle import Bundle
bundle = Bundle.read(Path(sys.argv[1]))
stage = bundle.stage("image")
engines = [open_graph(bundle.folder / stage.file, stage, device="cpu", threads=1)]
last = threading.Thread(target=engines.clear)
last.start()
last.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""


def test_signals_are_handled_after_another_thread_let_an_engine_go(bundle):
    command = [sys.executable, "-X", "faulthandler", "-c", _SIGNALLED, str(bundle.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_without_openvino(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"'openvino'.*saymask\[openvino\]"):
        _open(bundle, "image")


def test_nothing_is_reported_over_the_network(bundle):
    _open(bundle, "image")
    assert sys.modules["openvino_telemetry"] is None


def _rounded(tmp_path, zero: np.ndarray):
    """Write a product of (rows, 64) with (64, 32) in INT8 and one with (32, 16) in FP32."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator, node = np.random.default_rng(0), helper.make_node
    constants = {
        "scale": np.float32(0.05),
        "zero": zero,
        "first": generator.integers(-127, 128, (64, 32), np.int8),
        "scales": generator.uniform(0.01, 0.1, 32).astype(np.float32),
        "zeros": np.zeros(32, np.int8),
        "second": generator.normal(size=(32, 16)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            node("DequantizeLinear", ["xq", "scale", "zero"], ["xr"]),
            node("DequantizeLinear", ["first", "scales", "zeros"], ["w"], axis=1),
            node("MatMul", ["xr", "w"], ["h"], "rounded"),
            node("Tanh", ["h"], ["s"], "between"),
            node("MatMul", ["s", "second"], ["y"], "real"),
        ],
        "rounded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    path = tmp_path / "rounded.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.mark.parametrize("zero", [np.uint8(120), np.int8(0)], ids=["affine", "symmetric"])
def test_rounded_products_run_in_integers(tmp_path, zero):
    path = _rounded(tmp_path, zero)
    assert executed_precisions(path, {"x": (10, 64)}) == {
        "int8": ExecutedWork(nodes=1, multiply_adds=10 * 64 * 32),
        "fp32": ExecutedWork(nodes=1, multiply_adds=10 * 32 * 16),
    }
    assert integer_nodes(path, {"x": (10, 64)}).intersection(("rounded", "real")) == {"rounded"}
    for ask in (executed_precisions, integer_nodes):
        with pytest.raises(EngineError, match=r"rounded\.onnx must take the shapes"):
            ask(path, {"x": (10, 65)})


def test_products_that_became_one_kernel_run_in_integers(tmp_path):
    """As in the heads of a mask decoder: the kernel calls itself FP32."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator, node = np.random.default_rng(0), helper.make_node
    constants, nodes = {"scale": np.float32(0.05), "zero": np.uint8(120)}, []
    for number, (before, after) in enumerate((("x", "h"), ("h", "y"))):
        rounded, weight, product = f"r{number}", f"w{number}", f"p{number}"
        constants |= {
            f"{weight}i": generator.integers(-127, 128, (32, 32), np.int8),
            f"{weight}s": generator.uniform(0.001, 0.01, 32).astype(np.float32),
            f"{weight}z": np.zeros(32, np.int8),
        }
        nodes += [
            node("QuantizeLinear", [before, "scale", "zero"], [f"{rounded}q"]),
            node("DequantizeLinear", [f"{rounded}q", "scale", "zero"], [rounded]),
            node("DequantizeLinear", [f"{weight}{part}" for part in "isz"], [weight], axis=1),
            node("MatMul", [rounded, weight], [product], f"product{number}"),
            node("Relu", [product], [after], f"relu{number}"),
        ]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 32])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    path = tmp_path / "head.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    shapes = {"x": (4, 32)}
    assert executed_precisions(path, shapes) == {
        "int8": ExecutedWork(nodes=2, multiply_adds=2 * 4 * 32 * 32)
    }
    assert {"product0", "product1"} <= integer_nodes(path, shapes)


def test_convolutions_are_counted(bundle):
    found = executed_precisions(bundle.folder / "stages/image.onnx", {"image": (1, 3, 64, 64)})
    assert found == {"fp32": ExecutedWork(nodes=1, multiply_adds=16 * 16 * 4 * 3 * 4 * 4)}
