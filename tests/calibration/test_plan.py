"""What becomes INT8, and the reasons of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.calibration.plan import NodePlan, blocks, name_int8, only, plan_nodes
from saymask.runtime.errors import UsageError


def _integer(plan) -> list[str]:
    return [name for name, each in plan.items() if each.precision == "int8"]


def test_convolutions_inside_the_graph(convolutions):
    plan = plan_nodes(convolutions)
    assert _integer(plan) == ["wide", "narrow", "down"]
    assert plan["stem"].reason.startswith("reads the input")
    assert plan["depth"].reason.startswith("grouped")
    assert plan["last"].reason.startswith("no weighted node follows")
    assert plan["wide"] == NodePlan(precision="int8", reason="")


def test_products_with_constant_matrices(tokens):
    plan = plan_nodes(tokens)
    assert _integer(plan) == ["q", "k", "v", "out"]
    assert plan["mix"].reason == plan["logits"].reason == "it has no constant weights"


def test_what_has_no_integer_form(build):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        rest (float[2,4,8,8] x, float[4,4] m)
        => (float[2,4,16,16] a, float[2,4,8,8] b, float[4,4] c) {
          [up] a = ConvTranspose <strides=[2,2]> (x, up_w)
          [batched] b = MatMul (x, stack)
          [scaled] c = Gemm <alpha=0.5> (m, square)
        }
        """,
        up_w=np.ones((4, 4, 2, 2), np.float32),
        stack=np.ones((4, 8, 8), np.float32),
        square=np.ones((4, 4), np.float32),
    )
    plan = plan_nodes(model)
    assert not _integer(plan)
    assert plan["up"].reason == "ONNX Runtime has no integer kernel for it"
    assert plan["batched"].reason == "its weight is no matrix"
    assert plan["scaled"].reason == "it is more than a product and a sum"


def test_nodes_and_operators_are_kept_on_request(convolutions, tokens):
    plan = plan_nodes(convolutions, keep={"wide": "it hurt most"})
    assert plan["wide"] == NodePlan(precision="fp32", reason="it hurt most")
    assert _integer(plan) == ["narrow", "down"]
    assert not _integer(plan_nodes(tokens, keep={"MatMul": "none of them"}))


@pytest.mark.parametrize("name", ["nowhere", "stem_act", "Gelu"])
def test_only_weighted_nodes_can_be_kept(convolutions, name):
    with pytest.raises(UsageError, match=f"got '{name}'; the graph's nodes are stem, wide"):
        plan_nodes(convolutions, keep={name: "why not"})


def test_blocks_end_with_residual_sums(convolutions, tokens):
    first, second = blocks(convolutions)
    assert [node.name for node in first] == [
        "stem", "stem_act", "wide", "wide_act", "narrow", "shortcut",
    ]  # fmt: skip
    assert second[0].name == "down"
    [whole] = blocks(tokens)  # Adding a bias is no residual.
    assert len(whole) == len(tokens.graph.node)


def test_int8_is_given_a_form_and_taken_apart_again(convolutions):
    plan = plan_nodes(convolutions)
    static = name_int8(plan, "int8-static")
    assert static["wide"] == NodePlan(precision="int8-static", reason="")
    assert static["stem"] == plan["stem"]
    assert only(static, "int8-static") == plan
    assert not _integer(only(static, "int8-dynamic"))
    lifted = static | {"wide": NodePlan(precision="fp16", reason="it hurt")}
    assert _integer(only(lifted, "int8-static")) == ["narrow", "down"]
    assert only(lifted, "int8-static")["wide"].precision == "fp32"
