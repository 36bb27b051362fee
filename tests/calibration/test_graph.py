"""Opening a model changes nothing; closing it keeps what is read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from saymask.calibration.graph import Graph, attribute
from saymask.runtime.errors import UsageError


def test_a_round_trip_is_the_same_model(convolutions):
    before = convolutions.SerializeToString()
    again = Graph(convolutions).model()
    onnx.checker.check_model(again, full_check=True)
    assert list(again.graph.node) == list(convolutions.graph.node)
    assert list(again.graph.initializer) == [
        tensor for tensor in convolutions.graph.initializer if tensor.name != "down_b"
    ], "down_b is read by nothing"
    assert again.opset_import == convolutions.opset_import
    assert again.ir_version == convolutions.ir_version
    assert convolutions.SerializeToString() == before


def test_edits_stay_out_of_the_source(convolutions):
    before = convolutions.SerializeToString()
    graph = Graph(convolutions)
    graph.nodes[0].op_type = "Changed"
    graph.add("stem_w", np.zeros(3, np.float32))
    assert convolutions.SerializeToString() == before


def test_names_are_free_and_constants_true(convolutions):
    graph = Graph(convolutions)
    assert graph.fresh("new") == "new"
    assert graph.fresh("new") == "new_1"
    name = graph.add("stem_w", np.float32(2.5))
    assert name == "stem_w_1"
    assert graph.array(name) == 2.5
    assert graph.array(name).shape == ()


def test_readers_and_extents(tokens):
    graph = Graph(tokens)
    assert [node.name for node in graph.readers()["n"]] == ["q", "k", "v"]
    assert "states" not in graph.readers()
    assert graph.extents()["kt"][1:] == (32, 20)
    assert graph.extents()["kt"][0] in (0, 2)


def test_other_outputs_drop_what_they_do_not_need(convolutions):
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    part = Graph(convolutions).model([value])
    assert [node.name for node in part.graph.node] == ["stem", "stem_act"]
    assert [tensor.name for tensor in part.graph.initializer] == ["stem_w", "stem_b"]


def test_exporters_notes_are_left_behind(convolutions):
    noted = onnx.ModelProto.FromString(convolutions.SerializeToString())
    noted.graph.node[0].metadata_props.add(key="stack_trace", value="File model.py")
    noted.graph.node[0].doc_string = "File model.py"
    assert b"model.py" not in Graph(noted).model().SerializeToString()


def test_attributes(convolutions):
    depth = next(node for node in convolutions.graph.node if node.name == "depth")
    assert attribute(depth, "group", 1) == 32
    assert attribute(depth, "dilations", "absent") == "absent"


@pytest.mark.parametrize("name", ["", "stem"])
def test_nodes_need_names_of_their_own(convolutions, name):
    model = onnx.ModelProto.FromString(convolutions.SerializeToString())
    model.graph.node[3].name = name
    with pytest.raises(UsageError, match="every node must have a name of its own"):
        Graph(model)


def test_graphs_must_be_flat(build):
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        branch (bool c) => (float[1] y) {
          [choice] y = If (c) <
            then_branch = yes () => (float[1] a) { a = Constant <value_floats=[1.0]> () },
            else_branch = no () => (float[1] b) { b = Constant <value_floats=[2.0]> () }
          >
        }
        """
    )
    with pytest.raises(UsageError, match="graphs must be flat; node 'choice'"):
        Graph(model)
