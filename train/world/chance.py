"""Where the world's randomness comes from: one stream per purpose, split and seed."""

from __future__ import annotations

import numpy as np

from ...runtime.errors import UnknownNameError
from .catalogue import SPLITS

_PURPOSES = ("layout", "surface", "sensor", "motion")


def chance(purpose: str, split: str, seed: int, *, frame: int = 0) -> np.random.Generator:
    """Return the stream of random numbers of one purpose; no two arguments share a stream.

    Args:
        purpose: "layout", "surface", "sensor" or "motion".
        split: One of `catalogue.SPLITS`.
        seed: Any integer >= 0.
        frame: Number of the frame, from 0.

    Raises:
        UnknownNameError: `split` is not in `catalogue.SPLITS`.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    return np.random.default_rng([_PURPOSES.index(purpose), SPLITS.index(split), seed, frame])
