"""Every candidate that applies, and no other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from saymask.calibration import peaks, quantize
from saymask.calibration.arrays import StoredArrays
from saymask.calibration.observers import Observer
from saymask.calibration.plan import NodePlan, plan_nodes
from saymask.calibration.plan_file import model_sha256
from saymask.calibration.qdq import runnable
from saymask.calibration.session import open_model
from saymask.runtime.errors import UnknownNameError, UsageError


def test_convolutions_have_no_dynamic_form(convolutions, images):
    found = quantize.candidates(convolutions, images)
    assert [each.precision for each in found] == ["fp32", "int8-static"]


def test_products_have_both_forms(tokens, sentences, cosine):
    found = quantize.candidates(tokens, sentences)
    assert [each.precision for each in found] == ["fp32", "int8-static", "int8-dynamic"]
    for candidate in found:
        onnx.checker.check_model(candidate.model, full_check=True)
        assert cosine(candidate.model, tokens, sentences) > 0.999
    assert not found[0].plan
    assert [each.plan["q"].precision for each in found[1:]] == ["int8-static", "int8-dynamic"]


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
        "conv": "int8-static",
        "product": "int8-static",
    }
    assert dynamic.plan["conv"].reason == "dynamic scales are for products"
    assert dynamic.plan["product"].precision == "int8-dynamic"


def test_nothing_to_quantize(convolutions):
    found = quantize.candidates(convolutions, [], keep={"Conv": "all of them"})
    assert [each.precision for each in found] == ["fp32"]


def test_no_data_is_an_error(tokens):
    with pytest.raises(UsageError, match="calibration must see real inputs"):
        quantize.candidates(tokens, [])


def test_static_scales_cover_a_share_of_the_values(tokens, sentences):
    outlier = {"tokens": sentences[0]["tokens"] * np.float32(np.arange(32) == 0) * 100}
    feeds = [*sentences, outlier]
    coarse, fine = (_scale("n", tokens, feeds, each) for each in ("minmax", "percentile:99"))
    assert 0 < fine < 0.7 * coarse


def test_integers_are_smaller(convolutions, images):
    fp32, static = quantize.candidates(convolutions, images)
    assert static.model.ByteSize() < 0.75 * fp32.model.ByteSize()


def _scale(tensor: str, model: onnx.ModelProto, feeds: list, observer: str) -> float:
    """Static scale of a tensor."""
    calibration = quantize.Calibration(observer=Observer.parse(observer), transforms=())
    _, static, *_ = quantize.candidates(model, feeds, calibration=calibration)
    arrays = {each.name: numpy_helper.to_array(each) for each in static.model.graph.initializer}
    return float(arrays[f"{tensor}_scale"])


@pytest.mark.parametrize(
    ("precision", "least"),
    [("int8", 0.999), ("fp8", 0.99), ("int8-weights", 0.999), ("int4-weights", 0.98)],
)
def test_tensorrt_has_one_form_of_each_precision(tokens, sentences, cosine, precision, least):
    for target in ("rtx", "tensorrt"):
        fp32, small = quantize.candidates(tokens, sentences, target=target, precision=precision)
        assert (fp32.precision, small.precision) == ("fp32", precision)
        assert small.plan["q"].precision == precision
        assert cosine(runnable(small.model), tokens, sentences) > least


def test_openvino_has_static_int8_alone(tokens, sentences, cosine):
    fp32, small = quantize.candidates(tokens, sentences, target="openvino")
    assert (fp32.precision, small.precision) == ("fp32", "int8-static")
    assert {each.precision for each in small.plan.values()} == {"int8-static", "fp32"}
    onnx.checker.check_model(small.model, full_check=True)
    assert cosine(small.model, tokens, sentences) > 0.999


def test_a_plan_with_fewer_nodes_is_lowered_too(tokens, sentences):
    for target, precision in quantize.FORMS:
        _, *found = quantize.candidates(tokens, sentences, target=target, precision=precision)
        for candidate in found:
            lifted = candidate.plan | {"q": NodePlan(precision="fp32", reason="lifted")}
            assert candidate.lower is not None
            assert candidate.lower(candidate.plan) == candidate.model
            assert candidate.lower(lifted).ByteSize() > candidate.model.ByteSize()


def test_even_channels_lose_less(tokens, sentences, cosine):
    """An outlier in one channel of what the product reads costs all others their steps."""
    spread = [{"tokens": each["tokens"].copy()} for each in sentences]
    for each in spread:
        each["tokens"][..., 3] *= 300
    near, far = (
        quantize.candidates(tokens, spread, calibration=quantize.Calibration(transforms=each))[1]
        for each in (["smooth"], [])
    )
    assert cosine(near.model, tokens, spread) >= cosine(far.model, tokens, spread)


@pytest.mark.parametrize("target", ["cpu", "rtx"])
@pytest.mark.parametrize("transform", quantize.TRANSFORMS)
def test_each_transform_alone_keeps_what_is_computed(tokens, sentences, cosine, target, transform):
    calibration = quantize.Calibration(transforms=[transform])
    _, small, *_ = quantize.candidates(tokens, sentences, target=target, calibration=calibration)
    assert cosine(runnable(small.model), tokens, sentences) > 0.999


def test_biases_take_off_what_rounding_adds(tokens, sentences):
    """With few steps, rounding moves the product's mean; a plan that lifts it takes that back."""
    observer = Observer.parse("percentile:80")
    off = []
    for transforms in ([], ["bias"]):
        calibration = quantize.Calibration(observer=observer, transforms=transforms)
        _, static, *_ = quantize.candidates(tokens, sentences, calibration=calibration)
        rounded, whole = (open_model(each, threads=1) for each in (static.model, tokens))
        name = tokens.graph.output[0].name
        found = [rounded.run(each)[name] - whole.run(each)[name] for each in sentences]
        off.append(abs(np.concatenate(found).mean(axis=(0, 1))).max())
    assert off[1] < off[0]


def test_what_a_target_lacks_is_refused(tokens, sentences):
    with pytest.raises(UnknownNameError, match="a precision of target cpu must be one of int8"):
        quantize.candidates(tokens, sentences, precision="fp8")


@pytest.mark.parametrize("precision", ["int8-weights", "int4-weights"])
def test_convolutions_keep_their_weights(convolutions, images, precision):
    found = quantize.candidates(convolutions, images, target="rtx", precision=precision)
    assert [each.precision for each in found] == ["fp32"]


@pytest.mark.parametrize(
    ("target", "precision", "small"),
    [("cpu", "int8", "int8-static"), ("openvino", "int8", "int8-static"), ("rtx", "int8", "int8"),
     ("rtx", "fp8", "fp8")],
)  # fmt: skip
def test_a_given_plan_may_quantize_what_would_stay_fp32(
    convolutions, images, cosine, tmp_path, target, precision, small
):
    """The first export's ranges, of other tensors, are not in the way."""
    calibration = quantize.Calibration(work=tmp_path)
    first = quantize.candidates(
        convolutions, images, target=target, precision=precision, calibration=calibration
    )
    kept = [name for name, each in plan_nodes(convolutions).items() if each.precision == "fp32"]
    assert kept
    names = plan_nodes(convolutions)
    given = {name: NodePlan(precision=small, reason="I say so") for name in names}
    _, found = quantize.candidates(
        convolutions,
        images,
        target=target,
        precision=precision,
        calibration=calibration,
        given=given,
    )
    assert found.plan == given
    assert sum(node.op_type == "QuantizeLinear" for node in found.model.graph.node)
    assert cosine(runnable(found.model), convolutions, images) > 0.98
    assert model_sha256(found.model) not in {model_sha256(each.model) for each in first}


@pytest.mark.parametrize("few", [8, 3])
def test_outputs_are_left_once_by_a_pass_over_all_runs(tokens, tmp_path, monkeypatch, few):
    """Peaks of channels may be of a few."""
    runs = 8
    monkeypatch.setattr(peaks, "LEAST_VALUES", 2 * 20 * few)
    generator, seen = np.random.default_rng(0), []
    feeds = [{"tokens": generator.normal(size=(2, 20, 32)).astype(np.float32)} for _ in range(runs)]
    numbers, observe = {id(feed): number for number, feed in enumerate(feeds)}, quantize.observe

    def spied(model, some, tensors, *, outputs, **how):
        seen.append(([numbers[id(feed)] for feed in some], bool(outputs)))
        return observe(model, some, tensors, outputs=outputs, **how)

    monkeypatch.setattr(quantize, "observe", spied)
    places = [tmp_path / f"{number}" for number in range(runs)]
    quantize.candidates(
        tokens, feeds, target="rtx", calibration=quantize.Calibration(outputs=places)
    )
    (looked_at, left_by_peaks), (whole, left) = seen
    assert looked_at == {8: whole, 3: [1, 4, 6]}[few]
    assert whole == list(range(runs))
    assert (left_by_peaks, left) == (few == runs, True)
    engine = open_model(tokens, threads=1)
    for place, feed in zip(places, feeds, strict=True):
        for name, array in engine.run(feed).items():
            np.testing.assert_allclose(StoredArrays(place)[name], array, atol=1e-6)


def test_a_given_plan_may_mix_forms(tokens, sentences, cosine):
    _, static, dynamic = quantize.candidates(tokens, sentences)
    first, *_ = (name for name, each in static.plan.items() if each.precision == "int8-static")
    given = {**dynamic.plan, first: static.plan[first]}
    _, found = quantize.candidates(tokens, sentences, given=given)
    written = {node.op_type for node in found.model.graph.node}
    assert {"QuantizeLinear", "DynamicQuantizeLinear"} <= written
    assert cosine(found.model, tokens, sentences) > 0.999
    whole = {name: NodePlan(precision="fp32", reason="I say so") for name in given}
    assert len(quantize.candidates(tokens, sentences, given=whole)) == 1


def test_other_data_is_another_graph(tokens, sentences):
    louder = [{name: 2 * array for name, array in each.items()} for each in sentences]
    found = [quantize.candidates(tokens, feeds) for feeds in (sentences, sentences, louder)]
    digests = [model_sha256(static.model) for _, static, *_ in found]
    assert digests[0] == digests[1] != digests[2]
