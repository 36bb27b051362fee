"""Commands for the device, and the error where somebody opens the folder here."""

from __future__ import annotations

from pathlib import Path

import pytest

from saymask.runtime.errors import DeviceError, EngineError, UnknownNameError, UsageError
from saymask.runtime.language.opening import open_language
from saymask.runtime.language.quantized_folder import ALGORITHMS
from saymask.runtime.language.tensorrt_llm import commands_by_device, device_commands

from . import quantized_folders


def test_a_gpu_serves_the_folder():
    (command,) = device_commands(Path("my model"), precision="fp8", device="gpu", context_tokens=99)
    assert command == "trtllm-serve 'my model' --max_seq_len 99"


def test_a_jetson_builds_an_engine():
    export, build = device_commands(Path("a/b"), precision="int4-awq", device="jetson-orin")
    assert export == "tensorrt-edgellm-export a/b a/b-onnx"
    assert build == (
        "./build/examples/llm/llm_build --onnxDir a/b-onnx/llm --engineDir a/b-engine "
        "--maxBatchSize 1 --maxInputLen 4096 --maxKVCacheCapacity 4096"
    )


@pytest.mark.parametrize("precision", ALGORITHMS)
def test_a_thor_runs_every_precision(precision):
    assert len(device_commands(Path("a"), precision=precision, device="jetson-thor")) == 2


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"precision": "int8-sq"},
            DeviceError,
            "gpu must have a runtime for int8-sq; TensorRT-LLM",
        ),
        ({"device": "jetson-orin"}, DeviceError, "Orin has no FP8 arithmetic; take int4-awq or"),
        ({"precision": "int8"}, UnknownNameError, "one of fp8, int4-awq, int8-sq; got 'int8'"),
        ({"device": "tpu"}, UnknownNameError, "one of gpu, jetson-orin, jetson-thor; got 'tpu'"),
        ({"context_tokens": 0}, UsageError, "must be at least 1; got 0"),
    ],
)
def test_what_does_not_go_together(changes, error, said):
    with pytest.raises(error, match=said):
        device_commands(Path("a"), **{"precision": "fp8", "device": "gpu", **changes})


def test_a_device_without_a_runtime_has_no_commands():
    found = commands_by_device(Path("a"), precision="int8-sq")
    assert list(found) == ["jetson-orin", "jetson-thor"]
    assert found["jetson-orin"] == device_commands(
        Path("a"), precision="int8-sq", device="jetson-orin"
    )


def test_opening_says_where_it_runs(tmp_path):
    folder = quantized_folders.write(tmp_path / "language", "fp8")
    with pytest.raises(DeviceError) as caught:
        open_language(folder, context_tokens=64, backend="reference")
    said = str(caught.value)
    assert "in fp8 for TensorRT-LLM and TensorRT Edge-LLM, which saymask writes" in said
    assert f"start it on gpu 'trtllm-serve {folder} --max_seq_len 4096'; " in said
    assert "on jetson-thor 'tensorrt-edgellm-export " in said
    assert "jetson-orin" not in said


def test_opening_another_folder(tmp_path):
    with pytest.raises(EngineError, match="must be a GGUF file; .* is a folder; give the file in"):
        open_language(tmp_path, context_tokens=64, backend="reference")
