"""What the authors' scripts do around each released EVF-SAM: how it sees, which mask it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from ...runtime.errors import UnknownNameError
from ..hub import bare_name

__all__ = [
    "BEIT_VIEWS",
    "MASK_CHOICES",
    "OWN",
    "RELEASES",
    "SAM_VIEWS",
    "SamView",
    "Settled",
    "Switches",
    "settle",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Switches, and what told them."""

    switches: Switches
    """What is taken."""
    told_by: str
    """Why, in words that follow "as"."""
    doubtful: Mapping[str, tuple[str, ...]]
    """Switch -> what else it may have to be, where nothing told and nobody said; mostly empty."""

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Return the switches as a bundle's settings, and what told them under "told_by"."""
        return *asdict(self.switches).items(), ("told_by", self.told_by)

    def remark(self) -> str:
        """Say in one line what was taken, why, and how it is turned."""
        taken = ", ".join(f"{name}={value}" for name, value in asdict(self.switches).items())
        if not self.doubtful:
            return f"switches: {taken}, as {self.told_by}"
        others = ", ".join(
            f"--switch {name}={value}" for name, values in self.doubtful.items() for value in values
        )
        return (
            f"switches: {taken}, as {self.told_by}; {' and '.join(self.doubtful)} may have to be "
            f"another: compare the masks with {others}"
        )


_SAM = Switches(preprocess="pad", beit_view="sharp", mask_choice="single")
_SAM2 = Switches(preprocess="stretch", beit_view="sharp", mask_choice="best")
_EFFICIENT_SAM = replace(_SAM2, mask_choice="single")

BEIT_VIEWS = {"sharp": False, "smooth": True}
"""Whether BEiT-3's view is scaled down with a widened filter."""

VALUES = {"preprocess": SAM_VIEWS, "beit_view": BEIT_VIEWS, "mask_choice": MASK_CHOICES}
"""Switch -> what it may be."""

_OF_SAM2 = {
    "evf-sam2-multitask": _SAM2,
    "evf-sam2": replace(_SAM2, preprocess="fill", mask_choice="stable"),
}
"""Releases that nothing but their names tells apart, the newest first."""
RELEASES = {"evf-sam": _SAM, "evf-sam-multitask": _SAM, **_OF_SAM2}
"""Switches of the checkpoints on the hub. Those without "-multitask" pair with the code before
commit 9d00853, which left antialiasing to torchvision: off in the 0.15.2 that its requirements
name, on from 0.17."""

OWN = Switches(preprocess="pad-float", beit_view="smooth", mask_choice="single")
"""Switches of what saymask trains itself."""

_POSSIBLE = {
    "efficientsam": (_EFFICIENT_SAM, replace(_EFFICIENT_SAM, preprocess="fill")),
    "efficientvit": (_SAM, OWN),
    "sam": (_SAM,),
    "sam2": tuple(_OF_SAM2.values()),
}
"""Kind of image encoder, with which a variant's name begins -> what its code may do, the most
likely first. All code sees and answers alike with SAM; with EfficientSAM nothing was released, and
with EfficientViT-SAM the authors trained nothing."""


def settle(names: Sequence[str], variant: str, overrides: Mapping[str, str]) -> Settled:
    """Settle the switches of a checkpoint: by its networks, else by its name, else the likeliest.

    Args:
        names: From `hub.release_names`; owners before them don't count.
        variant: Key of `EVF_SAM_SPECS`, which the config and the weights told.
        overrides: Values that are taken instead, by the name of the switch.

    Raises:
        UnknownNameError: There is no such switch, or it has no such value.
    """
    kind, encoder = variant.partition("-")[0], variant.partition("-beit3-")[0]
    switches, *others = _POSSIBLE.get(kind, (OWN,))
    released = _OF_SAM2 if kind == "sam2" else {}
    known = [name for name in map(bare_name, names) if name in released]
    if known:
        switches, others, told_by = released[known[0]], [], f"the release {known[0]} has them"
    elif kind not in _POSSIBLE:
        told_by = f"saymask trains {variant}"
    elif not others:
        told_by = f"all of the authors' code has them with {encoder}"
    else:
        which = f" which of {', '.join(released)} it is" if released else ""
        told_by = (
            f"is likeliest with {encoder}: neither the config nor the name "
            f"{' or '.join(names)} tells{which}"
        )
    for switch, value in overrides.items():
        if switch not in VALUES:
            raise UnknownNameError("switch of evf-sam", switch, VALUES)
        if value not in VALUES[switch]:
            raise UnknownNameError(f"{switch} of evf-sam", value, VALUES[switch])
    taken = replace(switches, **overrides)
    if turned := [name for name in VALUES if name in overrides]:
        told_by += f", with {' and '.join(turned)} by --switch"
    return Settled(switches=taken, told_by=told_by, doubtful=_doubtful(taken, others, overrides))


def _doubtful(
    taken: Switches, others: Sequence[Switches], overrides: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Return what else each switch may have to be that nobody turned."""
    rivals = {
        name: tuple({asdict(other)[name]: None for other in others if asdict(other)[name] != value})
        for name, value in asdict(taken).items()
        if name not in overrides
    }
    return {name: values for name, values in rivals.items() if values}
