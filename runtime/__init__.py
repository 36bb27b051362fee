"""A bundle and a camera in, masks out: NumPy and an engine, never a training framework."""

from __future__ import annotations

from .bundle import Bundle
from .errors import (
    BundleError,
    DeviceError,
    EngineError,
    FrameError,
    InputError,
    MissingExtraError,
    PromptError,
    SaymaskError,
    UsageError,
)
from .masks import Masks
from .prompt import Prompt
from .segmenter import Segmenter

__all__ = [
    "Bundle",
    "BundleError",
    "DeviceError",
    "EngineError",
    "FrameError",
    "InputError",
    "Masks",
    "MissingExtraError",
    "Prompt",
    "PromptError",
    "SaymaskError",
    "Segmenter",
    "UsageError",
]
