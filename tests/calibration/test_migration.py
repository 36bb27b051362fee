"""Uneven channels between convolutions stop costing each other their steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration.migration import migrate, migrated_tensors
from saymask.calibration.plan import plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.static import quantize_static, quantized_tensors
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors


def _uneven(model: onnx.ModelProto, *, is_gelu: bool) -> onnx.ModelProto:
    """Let the channels that a ReLU or a GELU hands on differ by 2 ** 8.

    What is pulled through the GELU changes the network, which does not matter here.
    """
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    spread = 2.0 ** np.random.default_rng(7).integers(-4, 5, 64).astype(np.float32)
    if is_gelu:
        arrays["down_w"] = arrays["down_w"] * spread[:32, None, None, None]
        arrays["depth_w"] = arrays["depth_w"] / spread[:32, None, None, None]
    else:
        arrays["wide_w"] = arrays["wide_w"] * spread[:, None, None, None]
        arrays["wide_b"] = arrays["wide_b"] * spread
        arrays["narrow_w"] = arrays["narrow_w"] / spread[:, None, None]
    uneven = onnx.ModelProto()
    uneven.CopyFrom(model)
    del uneven.graph.initializer[:]
    uneven.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    return uneven


def _migrated(
    model: onnx.ModelProto, feeds: list, quantized: tuple[str, ...] = ("depth",)
) -> onnx.ModelProto:
    axes = migrated_tensors(model, quantized=quantized)
    found = observe(model, feeds, axes, channel_axes=axes)
    return migrate(model, {name: each.absmax for name, each in found.items()}, quantized=quantized)


def _lowered(model: onnx.ModelProto, feeds: list, *, is_static: bool) -> onnx.ModelProto:
    """Quantize all convolutions but the first and the last, the depthwise one with them."""
    plan = {
        name: replace(each, precision="int8") if name not in ("stem", "last") else each
        for name, each in plan_nodes(model).items()
    }
    tensors = (
        quantized_tensors(model, plan)
        if is_static
        else symmetric_tensors(model, plan, element="int8")
    )
    ranges = {name: each.range(100) for name, each in observe(model, feeds, tensors).items()}
    if is_static:
        return quantize_static(model, plan, ranges)
    return lower_symmetric(model, plan, ranges, element="int8")


def test_what_is_migrated(convolutions):
    assert migrated_tensors(convolutions) == {"d": 1}
    assert migrated_tensors(convolutions, quantized=["wide", "depth"]) == {"d": 1, "h": 1}


# Static INT8 rounds what a convolution makes before the GELU too, which nothing here can mend.
@pytest.mark.parametrize(("is_static", "is_gelu"), [(True, False), (False, False), (False, True)])
def test_migration_restores_what_uneven_channels_cost(
    convolutions, images, cosine, is_static, is_gelu
):
    uneven = _uneven(convolutions, is_gelu=is_gelu)
    even = _migrated(uneven, images)
    broken, restored = (
        1 - cosine(_lowered(each, images, is_static=is_static), uneven, images)
        for each in (uneven, even)
    )
    assert restored < broken / 4


def test_a_product_stands_before_the_depthwise_convolution(convolutions, images):
    written = _migrated(convolutions, images)
    names = [node.name for node in written.graph.node]
    assert names[names.index("depth") - 1] == "depth_migrate"
    assert set(names) - {node.name for node in convolutions.graph.node} == {"depth_migrate"}
    assert plan_nodes(written).keys() == plan_nodes(convolutions).keys()


def test_no_product_stands_before_what_stays_fp32(convolutions, images):
    folded = _migrated(convolutions, images, quantized=("wide",))
    assert [each.name for each in folded.graph.node] == [
        each.name for each in convolutions.graph.node
    ]
