"""Multiply-adds by hand."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from saymask.calibration.macs import multiply_adds, multiply_adds_of_shapes
from saymask.calibration.plan import plan_nodes


def test_convolutions(convolutions, images):
    counts = multiply_adds(convolutions, images[0])
    assert counts == {
        "stem": 16 * 16 * 16 * 3 * 9,
        "wide": 16 * 16 * 64 * 16 * 9,
        "narrow": 16 * 16 * 16 * 64,
        "down": 8 * 8 * 32 * 16 * 9,
        "depth": 8 * 8 * 32 * 9,
        "last": 8 * 8 * 16 * 32,
    }
    assert list(counts) == list(plan_nodes(convolutions))
    shapes = {name: array.shape for name, array in images[0].items()}
    assert multiply_adds_of_shapes(convolutions, shapes) == counts


def test_products_of_a_batch_that_varies(tokens, sentences):
    batch = len(sentences[0]["tokens"])
    counts = multiply_adds(tokens, sentences[0])
    assert counts["q"] == counts["out"] == batch * 20 * 32 * 32
    assert counts["logits"] == counts["mix"] == batch * 20 * 20 * 32
    shapes = {name: array.shape for name, array in sentences[0].items()}
    assert multiply_adds_of_shapes(tokens, shapes) == counts
    model = onnx.ModelProto()
    model.CopyFrom(tokens)
    # What data decide is left out, and what follows from shapes alone is not.
    model.graph.node.add(op_type="NonZero", input=["tokens"], output=["places"], name="places")
    model.graph.node.add(op_type="Cast", input=["places"], output=["which"], name="which")
    model.graph.node[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    model.graph.node.add(op_type="MatMul", input=["which", "which"], output=["it"], name="it")
    assert multiply_adds_of_shapes(model, shapes) == counts


def test_transposed_products_and_convolutions(build):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        rest (float[1,4,8,8] x, float[5,3] m) => (float[1,2,16,16] a, float[3,7] b) {
          [up] a = ConvTranspose <strides=[2,2]> (x, up_w)
          [turned] b = Gemm <transA=1> (m, matrix)
        }
        """,
        up_w=np.ones((4, 2, 2, 2), np.float32),
        matrix=np.ones((5, 7), np.float32),
    )
    feed = {"x": np.ones((1, 4, 8, 8), np.float32), "m": np.ones((5, 3), np.float32)}
    assert multiply_adds(model, feed) == {"up": 4 * 8 * 8 * 2 * 4, "turned": 3 * 5 * 7}
