"""TensorRT-LLM and TensorRT Edge-LLM: which quantized folders they load, and how on each device.

| | gpu: TensorRT-LLM | jetson-orin: TensorRT Edge-LLM | jetson-thor: TensorRT Edge-LLM |
|---|---|---|---|
| int4-awq | yes, 8.0 or newer | yes | yes |
| fp8 | yes, 8.9 or newer | Orin has no FP8 | yes |
| int8-sq | has no such layer | yes | yes |

TensorRT-LLM loads the folder as it is: its engines and `trtllm-build` gave way to PyTorch in 2026
(NVIDIA/TensorRT-LLM 15918), and INT8 SmoothQuant went with them. TensorRT Edge-LLM exports the
folder to ONNX on an x86 computer and builds an engine of that on the device.

saymask runs neither. It gives a language model image vectors among the tokens, and reads several
suffixes of one prefix. TensorRT-LLM's `LLM.generate` takes tokens, and vectors only for networks
whose image processor it has (NVIDIA/TensorRT-LLM 15885 asks for more). Engines of Edge-LLM do take
vectors, as `inputs_embeds`, but only its C++ runtime fills their caches, from pictures and words.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from types import MappingProxyType

from ..errors import DeviceError, EngineError, SaymaskError, UnknownNameError, UsageError
from .quantized_folder import ALGORITHMS, precision_of

__all__ = ["DEVICES", "RUNTIMES", "commands_by_device", "device_commands", "refusal"]

DEVICES = ("gpu", "jetson-orin", "jetson-thor")
RUNTIMES = MappingProxyType(
    {
        "tensorrt_llm": ("tensorrt_llm", "pip install tensorrt_llm, on Linux with an NVIDIA GPU"),
        "edge_llm": ("tensorrt-edgellm", "see github.com/NVIDIA/TensorRT-Edge-LLM"),
    }
)
"""What runs the folders that saymask writes -> its Python distribution, and how to get it."""

_UNFIT = MappingProxyType(
    {
        ("int8-sq", "gpu"): "TensorRT-LLM has no INT8 SmoothQuant; take int4-awq or fp8",
        ("fp8", "jetson-orin"): "Orin has no FP8 arithmetic; take int4-awq or int8-sq",
    }
)


def device_commands(
    folder: Path, *, precision: str, device: str, context_tokens: int = 4096
) -> tuple[str, ...]:
    """Write the commands that bring a quantized folder to run, in their order.

    Those of a Jetson are for TensorRT Edge-LLM 0.8 to 0.11: the first is for a computer with its
    Python package, the others for the device, in its source folder after it was built there.

    Args:
        folder: What `quantize_language` wrote.
        precision: Key of `ALGORITHMS`.
        device: One of `DEVICES`.
        context_tokens: Longest prompt with its answer.

    Raises:
        DeviceError: The device's runtime does not load this precision.
        UnknownNameError: There is no such precision or device.
        UsageError: There must be a token.
    """
    if precision not in ALGORITHMS:
        raise UnknownNameError("precision", precision, ALGORITHMS)
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    if context_tokens < 1:
        raise UsageError(f"context_tokens must be at least 1; got {context_tokens}")
    if (precision, device) in _UNFIT:
        raise DeviceError(
            f"{device} must have a runtime for {precision}; {_UNFIT[precision, device]}"
        )
    if device == "gpu":
        return (f"trtllm-serve {shlex.quote(str(folder))} --max_seq_len {context_tokens}",)
    onnx, engine = (shlex.quote(f"{folder}-{kind}") for kind in ("onnx", "engine"))
    return (
        f"tensorrt-edgellm-export {shlex.quote(str(folder))} {onnx}",
        f"./build/examples/llm/llm_build --onnxDir {onnx}/llm --engineDir {engine} "
        f"--maxBatchSize 1 --maxInputLen {context_tokens} --maxKVCacheCapacity {context_tokens}",
    )


def commands_by_device(folder: Path, *, precision: str) -> dict[str, tuple[str, ...]]:
    """Write `device_commands` for each device whose runtime loads a precision."""
    return {
        device: device_commands(folder, precision=precision, device=device)
        for device in DEVICES
        if (precision, device) not in _UNFIT
    }


def refusal(folder: Path) -> SaymaskError:
    """Make the error that says why a folder's language model does not run here."""
    must = f"the language model must be a GGUF file; {folder} is a folder"
    precision = precision_of(folder)
    if precision is None:
        return EngineError(f"{must}; give the file in it")
    ways: dict[str, list[str]] = {}
    for device, commands in commands_by_device(folder, precision=precision).items():
        ways.setdefault(" && ".join(commands), []).append(device)
    said = "; ".join(f"on {' or '.join(devices)} {way!r}" for way, devices in ways.items())
    return DeviceError(
        f"{must} in {precision} for TensorRT-LLM and TensorRT Edge-LLM, which saymask writes and "
        f"checks but does not run; start it {said}, or export without --llm tensorrt-llm"
    )
