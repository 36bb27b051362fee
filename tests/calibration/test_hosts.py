"""What runs a graph here also tells which of its nodes became integer kernels."""

from __future__ import annotations

import sys
from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest

from saymask.calibration import quantize
from saymask.calibration.hosts import HOSTS, ONNXRUNTIME, OPENVINO, host_of
from saymask.calibration.quantize import FORMS
from saymask.runtime.backends.openvino import core
from saymask.runtime.engine import BACKENDS
from saymask.runtime.errors import MissingExtraError

needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")


def test_every_target_has_one():
    found = {target: host_of(target) for target, _ in FORMS}
    assert found.pop("openvino") is OPENVINO
    assert set(found.values()) == {ONNXRUNTIME}
    assert set(HOSTS) <= set(BACKENDS)


@needs_openvino
def test_both_compute_the_same(tokens, sentences):
    found = []
    for host in HOSTS.values():
        with closing(host.open(tokens, threads=1)) as engine:
            found.append(engine.run(sentences[0])["states"])
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "taken"),
    [("cpu", 1), ("cpu", 2), pytest.param("openvino", 1, marks=needs_openvino)],
)
def test_nodes_in_integers_go_by_their_names(tokens, sentences, target, taken):
    candidate = quantize.candidates(tokens, sentences, target=target)[taken]
    names = ["q", "k", "v", "out", "another"]
    found = host_of(target).integer_nodes(candidate.model, sentences[0], names)
    assert found == {"q", "k", "v", "out"}
    assert not host_of(target).integer_nodes(tokens, sentences[0], names)


@needs_openvino
def test_convolutions_go_by_their_names_in_openvino(convolutions, images):
    fp32, static = quantize.candidates(convolutions, images, target="openvino")
    planned = {name for name, each in static.plan.items() if each.precision == "int8-static"}
    assert planned
    assert OPENVINO.integer_nodes(static.model, images[0], static.plan) == planned
    assert OPENVINO.integer_nodes(fp32.model, images[0], static.plan) == set()


@needs_openvino
def test_openvino_makes_what_follows_convolutions_part_of_them(convolutions, images, cosine):
    _, static = quantize.candidates(convolutions, images, target="openvino")
    model = core().read_model(static.model.SerializeToString())
    compiled = core().compile_model(model, "CPU")
    kernels = [
        op.get_rt_info()["originalLayersNames"].astype(str)
        for op in compiled.get_runtime_model().get_ops()
    ]
    for convolution, after in (("narrow", "shortcut"), ("down", "down_act")):
        assert any({convolution, after} <= set(names.split(",")) for names in kernels)
    assert cosine(static.model, convolutions, images) > 0.999


def test_without_its_library(tokens, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"saymask\[openvino\]"):
        OPENVINO.open(tokens, threads=1)


@needs_openvino
def test_openvino_takes_what_a_concat_makes(build):
    """A zero point of its own for each of the joined parts is what it refuses."""
    generator = np.random.default_rng(0)
    model = build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        joined (float[phrases,2,8] words) => (float[phrases,6,8] y) {
          [size] s = Shape <start=0, end=1> (words)
          [extents] e = Concat <axis=0> (s, each)
          [all] t = Expand (tokens, e)
          [join] j = Concat <axis=1> (t, words)
          [product] m = MatMul (j, matrix)
          [bias] y = Add (m, offset)
        }
        """,
        each=np.array([4, 8]),
        tokens=generator.normal(size=(1, 4, 8)).astype(np.float32),
        matrix=generator.normal(size=(8, 8)).astype(np.float32),
        offset=generator.normal(size=8).astype(np.float32),
    )
    feeds = [{"words": generator.normal(size=(2, 2, 8), loc=1).astype(np.float32)}]
    _, static = quantize.candidates(model, feeds, target="openvino")
    assert OPENVINO.integer_nodes(static.model, feeds[0], ["product"]) == {"product"}
    found, expected = (
        OPENVINO.open(each, threads=1).run(feeds[0])["y"] for each in (static.model, model)
    )
    np.testing.assert_allclose(found, expected, atol=0.15)
