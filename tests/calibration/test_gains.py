"""INT8 stays where it gains time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from saymask.calibration import gains
from saymask.calibration.gains import block_times, drop_slow
from saymask.calibration.lowering import lower_cpu
from saymask.calibration.plan import NodePlan, blocks, only
from saymask.calibration.profiling import Kernel
from saymask.calibration.quantize import Candidate
from saymask.calibration.ranges import observe
from saymask.calibration.session import executed_ops
from saymask.calibration.static import quantized_tensors


def _kernel(name: str, ms: float) -> Kernel:
    return Kernel(name=name, operator="Conv", least_ms=ms)


def test_times_go_to_the_block_of_a_node_or_tensor(convolutions):
    kernels = [
        _kernel("ReorderInput", 1),  # Before everything: the first block.
        _kernel("a_nchwc", 2),
        _kernel("wide_token_12", 4),
        _kernel("f_quantize", 8),
        _kernel("down", 16),
        _kernel("Transpose_token_3", 32),
        _kernel("g_dequantize/duplicated_token_4", 64),
    ]
    assert block_times(blocks(convolutions), kernels) == [7, 120]


@pytest.fixture(scope="module")
def uneven(build) -> onnx.ModelProto:
    """A convolution that is quicker in INT8, a residual sum, and a grouped one that is not."""
    generator = np.random.default_rng(0)
    return build(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        net (float[1,64,32,32] x) => (float[1,64,32,32] y) {
          [dense] a = Conv <pads=[1,1,1,1]> (x, dense_w)
          [sum] b = Add (x, a)
          [act] c = Gelu (b)
          [grouped] d = Conv <pads=[1,1,1,1], group=16> (c, grouped_w)
          [last] y = Gelu (d)
        }
        """,
        dense_w=generator.normal(size=(64, 64, 3, 3)).astype(np.float32),
        grouped_w=generator.normal(size=(64, 4, 3, 3)).astype(np.float32),
    )


@pytest.fixture
def drop(uneven) -> Callable[[], tuple]:
    """Drops what is slow of `uneven` in static INT8."""
    feeds = [{"x": np.random.default_rng(1).normal(size=(1, 64, 32, 32)).astype(np.float32)}]
    plan = dict.fromkeys(("dense", "grouped"), NodePlan(precision="int8-static", reason=""))
    tensors = quantized_tensors(uneven, only(plan, "int8-static"))
    histograms = observe(uneven, feeds, tensors)
    ranges = {name: histogram.range(100) for name, histogram in histograms.items()}

    def lower(wanted) -> onnx.ModelProto:
        return lower_cpu(uneven, wanted, ranges)

    fp32 = Candidate(precision="fp32", model=uneven, plan={})
    whole = Candidate(precision="int8-static", model=lower(plan), plan=plan, lower=lower)
    return lambda: (whole, drop_slow(fp32, whole, uneven, feeds, threads=1, rounds=9))


def test_a_block_that_is_no_quicker_goes_back(drop):
    whole, kept = drop()
    assert kept.precision == "int8-static"
    assert kept.plan["dense"] == whole.plan["dense"]
    assert kept.plan["grouped"].precision == "fp32"
    assert kept.plan["grouped"].reason.startswith("no gain: its block takes ")
    assert executed_ops(kept.model)["QLinearConv"] == 1


def test_nothing_is_dropped_where_all_is_quicker(drop, monkeypatch):
    times_ms = iter([[2.0, 2.0], [1.0, 1.0]])
    monkeypatch.setattr(gains, "block_times", lambda parts, kernels: next(times_ms))
    whole, kept = drop()
    assert kept is whole
