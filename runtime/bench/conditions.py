"""What a measurement was taken on: versions, processor, load and device."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Any

from ..machine import processor_name

__all__ = ["machine_conditions", "machine_text"]

_ENGINE_LIBRARIES = (
    "onnxruntime",
    "openvino",
    "nncf",
    "torch",
    "tensorrt",
    "tensorrt_rtx",
    "llama_cpp",
)
"""Those that a run has imported are named."""


def machine_conditions(device: str, threads: int | None) -> dict[str, Any]:
    """Say what ran where, once the engines are open.

    Args:
        device: Where the engines compute.
        threads: Threads of the CPU that were asked for; None leaves one for each physical core.

    Returns:
        Values for JSON, by name.
    """
    return {
        "saymask": version("saymask"),
        "engines": {
            name: getattr(sys.modules[name], "__version__", "unknown")
            for name in _ENGINE_LIBRARIES
            if name in sys.modules
        },
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": device,
        "threads": threads,
    }


def machine_text(conditions: dict[str, Any]) -> str:
    """Put `machine_conditions` in one line, but for device and threads."""
    engines = ", ".join(f"{name} {number}" for name, number in conditions["engines"].items())
    return (
        f"{conditions['processor']}, {conditions['cores']} logical cores, "
        f"load {conditions['load_average']}, {engines}"
    )
