"""Kernels by the nodes they were made of."""

from __future__ import annotations

import pytest

from saymask.calibration import quantize
from saymask.calibration.profiling import nodes_in_integers, profile
from saymask.runtime.errors import EngineError


def test_kernels_are_named_after_nodes(convolutions, images):
    fp32, static = quantize.candidates(convolutions, images)
    plain, small = profile([fp32.model, static.model], images[0], threads=1, rounds=2)
    assert sum(kernel.operator == "Conv" for kernel in plain) == 6
    assert sum(kernel.operator == "QLinearConv" for kernel in small) == 3
    assert min(kernel.least_ms for kernel in plain) >= 0
    assert not nodes_in_integers(plain, fp32.plan or static.plan)
    assert nodes_in_integers(small, static.plan) == {"wide", "narrow", "down"}


@pytest.mark.parametrize("which", [1, 2])
def test_products_run_in_integers(tokens, sentences, which):
    candidate = quantize.candidates(tokens, sentences)[which]
    [kernels] = profile([candidate.model], sentences[0], threads=1, rounds=1)
    assert nodes_in_integers(kernels, candidate.plan) == {"q", "k", "v", "out"}


def test_a_feed_that_does_not_fit(convolutions):
    with pytest.raises(EngineError, match="must run a graph to time its kernels; "):
        profile([convolutions], {}, threads=1, rounds=1)
