import gc
import logging
import weakref

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

from saymask.calibration.session import open_model
from saymask.export.graph import IR_VERSION, OPSET, Stage, trace

LOG = logging.getLogger("torch.onnx._internal.exporter._registration")
"""Where the exporter complains of a missing torchvision."""


class _Mixer(nn.Module):
    """Words look at a picture; without words nothing can be inferred from the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        words = self.drop(self.words(token_ids))
        return words.mean(1) * self.norm(image).mean(), nn.functional.gelu(words)


def _stage() -> Stage:
    torch.manual_seed(0)
    return Stage(
        name="mixer",
        module=_Mixer(),
        examples={"image": torch.ones(1, 3, 2, 5), "token_ids": torch.full((2, 8), 3)},
        outputs=("prompt", "states"),
        varying={"token_ids": {0: "phrases", 1: "tokens"}},
    )


@pytest.fixture(scope="module")
def stage() -> Stage:
    return _stage()


@pytest.fixture(scope="module")
def graph(stage) -> ModelProto:
    return trace(stage)


def _axes(values) -> dict[str, list[int | str]]:
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_tensors_have_their_names_and_varying_axes_theirs(graph):
    assert _axes(graph.graph.input) == {
        "image": [1, 3, 2, 5],
        "token_ids": ["phrases", "tokens"],
    }
    assert _axes(graph.graph.output) == {
        "prompt": ["phrases", 4],
        "states": ["phrases", "tokens", 4],
    }


def test_the_format_is_the_one_that_old_runtimes_read(graph):
    assert graph.ir_version == IR_VERSION
    assert [(each.domain, each.version) for each in graph.opset_import] == [("", OPSET)]
    assert {node.domain for node in graph.graph.node} == {""}
    assert sum(node.op_type == "Gelu" for node in graph.graph.node) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (7, 1), (600, 3)])
def test_varying_axes_take_any_extent(graph, stage, size):
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, 3, 2, 5)).astype(np.float32)
    token_ids = generator.integers(0, 9, size)
    found = open_model(graph, threads=1).run({"image": image, "token_ids": token_ids})
    eager = stage.module.eval()(torch.from_numpy(image), torch.from_numpy(token_ids))
    for name, expected in zip(stage.outputs, eager, strict=True):
        np.testing.assert_allclose(found[name], expected.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_trace_keeps_no_weights():
    weights = weakref.WeakSet()
    for _ in range(2):
        stage = _stage()
        weights.update(stage.module.parameters())
        trace(stage)
        del stage
        gc.collect()
        assert not list(weights)


def test_tracing_is_silent_and_leaves_the_log_as_it_was(caplog):
    before = LOG.level
    LOG.addHandler(caplog.handler)
    try:
        trace(_stage())
    finally:
        LOG.removeHandler(caplog.handler)
    assert not [each for each in caplog.records if each.name == LOG.name]
    assert LOG.level == before


def test_a_trace_that_fails_leaves_the_log_as_it_was():
    class Undecided(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image if image.sum() > 0 else -image

    before = LOG.level
    stage = Stage(
        name="undecided",
        module=Undecided(),
        examples={"image": torch.ones(2)},
        outputs=("same",),
        varying={},
    )
    with pytest.raises(torch.onnx.errors.OnnxExporterError):
        trace(stage)
    assert LOG.level == before
