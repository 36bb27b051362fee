"""How SAM4MLLM (arXiv 2409.10542) is asked: for boxes, about which points, what counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import numpy as np

from ..errors import BundleError
from ..spec import ViewSpec
from ..tiling import TilingSpec

__all__ = [
    "COUNTS",
    "MINIATURE",
    "PAPER",
    "PATTERNS",
    "PRESETS",
    "RELEASED",
    "VARIANTS",
    "Protocol",
    "fixed_points",
    "grid_points",
    "protocol_from_settings",
    "random_points",
    "settings_from_protocol",
    "settings_from_tiling",
    "tiling_from_settings",
]

COUNTS = ("1", "1+", "0+")
"""How many objects a question expects: exactly one, one or more, any number."""
VARIANTS = ("pqpp", "ppg")
"""A turn for the box and one for its points, or one turn for both (the paper's section 3.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How the model is asked, and which of its answers count."""

    variant: str
    """One of `VARIANTS`."""
    count: str
    """One of `COUNTS`."""
    points: str
    """Key of `PATTERNS`: where in a box points are asked about."""
    point_count: int
    """Points along each side of the grid, or how many of the fixed pattern; as many random ones
    as the grid would have."""
    is_batched: bool
    """True for a question of its own for each point, all read at once; False for one question
    about all points, as released."""
    keep_yes: float
    """A point lies on the object when the probability of Yes is above this."""
    keep_no: float
    """A point lies off the object when the probability of No is above this; looked at first."""
    reject_above: float
    """Nothing is there when the probability that the first answer begins with No, as `NOTHING`
    does, is above this; 1 takes the answer at its word."""
    system: str
    """The system message."""
    max_tokens: int
    """Longest answer but that about points, in tokens."""
    context_tokens: int
    """Room for a frame and all that is asked about a phrase at once, in tokens."""

    def __post_init__(self) -> None:
        """Refuse what no model could be asked, as a BundleError."""
        for name, known in (("variant", VARIANTS), ("count", COUNTS), ("points", PATTERNS)):
            if getattr(self, name) not in known:
                raise BundleError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}; "
                    "export the bundle again"
                )
        limit = len(_FIXED_PERCENT) if self.points == "fixed" else _LONGEST_SIDE
        if not (1 <= self.point_count <= limit and 1 <= self.max_tokens < self.context_tokens):
            raise BundleError(
                f"point_count must be from 1 to {limit}, max_tokens from 1 to less than "
                f"context_tokens; got {self.point_count}, {self.max_tokens} and "
                f"{self.context_tokens}; export the bundle again"
            )
        limits = (self.keep_yes, self.keep_no, self.reject_above)
        if not all(0 <= limit <= 1 for limit in limits):
            raise BundleError(
                "keep_yes, keep_no and reject_above must be from 0 to 1; got "
                f"{self.keep_yes}, {self.keep_no} and {self.reject_above}; export the bundle again"
            )

    def points_in(self, box_xyxy: np.ndarray) -> np.ndarray:
        """Return the (n, 2) int64 points that are asked about in a box (4,)."""
        return PATTERNS[self.points](box_xyxy, self.point_count)

    def labels_of(self, confidences: np.ndarray) -> np.ndarray:
        """Judge points by the probabilities (n, 2) float of Yes and No.

        Returns:
            (n,) int64: 1 on the object, 0 off it, -1 too unsure of either.
        """
        yes, no = confidences.T
        return np.select([no > self.keep_no, yes > self.keep_yes], [0, 1], -1)


def grid_points(box_xyxy: np.ndarray, n: int) -> np.ndarray:
    """Return the (n * n, 2) int64 middles of n x n cells of a box (4,), row after row.

    The paper (section 4.2) says "uniform grid" and not where it begins.
    """
    x1, y1, x2, y2 = np.asarray(box_xyxy, np.float64)
    middles = (np.arange(n) + 0.5) / n
    columns, rows = np.meshgrid(x1 + middles * (x2 - x1), y1 + middles * (y2 - y1))
    return np.rint(np.stack([columns.ravel(), rows.ravel()], 1)).astype(np.int64)


def fixed_points(box_xyxy: np.ndarray, n: int) -> np.ndarray:
    """Return the (n, 2) int64 first n points of the released pattern of 30 in a box (4,)."""
    box = np.asarray(box_xyxy, np.int64)
    return np.array(_FIXED_PERCENT[:n], np.int64) * (box[2:] - box[:2]) // 100 + box[:2]


def random_points(box_xyxy: np.ndarray, n: int) -> np.ndarray:
    """Return (n * n, 2) int64 points anywhere in a box (4,), the same ones for the same box.

    The paper's ablation of sampling compares them with its grid.
    """
    box = np.asarray(box_xyxy, np.int64)
    return np.random.default_rng(box).integers(box[:2], box[2:], (n * n, 2), endpoint=True)


PATTERNS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "grid": grid_points,
    "fixed": fixed_points,
    "random": random_points,
}
"""Where in a box points are asked about."""


def settings_from_protocol(protocol: Protocol) -> tuple[tuple[str, str], ...]:
    """Write a protocol as a bundle's settings, one for each field."""
    return tuple((field.name, str(getattr(protocol, field.name))) for field in fields(protocol))


def protocol_from_settings(settings: Sequence[tuple[str, str]]) -> Protocol:
    """Read what `settings_from_protocol` wrote among a bundle's settings.

    Raises:
        BundleError: One is missing, or has a value that makes no sense.
    """
    values, kinds = dict(settings), get_type_hints(Protocol)
    with _readable(kinds):
        return Protocol(**{name: _READERS[kind](values[name]) for name, kind in kinds.items()})


def settings_from_tiling(tiling: TilingSpec) -> tuple[tuple[str, str], ...]:
    """Write as a bundle's settings what its view does not say of its tiles."""
    return ("tokens_hw", _sizes(tiling.tokens_hw)), ("grids", _sizes(*tiling.grids))


def tiling_from_settings(settings: Sequence[tuple[str, str]], view: ViewSpec) -> TilingSpec:
    """Read what `settings_from_tiling` wrote among a bundle's settings.

    Raises:
        BundleError: One is missing, or no list of sizes.
    """
    values = dict(settings)
    with _readable(("tokens_hw", "grids")):
        (tokens_hw,), grids = _read_sizes(values["tokens_hw"]), _read_sizes(values["grids"])
        return TilingSpec(view=view, tokens_hw=tokens_hw, grids=grids)


def _sizes(*sizes_hw: tuple[int, int]) -> str:
    return " ".join(f"{height}x{width}" for height, width in sizes_hw)


def _read_sizes(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (size.split("x") for size in text.split())
    return tuple((int(height), int(width)) for height, width in pairs)


@contextmanager
def _readable(names: Iterable[str]) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError) as error:
        raise BundleError(
            f"settings must hold {', '.join(names)}, each readable; got {error!r}; export the "
            "bundle again"
        ) from error


_LONGEST_SIDE = 10
_READERS: dict[type, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: bool(("False", "True").index(text)),
}

_FIXED_PERCENT = (
    (93, 70), (51, 89), (91, 90), (32, 32), (88, 10), (12, 28), (29, 52), (49, 49), (28, 12),
    (59, 60), (9, 48), (52, 29), (31, 92), (68, 13), (73, 73), (69, 53), (48, 9), (19, 18),
    (71, 93), (53, 69), (89, 50), (11, 88), (33, 72), (39, 41), (72, 33), (13, 68), (79, 82),
    (8, 8), (81, 22), (92, 30),
)  # fmt: skip
"""The released points, x and y in percent of the box."""

_DEMO = "You are a helpful language and vision assistant. You are able to understand the visual \
content that the user provides, and assist the user with a variety of tasks using natural language."

PAPER = Protocol(
    variant="pqpp",
    count="1",
    points="grid",
    point_count=5,
    is_batched=True,
    keep_yes=0.9,
    keep_no=0.9,
    reject_above=1.0,
    system=_DEMO,
    max_tokens=128,
    context_tokens=4096,
)
"""Section 4.2: a grid of 5 x 5, both answers kept above 0.9."""

RELEASED = Protocol(
    variant="pqpp",
    count="1",
    points="fixed",
    point_count=15,
    is_batched=False,
    keep_yes=0.75,
    keep_no=0.9,
    reject_above=1.0,
    system=_DEMO,
    max_tokens=30,
    context_tokens=4096,
)
"""The authors' demo: 15 fixed points in one question."""

MINIATURE = Protocol(
    variant="pqpp",
    count="0+",
    points="grid",
    point_count=5,
    is_batched=True,
    keep_yes=0.9,
    keep_no=0.9,
    reject_above=1.0,
    system="You look at a picture and say where things are.",
    max_tokens=128,
    context_tokens=1024,
)
"""As `PAPER`, in fewer words, and free to find nothing."""

PRESETS = {"paper": PAPER, "released": RELEASED, "miniature": MINIATURE}
"""Protocols that have a name."""
