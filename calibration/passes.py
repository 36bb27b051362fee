"""Exact rewrites, from model to model: the graph gets quicker or easier to quantize.

What the exporter noted about the nodes is left behind; see `graph.Graph`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from ..kernels import taps
from .graph import Graph, attribute

__all__ = ["part_products", "replace_resizes", "split_gemms"]


def split_gemms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write Gemm with a constant matrix as MatMul and Add, the one form that is quantized."""
    if all(node.op_type != "Gemm" for node in model.graph.node):
        return model
    graph = Graph(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        is_product = (
            node.op_type == "Gemm"
            and node.input[1] in graph.constants
            and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
            and not attribute(node, "transA", 0)
        )
        nodes += _product_from_gemm(graph, node) if is_product else [node]
    graph.nodes = nodes
    return graph.model()


def _product_from_gemm(graph: Graph, gemm: onnx.NodeProto) -> list[onnx.NodeProto]:
    rows, weight, *bias = gemm.input
    if attribute(gemm, "transB", 0):
        weight = graph.add(f"{weight}_transposed", graph.array(weight).T)
    if not any(bias):
        return [helper.make_node("MatMul", [rows, weight], gemm.output, gemm.name)]
    product = graph.fresh(f"{gemm.output[0]}_product")
    return [
        helper.make_node("MatMul", [rows, weight], [product], gemm.name),
        helper.make_node("Add", [product, *bias], gemm.output, f"{gemm.name}_bias"),
    ]


def part_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write a product whose columns a Split parts for a node each, all of one kind, as several.

    For these, queries, keys and values as a rule, TensorRT-RTX 1.7 turns the weights around for
    what comes behind the Split, and then multiplies INT8 numbers in FP16. It does not where one of
    the parts is read in another way, as SAM ViT's queries are, which are left whole.

    Args:
        model: Float graph after `split_gemms`.
    """
    if all(node.op_type != "Split" for node in model.graph.node):
        return model
    graph = Graph(model)
    makers, readers = graph.makers(), graph.readers()
    kept = {value.name for value in model.graph.output}
    parted: dict[str, list[onnx.NodeProto]] = {}
    dropped: set[str] = set()
    for split in graph.nodes:
        chain = _product_before(graph, split, makers)
        between = [node.output[0] for node in chain]
        widths = _widths(graph, split, chain) if chain else []
        kinds = {tuple(each.op_type for each in readers.get(name, ())) for name in split.output}
        is_alike = len(kinds) == 1 and all(len(kind) == 1 for kind in kinds)
        is_apart = all(len(readers[name]) == 1 and name not in kept for name in between)
        if widths and is_alike and is_apart:
            parted[split.name] = _parts(graph, split, chain, widths)
            dropped.update(node.name for node in chain)
    graph.nodes = [
        each
        for node in graph.nodes
        if node.name not in dropped
        for each in parted.get(node.name, [node])
    ]
    return graph.model()


def _product_before(
    graph: Graph, split: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """Return the product with a matrix, and its bias if it has one, that a Split reads; or []."""
    above = makers.get(split.input[0]) if split.op_type == "Split" else None
    found: list[onnx.NodeProto] = []
    if above and above.op_type == "Add":
        found, above = [above], makers.get(above.input[0])
    if not above or above.op_type != "MatMul":
        return []
    found.insert(0, above)
    constants = [graph.constants.get(node.input[1]) for node in found]
    extents = [tuple(each.dims) for each in constants if each is not None]
    is_plain = [len(each) for each in extents] == [2, 1][: len(found)]
    return found if is_plain and len({each[-1] for each in extents}) == 1 else []


def _widths(graph: Graph, split: onnx.NodeProto, chain: Sequence[onnx.NodeProto]) -> list[int]:
    """Return the columns of each part; none where a Split is of another axis or its sizes vary."""
    whole = graph.constants[chain[0].input[1]].dims[1]
    rank = len(graph.extents().get(split.input[0], ()))
    if attribute(split, "axis", 0) not in {-1, rank - 1}:
        return []
    if len(split.input) == 1:
        width, rest = divmod(whole, len(split.output))
        return [] if rest else [width] * len(split.output)
    is_known = split.input[1] in graph.constants
    return graph.array(split.input[1]).tolist() if is_known else []


def _parts(
    graph: Graph, split: onnx.NodeProto, chain: Sequence[onnx.NodeProto], widths: Sequence[int]
) -> list[onnx.NodeProto]:
    nodes: list[onnx.NodeProto] = []
    ends = np.cumsum(widths)[:-1]
    columns = [np.split(graph.array(node.input[1]), ends, axis=-1) for node in chain]
    for part, out in enumerate(split.output):
        rows = chain[0].input[0]
        for node, parts in zip(chain, columns, strict=True):
            constant = graph.add(f"{node.input[1]}_part{part}", parts[part])
            made = out if node is chain[-1] else graph.fresh(f"{out}_product")
            name = f"{node.name}_part{part}"
            nodes.append(helper.make_node(node.op_type, [rows, constant], [made], name))
            rows = made
    return nodes


def replace_resizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write a bilinear or bicubic Resize to a known size as a product with a matrix on each side.

    Interpolation is linear and separable, so nothing is lost, and ONNX Runtime's cubic kernel alone
    took half the time of a small image encoder. Both matrices stand on the left, so that no plan
    takes them for weights.
    """
    if not any(node.op_type == "Resize" for node in model.graph.node):
        return model  # A large one is not worth a copy.
    graph = Graph(model)
    extents = graph.extents()
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        matrices = _interpolation(node, extents) if node.op_type == "Resize" else None
        if matrices is None:
            nodes.append(node)
            continue
        rows, columns = (
            graph.add(f"{node.name}_{axis}", matrix)
            for axis, matrix in zip(("rows", "columns"), matrices, strict=True)
        )
        turned = graph.fresh(f"{node.output[0]}_turned")
        # R X C^T = R (C X^T)^T, where engines fuse each transposition into the product.
        nodes += _product_with_transposed(graph, columns, node.input[0], turned)
        nodes += _product_with_transposed(graph, rows, turned, node.output[0])
    graph.nodes = nodes
    return graph.model()


def _product_with_transposed(
    graph: Graph, matrix: str, tensor: str, out: str
) -> list[onnx.NodeProto]:
    transposed = graph.fresh(f"{tensor}_transposed")
    return [
        helper.make_node(
            "Transpose", [tensor], [transposed], f"{matrix}_transpose", perm=[0, 1, 3, 2]
        ),
        helper.make_node("MatMul", [matrix, transposed], [out], f"{matrix}_product"),
    ]


def _interpolation(
    node: onnx.NodeProto, extents: Mapping[str, tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the matrices (to, from) of rows and columns; None where they are not plainly known."""
    source, target = extents.get(node.input[0], ()), extents.get(node.output[0], ())
    filters = {"linear": taps.bilinear, "cubic": taps.bicubic}
    mode = attribute(node, "mode", b"nearest").decode()
    is_known = (
        len(source) == len(target) == 4
        and source[:2] == target[:2]
        and 0 not in source[2:] + target[2:]
        and len(node.input) == 4
        and mode in filters
        and attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        and attribute(node, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
        and attribute(node, "cubic_coeff_a", -0.75) == -0.75
        and not attribute(node, "antialias", 0)
        and not attribute(node, "exclude_outside", 0)
    )
    if not is_known:
        return None
    rows, columns = (
        taps.resample(np.eye(have, dtype=np.float32), filters[mode](have, want))
        for have, want in zip(source[2:], target[2:], strict=True)
    )
    return rows, columns
