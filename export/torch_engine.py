"""PyTorch runs a stage, as it is or compiled by `torch.compile`: what bundles are compared with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from ..runtime.engine import check_inputs
from ..runtime.errors import EngineError
from ..runtime.spec import StageSpec
from .graph import Stage

__all__ = ["TorchEngine", "compiled"]


class TorchEngine:
    """A stage's module in FP32 on the CPU."""

    def __init__(self, module: Stage, stage: StageSpec) -> None:
        """Take a module that computes `stage`."""
        self.stage = stage
        self.device = "cpu"
        self._module = module.module.eval()
        self._inputs = list(module.examples)

    @torch.no_grad()
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the stage's outputs, by name, from its inputs, by name.

        Raises:
            EngineError: The inputs do not fit the stage, or the computation failed.
        """
        check_inputs(self.stage, inputs)
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._inputs]
        try:
            results = self._module(*tensors)
        except Exception as error:
            raise EngineError(f"stage {self.stage.name!r} failed in PyTorch: {error}") from error
        results = results if isinstance(results, tuple) else (results,)
        names = [tensor.name for tensor in self.stage.outputs]
        return {name: result.numpy() for name, result in zip(names, results, strict=True)}

    def close(self) -> None:
        """Keep nothing; the module belongs to whoever made it."""


def compiled(stage: Stage) -> Stage:
    """Return a stage that `torch.compile` compiles on its first run.

    Raises:
        EngineError: There is no C++ compiler.
    """
    from torch._inductor import config

    names = [name for name in config.cpp.cxx if name]
    if not any(map(shutil.which, names)):
        raise EngineError(
            f"torch.compile must find a C++ compiler; looked for {', '.join(names)}; "
            "install one or leave torch.compile out"
        )
    return replace(stage, module=torch.compile(stage.module.eval()))
