"""What the authors' scripts do around each released EVF-SAM: how it sees, which mask it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...runtime.errors import UnknownNameError

__all__ = [
    "BEIT_VIEWS",
    "MASK_CHOICES",
    "OWN",
    "RELEASES",
    "SAM_VIEWS",
    "SamView",
    "Switches",
    "switches_from",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamView:
    """How a frame becomes SAM's input, bilinear in each case; see `ViewSpec` for the fields."""

    fit: str
    """"pad", "stretch" or "fill"."""
    is_antialiased: bool
    """True for Pillow's filter."""
    rounds_to_uint8: bool
    """True to resize in uint8."""


SAM_VIEWS = {
    "fill": SamView(fit="fill", is_antialiased=True, rounds_to_uint8=True),
    "pad": SamView(fit="pad", is_antialiased=True, rounds_to_uint8=True),
    "pad-float": SamView(fit="pad", is_antialiased=True, rounds_to_uint8=False),
    "stretch": SamView(fit="stretch", is_antialiased=False, rounds_to_uint8=True),
    "stretch-antialiased": SamView(fit="stretch", is_antialiased=True, rounds_to_uint8=True),
}
"""Preprocessing by name: "pad" is SAM's and EfficientViT-SAM's, "stretch" that of inference.py and
demo.py for SAM-2 and EfficientSAM, "stretch-antialiased" that of eval.py and of training for the
same two, "fill" that of all scripts for them before commit 9d00853, "pad-float" saymask's own."""

MASK_CHOICES = ("best", "single", "stable")
"""Which of SAM's masks is taken: of the three ambiguous ones the one with the best predicted IoU,
the single one, or the single one unless its stability score asks for the best (SAM-2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What a checkpoint's code does that its weights don't tell."""

    preprocess: str
    """Key of `SAM_VIEWS`."""
    beit_view: str
    """Key of `BEIT_VIEWS`."""
    mask_choice: str
    """One of `MASK_CHOICES`."""


_SAM = Switches(preprocess="pad", beit_view="sharp", mask_choice="single")
_SAM2 = Switches(preprocess="stretch", beit_view="sharp", mask_choice="best")

BEIT_VIEWS = {"sharp": False, "smooth": True}
"""Whether BEiT-3's view is scaled down with a widened filter."""

VALUES = {"preprocess": SAM_VIEWS, "beit_view": BEIT_VIEWS, "mask_choice": MASK_CHOICES}
"""Switch -> what it may be."""

RELEASES = {
    "evf-sam": _SAM,
    "evf-sam-multitask": _SAM,
    "evf-sam2": replace(_SAM2, preprocess="fill", mask_choice="stable"),
    "evf-sam2-multitask": _SAM2,
}
"""Switches of the checkpoints on the hub. Those without "-multitask" pair with the code before
commit 9d00853, which left antialiasing to torchvision: off in the 0.15.2 that its requirements
name, on from 0.17."""

OWN = Switches(preprocess="pad-float", beit_view="smooth", mask_choice="single")
"""Switches of what saymask trains itself."""

_NEWEST = {
    "efficientsam": replace(_SAM2, mask_choice="single"),
    "efficientvit": _SAM,
    "sam": _SAM,
    "sam2": _SAM2,
}
"""Switches of the newest code, by the kind of image encoder that a variant's name begins with."""


def switches_from(name: str, variant: str, overrides: Mapping[str, str]) -> Switches:
    """Pick the switches of a checkpoint: its release's, else those of the newest code.

    Args:
        name: The checkpoint's name; the owner before it and the revision after it don't count, as
            in "YxZhang/evf-sam2@main".
        variant: Key of `EVF_SAM_SPECS`, for names that were not released.
        overrides: Values that are taken instead, by the name of the switch.

    Raises:
        UnknownNameError: There is no such switch, or it has no such value.
    """
    release = name.partition("@")[0].rpartition("/")[2]
    switches = RELEASES.get(release) or _NEWEST.get(variant.partition("-")[0], OWN)
    for switch, value in overrides.items():
        if switch not in VALUES:
            raise UnknownNameError("switch of evf-sam", switch, VALUES)
        if value not in VALUES[switch]:
            raise UnknownNameError(f"{switch} of evf-sam", value, VALUES[switch])
        switches = replace(switches, **{switch: value})
    return switches
