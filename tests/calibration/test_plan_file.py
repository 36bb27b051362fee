"""A plan as a file: the same after a round trip, and refused in words when it does not fit."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import onnx
import pytest

from saymask.calibration.plan import NodePlan, name_int8, plan_nodes
from saymask.calibration.plan_file import (
    Plan,
    StagePlan,
    check_plan,
    check_wanted,
    model_sha256,
    plan_from_text,
    read_plan,
    text_from_plan,
)
from saymask.calibration.quantize import candidates, node_precisions, plannable
from saymask.runtime.errors import InputError, SaymaskError


@pytest.fixture
def plan(convolutions) -> Plan:
    nodes = name_int8(plan_nodes(convolutions, keep={"wide": "lifted: it hurt"}), "int8-static")
    stage = StagePlan(graph_sha256=model_sha256(convolutions), nodes=nodes)
    return Plan(system="evf-sam", variant="tiny", target="cpu", stages={"image": stage})


def _check(plan: Plan, model: onnx.ModelProto, precision: str = "int8", **other: str) -> None:
    made_for = {"system": "evf-sam", "variant": "tiny", "target": "cpu", **other}
    check_wanted(plan, **made_for, precisions=node_precisions(made_for["target"], precision))
    check_plan(plan, {"image": model})


def test_the_round_trip_is_exact(plan, convolutions, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text_from_plan(plan), "utf-8")
    found = read_plan(path)
    assert found == plan
    assert list(found.stages["image"].nodes) == list(plan_nodes(convolutions))
    assert text_from_plan(found) == path.read_text("utf-8")
    _check(found, convolutions)


def test_a_person_reads_it(plan):
    data = json.loads(text_from_plan(plan))
    assert data["plan_version"] == 1
    nodes = data["stages"]["image"]["nodes"]
    assert nodes["wide"] == {"precision": "fp32", "reason": "lifted: it hurt"}
    assert nodes["narrow"] == {"precision": "int8-static", "reason": ""}


def _edited(plan: Plan, *path: str, value: object) -> str:
    data = json.loads(text_from_plan(plan))
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["plan_version"], 2, "must have plan_version 1, which this saymask reads; got 2"),
        (["plan_version"], None, "must have plan_version 1, .* got None"),
        (["target"], "gpu", "target of p.json must be one of cpu, openvino, rtx, .*; got 'gpu'"),
        (["variant"], None, r"p.json must have the fields .*variant \(str\), target .* got plan_v"),
        (["author"], "me", "got plan_version, system, variant, target, stages, author"),
        (["stages"], [], r"stages \(dict\); got "),
        (["stages", "image"], 3, r"stage 'image' must have the fields graph_sha256 .* got 3"),
        (["stages", "image", "nodes", "wide"], "int8", "node wide must have the fields precision"),
        (["stages", "image", "nodes", "wide", "reason"], 1, "node wide must have the fields "),
    ],
)
def test_what_is_not_so_written(plan, path, value, message):
    with pytest.raises(SaymaskError, match=message):
        plan_from_text(_edited(plan, *path, value=value), origin="p.json")


@pytest.mark.parametrize("text", ["", "{", "[1,"])
def test_what_is_no_json(text):
    with pytest.raises(InputError, match=r"^p.json must be a plan in JSON; .*; correct it, or exp"):
        plan_from_text(text, origin="p.json")


@pytest.mark.parametrize("text", ["[]", "null", '"plan"'])
def test_what_is_no_object(text):
    with pytest.raises(InputError, match="must have plan_version 1"):
        plan_from_text(text, origin="p.json")


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="a plan must be a readable file; .*nowhere.json is not"):
        read_plan(tmp_path / "nowhere.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="bytes.json is not"):
        read_plan(tmp_path / "bytes.json")


@pytest.mark.parametrize(
    ("part", "value"), [("system", "lisa"), ("variant", "large"), ("target", "rtx")]
)
def test_a_plan_for_something_else(plan, convolutions, part, value):
    with pytest.raises(InputError, match=f"must be for the {part} {value}; it is for "):
        _check(plan, convolutions, **{part: value})


def test_a_plan_for_another_graph(plan, tokens):
    found = model_sha256(tokens)
    with pytest.raises(InputError, match=f"graph_sha256 is {found}; it is for ") as caught:
        _check(plan, tokens)
    assert plan.stages["image"].graph_sha256 in str(caught.value)


def test_a_stage_that_there_is_not(plan, convolutions):
    other = replace(plan, stages={"picture": plan.stages["image"]})
    with pytest.raises(InputError, match="got picture; the system's are image; "):
        _check(other, convolutions)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"far": "fp32", "away": "fp32"}, "nodes of stage 'image' .* got away, far; it has stem, "),
        ({"stem_act": "fp32"}, "got stem_act; it has stem, "),
        ({"wide": "int8"}, "on cpu: fp32, int8-static, int8-dynamic; got wide of stage 'image' "),
        ({"wide": "fp16"}, "got wide of stage 'image' 'fp16'; ask for the precision that"),
        (dict.fromkeys("abcde", "x"), "a of .*, b of .*, c of stage 'image' 'x' and 2 more such; "),
        ({"wide": "int8-dynamic"}, "gives wide 'int8-dynamic': dynamic scales are for products"),
    ],
)
def test_nodes_and_precisions_that_there_are_not(plan, convolutions, edits, message):
    stage = plan.stages["image"]
    nodes = {**stage.nodes}
    nodes |= {name: NodePlan(precision=precision, reason="") for name, precision in edits.items()}
    edited = replace(plan, stages={"image": replace(stage, nodes=nodes)})
    with pytest.raises(InputError, match=message):
        _check(edited, convolutions)


def test_a_product_without_weights_cannot_be_int8(tokens):
    nodes = {"mix": NodePlan(precision="int8-static", reason="I want it")}
    stage = StagePlan(graph_sha256=model_sha256(tokens), nodes=nodes)
    plan = Plan(system="evf-sam", variant="tiny", target="cpu", stages={"image": stage})
    with pytest.raises(InputError, match="gives mix 'int8-static': it has no constant weights; "):
        _check(plan, tokens)


@pytest.mark.parametrize("target", ["rtx", "tensorrt"])
@pytest.mark.parametrize("precision", ["int8", "fp8", "int8-weights", "int4-weights"])
def test_every_precision_of_tensorrt_comes_back(tokens, sentences, target, precision):
    model = plannable(tokens)
    _, small = candidates(tokens, sentences, target=target, precision=precision)
    stage = StagePlan(graph_sha256=model_sha256(model), nodes=small.plan)
    plan = Plan(system="evf-sam", variant="tiny", target=target, stages={"image": stage})
    found = plan_from_text(text_from_plan(plan), origin="p.json")
    assert found == plan
    assert precision in {each.precision for each in found.stages["image"].nodes.values()}
    _check(found, model, target=target, precision=precision)
    other = "fp8" if precision == "int8" else "int8"
    with pytest.raises(InputError, match=f"on {target}: fp32, {other}; got .* '{precision}'"):
        _check(found, model, target=target, precision=other)


def test_small_weights_alone_are_for_products(plan, convolutions):
    nodes = {"wide": NodePlan(precision="int4-weights", reason="I want it")}
    stage = replace(plan.stages["image"], nodes=nodes)
    with pytest.raises(InputError, match="'int4-weights': small weights alone are for products"):
        _check(
            replace(plan, target="rtx", stages={"image": stage}),
            convolutions,
            "int4-weights",
            target="rtx",
        )


def test_a_graph_is_known_by_what_it_computes(convolutions):
    known = model_sha256(convolutions)
    noted, renamed, heavier, turned, older = (copy.deepcopy(convolutions) for _ in range(5))
    noted.graph.node[0].doc_string = "exported at noon"
    assert model_sha256(noted) == known
    renamed.graph.node[0].name = "other"
    weight = heavier.graph.initializer[0]
    weight.raw_data = weight.raw_data[:-1] + b"\x17"
    turned.graph.node[0].attribute[0].ints[0] += 1
    older.opset_import[0].version = 19
    assert known not in map(model_sha256, (renamed, heavier, turned, older))
