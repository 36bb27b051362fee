"""Precisions are read from the graph and from what the compiler says of the engine."""

from __future__ import annotations

from saymask.export.engine_report import asked_layers, built_layers, built_shares
from saymask.export.halve import halve
from saymask.runtime.engine_cache import LayerCount, Share

LOG = """Engine generation completed
Layers:
Name: conv+gelu, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1], Datatype: Half, \
Format: (Linear) }], Constants: [ { Name: w, Datatype: Float, Format: L }], Outputs: \
[ { Name: y, Datatype: Half, Format: L }], TacticName: a
Name: norm, LayerType: kgen, Inputs: [ { Name: y, Datatype: Half, Format: L }], Constants: [], \
Outputs: [ { Name: z, Datatype: Float, Format: L }], TacticName: b
Name: other, LayerType: kgen, Inputs: [ { Name: y, Datatype: Half }], Constants: [], Outputs: \
[ { Name: ids, Datatype: Int64 }, { Name: v, Datatype: Float }], TacticName: b
Name: ids, LayerType: gather, Inputs: [ { Name: i, Datatype: Int64 }], Outputs: []
Name: old, LayerType: conv, Inputs: [ { Name: x, Format/Datatype: Row major linear INT8 format }], \
Outputs: [ { Name: y, Format/Datatype: Row major linear FP16 format }]
Name: few, LayerType: fusion, Inputs: [ { Name: x, Datatype: Half }], Constants: [ { Name: w, \
Datatype: Int4, Format: L }, { Name: s, Datatype: Float }], Outputs: [ { Name: y, Datatype: Half }]
Name: eighth, LayerType: gemm, Inputs: [ { Name: x, Datatype: FP8 }], Constants: [ { Name: w, \
Datatype: FP8, Format: L }], Outputs: [ { Name: y, Datatype: Half }]
Name: shapes, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName:
"""


def test_built_layers_are_counted_by_type_and_precision():
    assert built_layers(LOG) == (
        LayerCount(kind="conv", precision="fp16+int8", count=1),
        LayerCount(kind="correlation", precision="fp16", count=1),
        LayerCount(kind="fusion", precision="fp16+int4", count=1),
        LayerCount(kind="gather", precision="int64", count=1),
        LayerCount(kind="gemm", precision="fp16+fp8", count=1),
        LayerCount(kind="kgen", precision="fp16+fp32", count=2),
        LayerCount(kind="shape_call", precision="none", count=1),
    )
    assert built_layers("nothing of the kind") == ()


def test_asked_layers_are_the_graphs_operators(graphs):
    counts = asked_layers(graphs["mask"])
    assert sum(row.count for row in counts) == len(graphs["mask"].graph.node)
    assert {row.precision for row in counts} <= {"fp32", "int64", "bool", "bool+int64"}
    halved = {(row.kind, row.precision) for row in asked_layers(halve(graphs["mask"]))}
    assert {("Gemm", "fp16"), ("Softmax", "fp32"), ("Cast", "fp16+fp32")} <= halved


PRODUCTS = """Layers:
Name: round, LayerType: kgen, Inputs: [ { Name: a, Datatype: Half }], Constants: [], Outputs: \
[ { Name: b, Datatype: Int8 }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: small]
Name: small, LayerType: gemm, Inputs: [ { Name: b, Datatype: Int8 }, { Name: r, Datatype: Half }], \
Constants: [ { Name: w, Datatype: Int8 }, { Name: s, Datatype: Float }], Outputs: [ { Name: c, \
Datatype: Half }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: small][ONNX Layer: small too]
Name: bias, LayerType: kgen, Inputs: [ { Name: c, Datatype: Float }], Constants: [], Outputs: \
[ { Name: d, Datatype: Half }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: small]
Name: light, LayerType: gemm, Inputs: [ { Name: d, Datatype: Half }], Constants: [ { Name: w, \
Datatype: Int4 }], Outputs: [ { Name: e, Datatype: Half }], Metadata: [ONNX Layer: light]
Name: conv, LayerType: correlation, Inputs: [ { Name: d, Datatype: Half }, { Name: r, Datatype: \
Float }], Constants: [ { Name: w, Datatype: Half }], Outputs: [], Metadata: [ONNX Layer: conv]
Name: heads, LayerType: gemm, Inputs: [ { Name: q, Datatype: Half }, { Name: k, Datatype: Half }], \
Constants: [ { Name: s, Datatype: Float }], Outputs: [], Metadata: [ONNX Layer: heads]
Name: few, LayerType: kgen, Inputs: [ { Name: q, Datatype: FP8 }, { Name: i, Datatype: Int64 }], \
Constants: [], Outputs: [ { Name: k, Datatype: Half }], Metadata: [ONNX Layer: few]
"""


def test_products_are_computed_in_what_their_layer_multiplies():
    counts = {"small": 50, "small too": 10, "light": 4, "conv": 3, "heads": 2, "few": 1, "gone": 30}
    shares = {each.precision: each for each in built_shares(PRODUCTS, counts)}
    assert list(shares) == ["int8", "unknown", "fp16", "fp8"]
    assert shares["int8"] == Share(precision="int8", nodes=2, multiply_adds=60, share=0.6)
    assert (shares["fp16"].nodes, shares["fp16"].multiply_adds) == (3, 9)
    assert (shares["unknown"].nodes, shares["fp8"].nodes) == (1, 1)
    assert built_shares("nothing of the kind", {}) == ()
