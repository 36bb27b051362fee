"""PyTorch computes a stage by name, compiled or not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saymask.export.graph import Stage
from saymask.export.torch_engine import TorchEngine, compiled
from saymask.runtime.errors import EngineError
from saymask.runtime.spec import StageSpec, TensorSpec


class _Subtraction(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return left - right, 100 * left


STAGE = Stage(
    name="subtraction",
    module=_Subtraction(),
    examples={"left": torch.zeros(2), "right": torch.zeros(2)},
    outputs=("rest", "percent"),
    varying={"left": {0: "n"}, "right": {0: "n"}},
)
FEED = {"right": np.float32([3, 2, 1]), "left": np.float32([1, 2, 5])}
"""In another order than the module takes them."""


def _tensors(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype="float32", shape=("n",)) for name in names)


SPEC = StageSpec(
    name="subtraction",
    file="",
    inputs=_tensors("left", "right"),
    outputs=_tensors("rest", "percent"),
    precision="fp32",
    reason="",
)


def test_arrays_go_by_name():
    engine = TorchEngine(STAGE, SPEC)
    outputs = engine.run(FEED)
    np.testing.assert_array_equal(outputs["rest"], [-2, 0, 4])
    np.testing.assert_array_equal(outputs["percent"], [100, 200, 500])
    assert (engine.device, engine.stage) == ("cpu", SPEC)


def test_wrong_inputs_are_named():
    engine = TorchEngine(STAGE, SPEC)
    with pytest.raises(EngineError, match="takes left, right; got left"):
        engine.run({"left": FEED["left"]})
    with pytest.raises(EngineError, match="'subtraction' failed in PyTorch"):
        engine.run({**FEED, "right": np.zeros(2, np.float32)})


def test_compiled_it_computes_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    outputs = TorchEngine(compiled(STAGE), SPEC).run(FEED)
    np.testing.assert_array_equal(outputs["rest"], [-2, 0, 4])


def test_without_a_compiler_it_says_so(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(EngineError, match="looked for no-such-compiler; install one"):
        compiled(STAGE)
