"""Small networks with the shapes of trained ones: uneven channels, residuals, attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser, shape_inference

CONVOLUTIONS = """
<ir_version: 9, opset_import: ["" : 20]>
encoder (float[1,3,32,32] image) => (float[1,16,8,8] embedding) {
  [stem] a = Conv <pads=[1,1,1,1], strides=[2,2]> (image, stem_w, stem_b)
  [stem_act] b = Gelu <approximate="tanh"> (a)
  [wide] c = Conv <pads=[1,1,1,1]> (b, wide_w, wide_b)
  [wide_act] d = Relu (c)
  [narrow] e = Conv (d, narrow_w, narrow_b)
  [shortcut] f = Add (b, e)
  [down] g = Conv <pads=[1,1,1,1], strides=[2,2]> (f, down_w)
  [down_act] h = Gelu <approximate="tanh"> (g)
  [depth] i = Conv <pads=[1,1,1,1], group=32> (h, depth_w, depth_b)
  [depth_act] j = Gelu <approximate="tanh"> (i)
  [last] embedding = Conv (j, last_w, last_b)
}
"""
KERNELS = {
    "stem": (16, 3, 3, 3),
    "wide": (64, 16, 3, 3),
    "narrow": (16, 64, 1, 1),
    "down": (32, 16, 3, 3),
    "depth": (32, 1, 3, 3),
    "last": (16, 32, 1, 1),
}
TOKENS = """
<ir_version: 9, opset_import: ["" : 20]>
block (float[%s,20,32] tokens) => (float[%s,20,32] states) {
  [norm] n = LayerNormalization <axis=-1> (tokens, gamma, beta)
  [q] qm = MatMul (n, q_w)
  [q_bias] q = Add (qm, q_b)
  [k] km = MatMul (n, k_w)
  [k_bias] k = Add (k_b, km)
  [v] v = MatMul (n, v_w)
  [turn] kt = Transpose <perm=[0,2,1]> (k)
  [logits] l = MatMul (q, kt)
  [weights] p = Softmax <axis=-1> (l)
  [mix] m = MatMul (p, v)
  [out] om = MatMul (m, v_w)
  [out_bias] o = Add (om, out_b)
  [shortcut] states = Add (tokens, o)
}
"""


@pytest.fixture(scope="session")
def build() -> Callable[..., onnx.ModelProto]:
    """Makes a model of ONNX text and constants."""

    def build(text: str, **constants: np.ndarray) -> onnx.ModelProto:
        model = parser.parse_model(text)
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in constants.items()
        )
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True)

    return build


@pytest.fixture(scope="session")
def convolutions(build) -> onnx.ModelProto:
    """An encoder of six convolutions, one of them depthwise."""
    generator = np.random.default_rng(0)
    constants = {}
    for name, shape in KERNELS.items():
        spread = generator.uniform(0.5, 2, (shape[0], 1, 1, 1)) / np.sqrt(np.prod(shape[1:]))
        constants[f"{name}_w"] = (generator.normal(size=shape) * spread).astype(np.float32)
        constants[f"{name}_b"] = generator.normal(size=shape[0], scale=0.2).astype(np.float32)
    return build(CONVOLUTIONS, **constants)


@pytest.fixture(scope="session", params=["2", "phrases"])
def tokens(build, request) -> onnx.ModelProto:
    """An attention block with known or varying batch; two of its products share a matrix."""
    generator = np.random.default_rng(1)
    constants = {
        f"{name}_w": (generator.normal(size=(32, 32)) * generator.uniform(0.05, 0.15, 32)).astype(
            np.float32
        )
        for name in "qkv"
    }
    for name in ("q_b", "k_b", "out_b", "beta"):
        constants[name] = generator.normal(size=32, scale=0.2).astype(np.float32)
    constants["gamma"] = generator.uniform(0.5, 3, 32).astype(np.float32)
    return build(TOKENS % (request.param, request.param), **constants)


@pytest.fixture(scope="session")
def images() -> list[dict[str, np.ndarray]]:
    """Four feeds of `convolutions`."""
    generator = np.random.default_rng(2)
    return [{"image": _normal(generator, 1, 3, 32, 32)} for _ in range(4)]


@pytest.fixture(scope="session")
def sentences() -> list[dict[str, np.ndarray]]:
    """Four feeds of `tokens`."""
    generator = np.random.default_rng(3)
    return [{"tokens": _normal(generator, 2, 20, 32)} for _ in range(4)]


@pytest.fixture(scope="session")
def cosine() -> Callable[..., float]:
    """Least cosine of two models' outputs over feeds."""
    from saymask.calibration.session import open_model

    def cosine(model: onnx.ModelProto, other: onnx.ModelProto, feeds: list) -> float:
        first, second = open_model(model, threads=1), open_model(other, threads=1)
        least = 1.0
        for feed in feeds:
            expected = second.run(feed)
            for name, found in first.run(feed).items():
                a, b = found.ravel().astype(np.float64), expected[name].ravel()
                least = min(least, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        return least

    return cosine


@pytest.fixture(scope="session")
def wound(build, images) -> Callable[..., tuple]:
    """Makes a segmenting network of residual blocks, some hurt by INT8, and its judge."""
    from saymask.calibration.gate import Loss, points_apart
    from saymask.calibration.lowering import lower_cpu
    from saymask.calibration.plan import name_int8, plan_nodes
    from saymask.calibration.ranges import observe
    from saymask.calibration.recording import Run
    from saymask.calibration.sensitivity import Subject
    from saymask.calibration.session import open_model
    from saymask.calibration.static import quantized_tensors

    def wound(**outliers: float) -> tuple:
        """Return the subject and the judge; `outliers` is the block's name -> its wound.

        The first channel inside a block is so many times as large as the others, and the
        convolution after it makes up for that: the same in FP32, but in INT8 one scale spans both.
        """
        model = build(_residual_text(outliers), **_residual_constants(outliers))
        fp32 = open_model(model, threads=1)
        runs = [Run(feed, fp32.run(feed)) for feed in images]
        plan = plan_nodes(model)
        histograms = observe(model, images, quantized_tensors(model, plan))
        ranges = {name: histogram.range(100) for name, histogram in histograms.items()}
        subject = Subject(
            "net",
            model,
            name_int8(plan, "int8-static"),
            lambda wanted: lower_cpu(model, wanted, ranges),
            runs,
            settings="percent 100",
        )
        masks = [run.outputs["logits"][0] > 0 for run in runs]

        def judge(models) -> Loss:
            engine = open_model(models["net"], threads=1) if models else fp32
            found = [engine.run(feed)["logits"][0] > 0 for feed in images]
            apart = points_apart(masks, found)
            return Loss(lost=apart, apart=apart)

        return subject, judge

    return wound


@pytest.fixture(scope="session")
def wounded(wound) -> tuple:
    """Three blocks of which the second is hurt, and their judge."""
    return wound(first=1, second=3000, third=1)


def _residual_text(blocks: Iterable[str]) -> str:
    lines, before = ["[stem] x0 = Conv <pads=[1,1,1,1]> (image, stem_w)"], "x0"
    for name in blocks:
        lines += [
            f"[{name}_in] {name}_a = Conv <pads=[1,1,1,1]> ({before}, {name}_in_w)",
            f"[{name}_act] {name}_b = Relu ({name}_a)",
            f"[{name}_out] {name}_c = Conv ({name}_b, {name}_out_w)",
            f"[{name}_sum] {name}_d = Add ({before}, {name}_c)",
        ]
        before = f"{name}_d"
    lines.append(f"[head] logits = Conv ({before}, head_w)")
    return (
        '<ir_version: 9, opset_import: ["" : 20]>\n'
        "net (float[1,3,32,32] image) => (float[1,1,32,32] logits) {" + "\n".join(lines) + "}"
    )


def _residual_constants(outliers: Mapping[str, float]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(4)
    constants = {
        "stem_w": _normal(generator, 8, 3, 3, 3) / 5,
        "head_w": _normal(generator, 1, 8, 1, 1),
    }
    for name, outlier in outliers.items():
        inner, outer = _normal(generator, 16, 8, 3, 3) / 8, _normal(generator, 8, 16, 1, 1) / 4
        inner[0] *= outlier
        outer[:, 0] /= outlier
        constants |= {f"{name}_in_w": inner, f"{name}_out_w": outer}
    return {name: array.astype(np.float32) for name, array in constants.items()}


def _normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(size=shape).astype(np.float32)
