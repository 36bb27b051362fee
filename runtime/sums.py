"""Sums of 8-bit products, which x86 without VNNI takes in 16 bits: who may be wrong is told."""

from __future__ import annotations

import logging
from functools import cache

from .machine import sums_overflow
from .spec import StageSpec

__all__ = ["warn_of_sums"]

_LOG = logging.getLogger("saymask")


def warn_of_sums(stage: StageSpec, weight_bits: str | None) -> None:
    """Warn, once, where a stage's small integers may come out otherwise than they were judged.

    Args:
        stage: What is opened on this processor.
        weight_bits: What its graph holds under `spec.WEIGHT_BITS`: products of uint8 with "7" fit.
    """
    if stage.precision.startswith("int8") and weight_bits != "7" and sums_overflow():
        _warn()


@cache
def _warn() -> None:
    _LOG.warning(
        "this processor has no VNNI and adds 8-bit products in 16 bits, which may overflow: masks "
        "may differ from those that the bundle was judged by; export it on this machine or with "
        "--weight-bits 7"
    )
