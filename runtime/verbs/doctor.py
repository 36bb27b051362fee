"""Show what this machine has, and what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import machine
from ..engine_cache import TARGETS, served_sm
from ..language.tensorrt_llm import RUNTIMES
from ..options import add_json
from ..table import table

__all__ = ["add_arguments", "run"]

_LOADED = {
    "numpy": "",
    "onnxruntime": "cpu",
    "sentencepiece": "cpu",
    "cv2": "video",
    "av": "video",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "llama_cpp": "llm",
    "xllamacpp": "llm",
}
"""Libraries of the runtime and the extras that bring them; they are loaded, as a run would."""

_LOOKED_UP = {
    "cuda-bindings": "rtx",
    "openvino": "openvino",
    "nncf": "rivals",
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "gguf": "export",
    "huggingface_hub": "hub",
    "mcap": "mcap",
    "accelerate": "train",
    "peft": "train",
    "tokenizers": "train",
    "tqdm": "train",
}
"""Distributions that a plain run on the CPU does without; loading them would take seconds."""

_EITHER = ("llama_cpp", "xllamacpp")
"""Both bring llama.cpp, so one of them is enough."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `saymask doctor`."""
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the findings; a thing that is missing is a finding, no failure."""
    findings = _findings()
    print(json.dumps(findings, indent=2) if args.json else _report(findings))
    return 0


def _findings() -> dict[str, Any]:
    libraries = [
        *(_loaded(name, extra) for name, extra in _LOADED.items()),
        *(_looked_up(name, extra) for name, extra in _LOOKED_UP.items()),
    ]
    _excuse(libraries)
    devices = machine.cuda_devices()
    return {
        "saymask": version("saymask"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": machine.processor_name(),
        "cores": os.cpu_count(),
        "features": machine.processor_features(),
        "memory_bytes": machine.memory_bytes(),
        "jetson": machine.jetson_release(),
        "cuda_devices": [asdict(device) for device in devices],
        "onnxruntime_providers": _providers(),
        "engines": [_engines(target, libraries, devices) for target in TARGETS],
        "language_runtimes": [
            {"name": name, "version": _version(distribution), "cure": cure}
            for name, (distribution, cure) in RUNTIMES.items()
        ],
        "libraries": libraries,
    }


def _excuse(libraries: list[dict[str, Any]]) -> None:
    """Note in the rows of `_EITHER` which other one is there in their place."""
    there = [row["name"] for row in libraries if row["name"] in _EITHER and row["version"]]
    for row in libraries:
        if row["name"] in _EITHER and there and not row["version"]:
            row["replaced_by"] = there[0]


def _engines(
    target: str, libraries: list[dict[str, Any]], devices: Sequence[machine.CudaDevice]
) -> dict[str, Any]:
    """Say what keeps a target's engines from being compiled and from running here."""
    rows = {row["name"]: row for row in libraries}
    lacks = {name: _advice(row) for name, row in rows.items() if not row["version"]}
    if "cuda-bindings" in lacks:
        lacks["cuda-bindings"] = f"pip install 'saymask[{target}]'"
    library = TARGETS[target]
    if not devices:
        lacks["a CUDA device"] = "go where there is one"
    elif refusal := _refusal(library, devices):
        lacks["a CUDA device that it serves"] = refusal
    to_compile = {library, "onnx"} | ({"a CUDA device"} if target == "tensorrt" else set())
    to_run = {library, "cuda-bindings", "a CUDA device", "a CUDA device that it serves"}
    return {
        "target": target,
        "library": library,
        "version": rows[library]["version"],
        "lacks_to_compile": {name: cure for name, cure in lacks.items() if name in to_compile},
        "lacks_to_run": {name: cure for name, cure in lacks.items() if name in to_run},
    }


def _refusal(library: str, devices: Sequence[machine.CudaDevice]) -> str:
    """Say which compute capabilities the library serves where no device has one; else nothing."""
    module = sys.modules.get(library)
    served = served_sm(module) if module else None
    here = sorted({device.capability for device in devices})
    if served is None or any(int(number.replace(".", "")) in served for number in here):
        return ""
    known = ", ".join(f"{number // 10}.{number % 10}" for number in served)
    return f"it serves {known}, not {', '.join(here)}; take another --target"


def _loaded(name: str, extra: str) -> dict[str, Any]:
    found, fault = None, None
    try:
        found = str(getattr(importlib.import_module(name), "__version__", "unknown"))
    except ModuleNotFoundError as error:
        fault = None if error.name == name else str(error)
    except Exception as error:  # a broken native library may raise anything
        fault = f"{type(error).__name__}: {error}"
    return {"name": name, "version": found, "extra": extra, "fault": fault, "replaced_by": None}


def _looked_up(name: str, extra: str) -> dict[str, Any]:
    found = _version(name)
    return {"name": name, "version": found, "extra": extra, "fault": None, "replaced_by": None}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _providers() -> list[str]:
    try:
        return importlib.import_module("onnxruntime").get_available_providers()
    except Exception:  # said in its row of the libraries
        return []


def _report(findings: dict[str, Any]) -> str:
    features, memory = findings["features"], findings["memory_bytes"]
    gpus = [
        f"{gpu['name']} (sm {gpu['capability']}, {_gib(gpu['memory_bytes'])})"
        for gpu in findings["cuda_devices"]
    ]
    facts = [
        ("saymask", findings["saymask"]),
        ("python", f"{findings['python']}, {findings['platform']}"),
        ("processor", f"{findings['processor']}, {findings['cores']} logical cores"),
        ("has", _present(features) if features else "?"),
        ("memory", f"{_gib(memory['total'])}, {_gib(memory['available'])} free" if memory else "?"),
        ("jetson", findings["jetson"] or "no"),
        ("cuda", ", ".join(gpus) or "no device"),
        ("onnxruntime", ", ".join(findings["onnxruntime_providers"]) or "no provider"),
        *((row["library"], _ability(row)) for row in findings["engines"]),
        *(
            (row["name"], row["version"] or f"no; {row['cure']}")
            for row in findings["language_runtimes"]
        ),
    ]
    width = max(len(name) for name, _ in facts)
    rows = [(row["name"], row["version"], _advice(row)) for row in findings["libraries"]]
    lines = [f"{name:<{width}}  {value}" for name, value in facts]
    return "\n".join([*lines, "", table(("library", "version", "to do"), rows)])


def _present(features: dict[str, bool]) -> str:
    names = [name for name, is_there in features.items() if is_there]
    return ", ".join(f"{name} ({machine.FEATURES[name]})" for name in names) or "no 8-bit products"


def _ability(row: dict[str, Any]) -> str:
    if not row["version"]:
        return f"no; {row['lacks_to_compile'][row['library']]}"
    doings = {"compile": row["lacks_to_compile"], "run": row["lacks_to_run"]}
    said = [
        f"cannot {doing}: lacks {_cures(lacks)}" if lacks else f"can {doing}"
        for doing, lacks in doings.items()
    ]
    return f"{row['version']}, {'; '.join(said)}"


def _cures(lacks: dict[str, str]) -> str:
    return ", ".join(f"{name} ({cure})" for name, cure in lacks.items())


def _advice(row: dict[str, Any]) -> str:
    if row["fault"]:
        return f"does not load: {row['fault']}"
    if row["replaced_by"]:
        return f"not needed beside {row['replaced_by']}"
    return "" if row["version"] else f"pip install 'saymask[{row['extra']}]'"


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f} GiB"
