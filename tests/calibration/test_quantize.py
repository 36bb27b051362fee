"""Every candidate that applies, and no other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration import quantize
from saymask.runtime.errors import UsageError


def test_convolutions_have_no_dynamic_form(convolutions, images):
    found = quantize.candidates(convolutions, iter(images))
    assert [each.precision for each in found] == ["fp32", "int8-static"]


def test_products_have_both_forms(tokens, sentences, cosine):
    found = quantize.candidates(tokens, iter(sentences))
    assert [each.precision for each in found] == ["fp32", "int8-static", "int8-dynamic"]
    for candidate in found:
        onnx.checker.check_model(candidate.model, full_check=True)
        assert cosine(candidate.model, tokens, sentences) > 0.999
    assert not found[0].plan
    assert found[1].plan["q"].precision == found[2].plan["q"].precision == "int8"


def test_dynamic_plans_say_that_convolutions_stay(build):
    square = np.eye(8, dtype=np.float32)
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        mixed (float[1,8,8,8] x) => (float[1,8,8,8] y) {
          [before] a = Relu (x)
          [conv] b = Conv (a, w)
          [product] y = MatMul (b, m)
        }
        """,
        w=square.reshape(8, 8, 1, 1),
        m=square,
    )
    _, static, dynamic = quantize.candidates(model, [{"x": np.ones((1, 8, 8, 8), np.float32)}])
    assert {name: each.precision for name, each in static.plan.items()} == {
        "conv": "int8",
        "product": "int8",
    }
    assert dynamic.plan["conv"].reason == "dynamic scales are for products"
    assert dynamic.plan["product"].precision == "int8"


def test_nothing_to_quantize(convolutions):
    found = quantize.candidates(convolutions, [], keep={"Conv": "all of them"})
    assert [each.precision for each in found] == ["fp32"]


def test_no_data_is_an_error(tokens):
    with pytest.raises(UsageError, match="calibration must see real inputs"):
        quantize.candidates(tokens, [])


def test_static_scales_cover_a_share_of_the_values(tokens, sentences):
    outlier = {"tokens": sentences[0]["tokens"] * np.float32(np.arange(32) == 0) * 100}
    feeds = [*sentences, outlier]
    coarse, fine = (_scale("n", tokens, feeds, percent) for percent in (100, 99))
    assert 0 < fine < 0.7 * coarse


def test_integers_are_smaller(convolutions, images):
    fp32, static = quantize.candidates(convolutions, images)
    assert static.model.ByteSize() < 0.75 * fp32.model.ByteSize()


def _scale(tensor: str, model: onnx.ModelProto, feeds: list, percent: float) -> float:
    """Static scale of a tensor."""
    _, static, *_ = quantize.candidates(model, feeds, percent=percent)
    arrays = {each.name: numpy_helper.to_array(each) for each in static.model.graph.initializer}
    return float(arrays[f"{tensor}_scale"])
