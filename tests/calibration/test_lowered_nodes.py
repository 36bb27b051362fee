"""Each lowering of one small graph, node by node."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from saymask.calibration.graph import Graph
from saymask.calibration.quantize import FORMS, Calibration, candidates

BLOCK = """
<ir_version: 9, opset_import: ["" : 21]>
block (float[1,4,4,4] x) => (float[1,16,4] y) {
  [conv] c = Conv <kernel_shape=[3,3],pads=[1,1,1,1]> (x, conv_w, conv_b)
  [relu] r = Relu (c)
  [next] d = Conv <kernel_shape=[1,1]> (r, next_w)
  [flat] e = Reshape (d, shape)
  [turn] t = Transpose <perm=[0,2,1]> (e)
  [up] u = MatMul (t, up_w)
  [up_bias] ub = Add (u, up_b)
  [act] a = Relu (ub)
  [down] w = MatMul (a, down_w)
  [sum] s = Add (t, w)
  [last] y = MatMul (s, last_w)
}
"""
FIRST = """
c = Conv(x, float[4,4,3,3], float[4])
"""
IN_FLOATS = f"""{FIRST}
r = Relu(c)
d = Conv(r, float[4,4,1,1])
e = Reshape(d, int64[3])
t = Transpose(e)
"""
STATIC_END = """
t_uint8 = QuantizeLinear(t_real, float[], uint8[])
t = DequantizeLinear(t_uint8, float[], uint8[])
up_w_rounded = DequantizeLinear(int8[4,32], float[32])
u = MatMul(t, up_w_rounded)
ub = Sub(u, float[32])
a_real = Relu(ub)
a_uint8 = QuantizeLinear(a_real, float[], uint8[])
a = DequantizeLinear(a_uint8, float[], uint8[])
down_w_rounded = DequantizeLinear(int8[32,4], float[4])
w = MatMul(a, down_w_rounded)
s_real = Add(t, w)
s_uint8 = QuantizeLinear(s_real, float[], uint8[])
s = DequantizeLinear(s_uint8, float[], uint8[])
last_w_rounded = DequantizeLinear(int8[4,4], float[4])
y = MatMul(s, last_w_rounded)
"""
STATIC_START = f"""{FIRST}
r_real = Relu(c)
r_uint8 = QuantizeLinear(r_real, float[], uint8[])
r = DequantizeLinear(r_uint8, float[], uint8[])
next_w_rounded = DequantizeLinear(int8[4,4,1,1], float[4])
"""
SYMMETRIC_END = """
t_quantized = QuantizeLinear(t, float[], {element}[])
t_rounded = DequantizeLinear(t_quantized, float[], {element}[])
up_w_rounded = DequantizeLinear({element}[4,32], float[{columns}])
u = MatMul(t_rounded, up_w_rounded)
ub = Add(u, float[32])
a = Relu(ub)
a_quantized = QuantizeLinear(a, float[], {element}[])
a_rounded = DequantizeLinear(a_quantized, float[], {element}[])
down_w_rounded = DequantizeLinear({element}[32,4], float[{rows}])
w = MatMul(a_rounded, down_w_rounded)
s = Add(t, w)
s_quantized = QuantizeLinear(s, float[], {element}[])
s_rounded = DequantizeLinear(s_quantized, float[], {element}[])
last_w_rounded = DequantizeLinear({element}[4,4], float[{rows}])
y = MatMul(s_rounded, last_w_rounded)
"""
WRITTEN = {
    # Tensors are rounded where they arise, so that sums and moves work on integers too; a bias is
    # subtracted, as ONNX Runtime would fuse an addition into a product that it then leaves real.
    ("cpu", "int8-static"): f"""{STATIC_START}
d_real = Conv(r, next_w_rounded)
d_uint8 = QuantizeLinear(d_real, float[], uint8[])
d = DequantizeLinear(d_uint8, float[], uint8[])
e = Reshape(d, int64[3])
t_real = Transpose(e)
{STATIC_END}""",
    ("cpu", "int8-dynamic"): f"""{IN_FLOATS}
t_uint8, t_scale, t_zero = DynamicQuantizeLinear(t)
up_int32 = MatMulInteger(t_uint8, int8[4,32], t_zero)
up_real = Cast(up_int32)
up_scale = Mul(t_scale, float[32])
u = Mul(up_real, up_scale)
ub = Add(u, float[32])
a = Relu(ub)
a_uint8, a_scale, a_zero = DynamicQuantizeLinear(a)
down_int32 = MatMulInteger(a_uint8, int8[32,4], a_zero)
down_real = Cast(down_int32)
down_scale = Mul(a_scale, float[4])
w = Mul(down_real, down_scale)
s = Add(t, w)
s_uint8, s_scale, s_zero = DynamicQuantizeLinear(s)
last_int32 = MatMulInteger(s_uint8, int8[4,4], s_zero)
last_real = Cast(last_int32)
last_scale = Mul(s_scale, float[4])
y = Mul(last_real, last_scale)
""",
    # What a convolution makes stays real; see `lower_openvino`.
    ("openvino", "int8-static"): f"""{STATIC_START}
d = Conv(r, next_w_rounded)
e = Reshape(d, int64[3])
t_real = Transpose(e)
{STATIC_END}""",
    # Symmetric, and only what products and convolutions read: TensorRT fuses the rest itself.
    ("rtx", "int8"): f"""{FIRST}
r = Relu(c)
r_quantized = QuantizeLinear(r, float[], int8[])
r_rounded = DequantizeLinear(r_quantized, float[], int8[])
next_w_rounded = DequantizeLinear(int8[4,4,1,1], float[4])
d = Conv(r_rounded, next_w_rounded)
e = Reshape(d, int64[3])
t = Transpose(e)
{SYMMETRIC_END.format(element="int8", columns=32, rows=4)}""",
    ("rtx", "fp8"): IN_FLOATS + SYMMETRIC_END.format(element="float8e4m3fn", columns="", rows=""),
    ("rtx", "int8-weights"): f"""{IN_FLOATS}
up_w_rounded = DequantizeLinear(int8[4,32], float[32])
u = MatMul(t, up_w_rounded)
ub = Add(u, float[32])
a = Relu(ub)
down_w_rounded = DequantizeLinear(int8[32,4], float[4])
w = MatMul(a, down_w_rounded)
s = Add(t, w)
last_w_rounded = DequantizeLinear(int8[4,4], float[4])
y = MatMul(s, last_w_rounded)
""",
    # Blocks of 16 rows, which weights with 4 rows do not have.
    ("rtx", "int4-weights"): f"""{IN_FLOATS}
u = MatMul(t, float[4,32])
ub = Add(u, float[32])
a = Relu(ub)
down_w_rounded = DequantizeLinear(int4[32,4], float[2,4])
w = MatMul(a, down_w_rounded)
s = Add(t, w)
y = MatMul(s, float[4,4])
""",
}


@pytest.fixture(scope="module")
def block(build) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    shapes = {
        "conv_w": (4, 4, 3, 3), "conv_b": (4,), "next_w": (4, 4, 1, 1), "up_w": (4, 32),
        "up_b": (32,), "down_w": (32, 4), "last_w": (4, 4),
    }  # fmt: skip
    arrays = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    return build(
        BLOCK,
        shape=np.array([1, 4, 16]),
        **{name: array.astype(np.float32) for name, array in arrays.items()},
    )


@pytest.mark.parametrize(("target", "precision"), [key for key in FORMS if key[0] != "tensorrt"])
def test_every_node_is_where_it_belongs(block, target, precision):
    feed = {"x": np.random.default_rng(1).normal(size=(1, 4, 4, 4)).astype(np.float32)}
    _, *found = candidates(
        block,
        [feed],
        target=target,
        precision=precision,
        calibration=Calibration(transforms=()),
    )
    assert found
    for candidate in found:
        expected = WRITTEN[target, candidate.precision].split("\n")
        assert _sketch(candidate.model) == [line for line in expected if line]


def test_both_packages_of_tensorrt_are_given_the_same():
    for (target, precision), forms in FORMS.items():
        if target == "tensorrt":
            assert forms == FORMS["rtx", precision]


def _sketch(model: onnx.ModelProto) -> list[str]:
    """Write each node in a line, constants by their type and extents."""
    constants = Graph(model).constants

    def said(name: str) -> str:
        if name not in constants:
            return name
        kind = onnx.TensorProto.DataType.Name(constants[name].data_type).lower()
        return f"{kind}[{','.join(map(str, constants[name].dims))}]"

    return [
        f"{', '.join(node.output)} = {node.op_type}({', '.join(map(said, node.input))})"
        for node in model.graph.node
    ]
