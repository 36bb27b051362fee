"""A graph in FP16 computes what it did in FP32, and what is delicate stays FP32."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from saymask.calibration.passes import split_gemms
from saymask.calibration.plan import plan_nodes
from saymask.calibration.ranges import Range
from saymask.calibration.score import score_mask
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
from saymask.calibration.weight_only import weight_only
from saymask.export.compile import shape_range
from saymask.export.engine_build import EngineJob, build_engine
from saymask.export.halve import element_types, halve
from saymask.runtime.engine_cache import device_key
from saymask.runtime.errors import UsageError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def _model(nodes, constants=(), shape=(1, 4), outputs=("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node(op, inputs, [output], name=f"node_{output}", **attributes)
            for op, inputs, output, attributes in nodes
        ],
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, ["rows", "columns"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Data type that each operator but the casts returns."""
    types = element_types(model)
    return {
        node.name.removeprefix("node_"): types[node.output[0]]
        for node in model.graph.node
        if node.op_type != "Cast"
    }


def _lower(graph: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """Quantize a graph in INT8, FP8 or the weights alone, with ranges of no particular data."""
    model = split_gemms(graph)
    plan = plan_nodes(model)
    if form in ("8", "4"):
        return weight_only(model, plan, bits=int(form))
    wishes = {"element": form, "attention": form == "fp8"}
    names = symmetric_tensors(model, plan, **wishes)
    return lower_symmetric(model, plan, dict.fromkeys(names, Range(low=-4, high=4)), **wishes)


def _run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [np.asarray(result) for result in session.run(None, feeds)]


def test_masks_are_those_of_fp32(fp32_bundle, graphs):
    golden, passed_on = fp32_bundle.golden(), {}
    for stage in fp32_bundle.manifest.stages:
        halved = halve(graphs[stage.name])
        types = element_types(halved)
        inputs = {t.name: golden[f"{stage.name}/{t.name}"] for t in stage.inputs}
        for value in (*halved.graph.input, *halved.graph.output):
            assert types[value.name] != HALF
        assert halved.ByteSize() < 0.75 * graphs[stage.name].ByteSize()
        results = _run(halved, **{name: passed_on.get(name, inputs[name]) for name in inputs})
        passed_on |= {t.name: result for t, result in zip(stage.outputs, results, strict=True)}
    truth = golden["mask/logits"] > fp32_bundle.manifest.mask_threshold
    masks = passed_on["logits"] > fp32_bundle.manifest.mask_threshold
    for mask_hw, truth_hw in zip(masks[:, 0], truth[:, 0], strict=True):
        assert score_mask(mask_hw, truth_hw).giou > 0.98
    assert any((masks != masks.flat[0]).ravel()), "a mask that is not uniform"


def test_weighted_operators_are_fp16_and_normalizations_fp32(graphs):
    for graph in graphs.values():
        types = element_types(halved := halve(graph))
        for node in halved.graph.node:
            if node.op_type in {"LayerNormalization", "Softmax", "Div", "Reciprocal", "ReduceSum"}:
                assert types[node.output[0]] == FLOAT, node.name
            if node.op_type in {"Conv", "ConvTranspose", "Gemm", "Gelu"}:
                assert types[node.output[0]] != FLOAT, node.name


def test_linear_attention_sums_in_fp32_from_the_last_weights():
    weights = np.eye(4, dtype=np.float32)
    nodes = [
        ("MatMul", ["x", "w"], "q", {}),
        ("Relu", ["q"], "positive", {}),
        ("Transpose", ["positive"], "keys", {"perm": [1, 0]}),
        ("MatMul", ["keys", "positive"], "sums", {}),
        ("MatMul", ["positive", "sums"], "over", {}),
        ("Add", ["over", "eps"], "under", {}),
        ("Div", ["over", "under"], "ratio", {}),
        ("MatMul", ["ratio", "w"], "y", {}),
    ]
    model = _model(nodes, {"w": weights, "eps": np.float32([1e-15])}, shape=(64, 4))
    halved = halve(model)
    kinds = _kinds(halved)
    delicate = {"positive", "keys", "sums", "over", "under", "ratio"}
    assert {name for name, kind in kinds.items() if kind == FLOAT} == delicate
    x = np.full((64, 4), 60, np.float32)
    (result,), (expected,) = _run(halved, x=x), _run(model, x=x)
    np.testing.assert_allclose(result, expected, rtol=1e-3)


def test_quantized_weights_are_the_last_before_a_division_too():
    zero, scale = np.int8(0), np.float32(0.5)
    nodes = [
        ("DequantizeLinear", ["integers", "scale"], "w", {}),
        ("QuantizeLinear", ["x", "scale", "zero"], "small", {}),
        ("DequantizeLinear", ["small", "scale", "zero"], "rounded", {}),
        ("MatMul", ["rounded", "w"], "q", {}),
        ("Relu", ["q"], "positive", {}),
        ("Div", ["positive", "positive"], "y", {}),
    ]
    constants = {"integers": np.eye(4, dtype=np.int8), "scale": scale, "zero": zero}
    kinds = _kinds(halve(_model(nodes, constants)))
    assert {name for name, kind in kinds.items() if kind == FLOAT} == {"positive", "y"}


@pytest.mark.parametrize("form", ["int8", "8", "4"])
def test_quantized_graphs_keep_their_numbers(fp32_bundle, graphs, form):
    lowered = _lower(graphs["mask"], form)
    halved = halve(lowered)
    small = (TensorProto.INT8, TensorProto.INT4)
    stored, kept = (
        {each.name: each.raw_data for each in model.graph.initializer if each.data_type in small}
        for model in (lowered, halved)
    )
    assert stored == kept
    before, after = (
        {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        for model in (lowered, halved)
    )
    scales = [name for name in before if name.endswith("_scale")]
    assert scales
    for name in scales:
        half = after[f"{name}_fp16"]
        assert half.dtype == np.float16
        np.testing.assert_array_equal(half, before[name])
    golden = fp32_bundle.golden()
    feeds = {each.name: golden[f"mask/{each.name}"] for each in halved.graph.input}
    (ours, _), (theirs, _) = _run(halved, **feeds), _run(lowered, **feeds)
    assert (ours * theirs).sum() > 0.99 * np.linalg.norm(ours) * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    ("form", "kind", "name"),
    [
        ("int8", "gemm", "fp16+int8"),
        ("fp8", "gemm", "fp16+fp8"),
        ("8", "runtime_fusion", "fp16+int8"),
        ("4", "runtime_fusion", "fp16+int4"),
    ],
)
def test_quantized_graphs_become_engines(fp32_bundle, graphs, tmp_path, form, kind, name):
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    graph = tmp_path / "mask.onnx"
    onnx.save(_lower(graphs["mask"], form), graph)
    job = EngineJob(
        stage="mask",
        graph=graph,
        shapes=tuple(
            shape_range(each, {"phrases": 4}) for each in fp32_bundle.stage("mask").inputs
        ),
        precision="fp16",
        phrases=4,
        key=device_key("tensorrt_rtx", rtx.__version__, (89,)),
        folder=tmp_path,
    )
    report = build_engine(job, lambda: None)
    counts = {(row.kind, row.precision): row.count for row in report.built}
    weighted = sum(each.op_type == "DequantizeLinear" for each in onnx.load(graph).graph.node)
    assert counts[kind, name] > weighted / 4
    asked = {(row.kind, row.precision) for row in report.asked}
    assert ("DequantizeLinear", name) in asked


def test_a_layer_norm_written_out_squares_in_fp32():
    nodes = [
        ("ReduceMean", ["x", "axis"], "mean", {}),
        ("Sub", ["x", "mean"], "centered", {}),
        ("Pow", ["centered", "two"], "squares", {}),
        ("ReduceMean", ["squares", "axis"], "variance", {}),
        ("Add", ["variance", "eps"], "above", {}),
        ("Sqrt", ["above"], "deviation", {}),
        ("Reciprocal", ["deviation"], "scale", {}),
        ("Mul", ["centered", "scale"], "y", {}),
    ]
    constants = {"axis": np.array([1]), "two": np.float32(2), "eps": np.float32(1e-6)}
    x = np.float32([[-900, 0, 300, 700]])
    model = _model(nodes, constants)
    (result,), (expected,) = _run(halve(model), x=x), _run(model, x=x)
    np.testing.assert_allclose(result, expected, rtol=2e-3)


def test_a_division_by_a_constant_lifts_nothing_else():
    nodes = [("Add", ["x", "x"], "twice", {}), ("Div", ["twice", "half"], "y", {})]
    assert _kinds(halve(_model(nodes, {"half": np.float32([0.5])}))) == {"twice": HALF, "y": FLOAT}


def test_constants_beyond_fp16_become_its_largest():
    model = _model([("Add", ["x", "never"], "y", {})], {"never": np.float32([-3.4e38])})
    (result,) = _run(halve(model), x=np.zeros((1, 4), np.float32))
    assert (result == -65504).all()


def test_an_output_that_is_read_on_and_words_that_are_no_numbers():
    nodes = [
        ("Relu", ["x"], "y", {}),
        ("Shape", ["y"], "shape", {}),
        ("Neg", ["y"], "minus", {}),
        ("Reshape", ["minus", "shape"], "z", {}),
    ]
    x = np.float32([[-1, 0, 1, 2]])
    y, z = _run(halve(_model(nodes, outputs=("y", "z"))), x=x)
    np.testing.assert_array_equal(y, [[0, 0, 1, 2]])
    np.testing.assert_array_equal(z, -y)
    assert y.dtype == z.dtype == np.float32


def test_the_source_stays_as_it_is(graphs):
    before = graphs["mask"].SerializeToString()
    halve(graphs["mask"])
    assert graphs["mask"].SerializeToString() == before


def test_nodes_need_names():
    model = _model([("Relu", ["x"], "y", {})])
    model.graph.node[0].name = ""
    with pytest.raises(UsageError, match="every node must have a name"):
        halve(model)
