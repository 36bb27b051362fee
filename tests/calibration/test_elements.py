"""Small numbers: scales that FP16 holds, and rounding to the nearest number."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from saymask.calibration.elements import ELEMENTS


@pytest.mark.parametrize("name", ELEMENTS)
def test_scales_reach_their_magnitude_and_are_numbers_of_fp16(name):
    element = ELEMENTS[name]
    magnitudes = np.float32(np.logspace(-5, 4, 200)).reshape(20, 10)
    scales = element.scale(magnitudes)
    assert scales.dtype == np.float32
    assert scales.shape == magnitudes.shape
    assert (scales == scales.astype(np.float16)).all()
    assert (scales * np.float64(element.largest) >= magnitudes).all()
    ordinary = magnitudes / element.largest > 2**-14
    assert (scales * element.largest < magnitudes * 1.001)[ordinary].all()


def test_scales_of_nothing_and_of_too_much():
    assert ELEMENTS["int8"].scale(0) == 1
    assert ELEMENTS["int8"].scale(3e38) == 65504


def test_integers_are_rounded_to_even_and_cut_off():
    values = np.float32([-300, -127.5, -1.5, -0.5, 0.5, 1.5, 2.4, 200]) * 0.5
    rounded = ELEMENTS["int8"].round(values, np.float32(0.5))
    assert rounded.dtype == np.int8
    assert rounded.tolist() == [-127, -127, -2, 0, 0, 2, 2, 127]
    assert ELEMENTS["int4"].round(values, np.float32(0.5)).astype(int).tolist() == [
        -7, -7, -2, 0, 0, 2, 2, 7,
    ]  # fmt: skip


def test_fp8_is_what_onnx_runtime_makes_of_it():
    """All bit patterns of E4M3, what lies between them, and what lies beyond 448."""
    fp8 = ELEMENTS["fp8"]
    numbers = np.arange(256, dtype=np.uint8).view(fp8.dtype).astype(np.float32)
    numbers = np.sort(numbers[np.isfinite(numbers)])
    between = (numbers[1:] + numbers[:-1]) / 2
    values = np.concatenate([numbers, between, np.float32([460, 464, 465, 1e6, -449, -1e30])])
    scale = np.float32(0.25)
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, (), [0])
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, (), [scale]), zero]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (theirs,) = session.run(None, {"x": values * scale})
    ours = fp8.round(values * scale, scale).astype(np.float32) * scale
    np.testing.assert_array_equal(ours, np.asarray(theirs))
    assert np.abs(ours).max() == 448 * scale
