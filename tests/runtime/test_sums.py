"""Whoever opens 8-bit products where their sums may overflow is told, with either engine."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import onnx
import pytest

from saymask.runtime import sums
from saymask.runtime.bundle import Bundle
from saymask.runtime.engine import open_graph
from saymask.runtime.spec import WEIGHT_BITS


@pytest.fixture(params=["onnxruntime", "openvino"])
def told(request, tiny_bundle, tmp_path, monkeypatch, caplog):
    """Opens an image stage as if on some processor; returns what was said so far."""
    if not find_spec(request.param):
        pytest.skip(f"{request.param} is not installed")
    bundle = Bundle.read(tiny_bundle)
    sums._warn.cache_clear()

    def told(precision: str, *, overflow: bool = True, bits: str | None = None) -> list[str]:
        monkeypatch.setattr(sums, "sums_overflow", lambda: overflow)
        stage = replace(bundle.stage("image"), precision=precision)
        model = onnx.load(bundle.folder / stage.file)
        if bits:
            onnx.helper.set_model_props(model, {WEIGHT_BITS: bits})
        onnx.save(model, tmp_path / "image.onnx")
        open_graph(
            tmp_path / "image.onnx", stage, backend=request.param, device="cpu", threads=1
        ).close()
        return [record.getMessage() for record in caplog.records]

    yield told
    sums._warn.cache_clear()


def test_no_word_of_sums_that_hold(told):
    assert (
        told("fp32") == told("int8-static", overflow=False) == told("int8-static", bits="7") == []
    )


@pytest.mark.parametrize("bits", [None, "8"])
def test_sums_that_may_overflow_are_told_once(told, bits):
    for _ in range(2):
        [message] = told("int8-dynamic", bits=bits)
        assert "has no VNNI and adds 8-bit products in 16 bits" in message
        assert "export it on this machine or with --weight-bits 7" in message
