"""ModelOpt runs in an environment of its own, and what it returns is checked.

The tests of ModelOpt itself take that environment; the lines that make it are `COMMANDS`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from saymask.calibration.modelopt import COMMANDS, PYTHON, modelopt_candidate, modelopt_candidates
from saymask.calibration.plan import NodePlan, plan_nodes
from saymask.calibration.qdq import pairs, rounded_nodes, runnable
from saymask.calibration.quantize import Calibration
from saymask.calibration.ranges import Range
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors
from saymask.runtime.errors import EngineError, MissingExtraError, UnknownNameError, UsageError


@pytest.fixture(scope="module")
def modelopt_python(pytestconfig) -> Path:
    """Interpreter of ModelOpt's environment."""
    given = pytestconfig.getoption("--modelopt-python", default=None)
    python = given or pytestconfig.rootpath / PYTHON
    if not python.is_file():
        pytest.skip(f"no ModelOpt at {python}; make it with: {'; '.join(COMMANDS)}")
    return python


@pytest.fixture
def interpreter(tmp_path):
    """Makes an executable that is started like Python, with the job's folder as third argument."""

    def interpreter(script: str) -> Path:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return interpreter


@pytest.fixture
def answer(interpreter, tmp_path):
    """Makes an executable that returns a graph whatever it is given."""

    def answer(model: onnx.ModelProto) -> Path:
        path = tmp_path / "answer.onnx"
        onnx.save(model, path)
        return interpreter(f'cp {shlex.quote(str(path))} "$3/quantized.onnx"')

    return answer


@pytest.fixture
def lowered(convolutions) -> onnx.ModelProto:
    """A Q/DQ graph of `convolutions`."""
    plan = plan_nodes(convolutions)
    names = symmetric_tensors(convolutions, plan, element="int8")
    ranges = dict.fromkeys(names, Range(low=-4, high=4))
    return lower_symmetric(convolutions, plan, ranges, element="int8")


def test_no_interpreter(convolutions, images, tmp_path):
    with pytest.raises(MissingExtraError, match="No such file") as caught:
        modelopt_candidate(convolutions, images, element="int8", python=tmp_path / "python")
    assert all(line in str(caught.value) for line in COMMANDS)


def test_an_interpreter_without_modelopt(convolutions, images):
    with pytest.raises(MissingExtraError, match="No module named 'modelopt'") as caught:
        modelopt_candidate(convolutions, images, element="int8", python=Path(sys.executable))
    assert all(line in str(caught.value) for line in COMMANDS)


def test_what_it_says_last_is_told(convolutions, images, interpreter):
    python = interpreter("seq 1 20; echo >&2 'no room'; exit 1")
    with pytest.raises(EngineError, match=r"code 1 and said: 17 \| 18 \| 19 \| 20 \| no room; "):
        modelopt_candidate(convolutions, images, element="int8", python=python)


def test_it_must_write_a_graph(convolutions, images, interpreter):
    with pytest.raises(EngineError, match="ended with code 0 and said: nothing"):
        modelopt_candidate(convolutions, images, element="fp8", python=interpreter("true"))


def test_a_graph_comes_back_with_its_plan(convolutions, images, answer, lowered):
    lines: list[str] = []
    found = modelopt_candidate(
        convolutions, images, element="int8", python=answer(lowered), say=lines.append
    )
    assert lines == ["modelopt quantizes to int8 (max) over 4 runs"]
    assert found.precision == "int8"
    assert found.plan["wide"] == NodePlan(precision="int8", reason="")
    assert found.plan["depth"].reason == "ModelOpt leaves it in floating point"
    assert list(found.plan) == list(plan_nodes(convolutions))
    assert list(found.model.graph.input) == list(convolutions.graph.input)


@pytest.mark.parametrize("side", ["input", "output"])
def test_other_inputs_or_outputs(convolutions, images, answer, lowered, side):
    getattr(lowered.graph, side)[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(EngineError, match=f"must leave the graph's {side}s as they are"):
        modelopt_candidate(convolutions, images, element="int8", python=answer(lowered))


def test_calls_without_sense(convolutions, images):
    python = Path(sys.executable)
    with pytest.raises(UnknownNameError, match="element must be one of fp8, int8; got 'int4'"):
        modelopt_candidate(convolutions, images, element="int4", python=python)
    with pytest.raises(UnknownNameError, match="method for fp8 must be one of max; got 'entropy'"):
        modelopt_candidate(convolutions, images, element="fp8", method="entropy", python=python)
    with pytest.raises(UsageError, match="must see real inputs, .* got none"):
        modelopt_candidate(convolutions, [], element="int8", python=python)


def _lifted(plan: dict[str, NodePlan], *names: str) -> dict[str, NodePlan]:
    lifted = NodePlan(precision="fp32", reason="lifted: it hurt")
    return {**plan, **dict.fromkeys(names, lifted)}


def test_what_is_lifted_reads_nothing_rounded(convolutions, images, answer, lowered, tmp_path):
    fp32, small = modelopt_candidates(
        convolutions,
        images,
        precision="int8",
        calibration=Calibration(folder=tmp_path),
        python=answer(lowered),
    )
    assert (fp32.precision, small.precision) == ("fp32", "int8")
    assert small.lower is not None
    assert rounded_nodes(small.lower(small.plan)) == {"wide", "narrow", "down"}
    part = small.lower(_lifted(small.plan, "narrow"))
    assert rounded_nodes(part) == {"wide", "down"}
    assert pairs(part) == 2
    none = small.lower(_lifted(small.plan, "wide", "narrow", "down"))
    assert list(none.graph.node) == list(convolutions.graph.node)


def test_a_graph_in_which_it_quantizes_nothing_is_no_candidate(convolutions, images, answer):
    (only,) = modelopt_candidates(
        convolutions,
        images,
        precision="fp8",
        calibration=Calibration(),
        python=answer(convolutions),
    )
    assert only.precision == "fp32"


@pytest.mark.parametrize("tokens", ["phrases"], indirect=True)
def test_modelopts_sums_are_restored_too(modelopt_python, tokens, sentences, cosine):
    _, small = modelopt_candidates(
        tokens,
        sentences,
        precision="int8",
        calibration=Calibration(),
        python=modelopt_python,
    )
    assert small.lower is not None
    taken = [name for name, each in small.plan.items() if each.precision == "int8"]
    assert taken
    restored = small.lower(_lifted(small.plan, *taken))
    assert pairs(restored) == 0
    assert cosine(restored, tokens, sentences) > 1 - 1e-6


def test_modelopt_on_convolutions(modelopt_python, convolutions, images, cosine):
    found = modelopt_candidate(
        convolutions, images, element="int8", method="entropy", python=modelopt_python
    )
    assert found.plan["wide"].precision == "int8"
    assert cosine(found.model, convolutions, images) > 0.99
    assert TensorProto.INT8 in {tensor.data_type for tensor in found.model.graph.initializer}


@pytest.mark.parametrize("tokens", ["phrases"], indirect=True)
def test_modelopt_on_other_numbers_of_phrases(modelopt_python, tokens, sentences, cosine):
    feeds = [{"tokens": feed["tokens"][: 1 + at % 2]} for at, feed in enumerate(sentences)]
    found = modelopt_candidate(tokens, feeds, element="fp8", python=modelopt_python)
    assert found.plan["q"].precision == "fp8"
    assert cosine(runnable(found.model), tokens, feeds) > 0.995
    assert TensorProto.FLOAT8E4M3FN in {
        tensor.data_type for tensor in found.model.graph.initializer
    }
