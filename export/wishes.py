"""What goes with an export that rounds, looked at before anything takes minutes."""

from __future__ import annotations

from ..calibration.frames import read_phrases
from ..calibration.plan_file import check_wanted, read_plan
from ..calibration.quantize import node_precisions
from ..runtime.engine_cache import TARGETS
from ..runtime.errors import UsageError
from .recipe import ExportRecipe

__all__ = ["check_wishes"]

_WHOLE = ("fp32", "fp16")
"""Precisions without ranges or a plan."""


def check_wishes(recipe: ExportRecipe, variant: str) -> None:
    """Refuse a plan or calibration data that would be of no use, or can't be read.

    Args:
        recipe: What is asked for.
        variant: Size of the checkpoint's networks.

    Raises:
        InputError: The plan can't be read, or is for something else.
        SourceError: The phrases can't be read.
        UsageError: Nothing is rounded that they would be for, or weights can't have such bits.
    """
    if recipe.precision in _WHOLE:
        wishes = {
            "--plan": recipe.plan, "--calib": recipe.calib, "--calib-phrases": recipe.calib_phrases,
        }  # fmt: skip
        named = [flag for flag, value in wishes.items() if value is not None]
        if named:
            raise UsageError(
                f"{' and '.join(named)} must go with graphs in small numbers; got "
                f"{recipe.precision}; add --int8 or another, or leave it out"
            )
    if recipe.weight_bits is not None and (
        recipe.weight_bits not in (7, 8) or recipe.precision != "int8" or recipe.target in TARGETS
    ):
        raise UsageError(
            "--weight-bits must be 7 or 8 and go with --int8 for cpu or openvino, as GPUs add "
            f"8-bit products rightly; got {recipe.weight_bits} with {recipe.precision} for "
            f"{recipe.target}; leave it out"
        )
    if recipe.calib_phrases is not None:
        read_phrases(recipe.calib_phrases)
    if recipe.plan is not None:
        check_wanted(
            read_plan(recipe.plan),
            system=recipe.system,
            variant=variant,
            target=recipe.target,
            precisions=node_precisions(recipe.target, recipe.precision),
        )
