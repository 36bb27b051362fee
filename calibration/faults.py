"""Where a number that is none comes from: the first node that makes it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .segments import Line, run

__all__ = ["first_fault"]


def first_fault(
    line: Line,
    feed: Mapping[str, np.ndarray],
    tensor: str,
    *,
    threads: int,
    most_bytes: int,
) -> str:
    """Say which node first makes NaN or infinity on the way to a tensor that holds it.

    Args:
        line: Of the graph.
        feed: The inputs of the run.
        tensor: Name of a tensor that is not finite in this run.
        threads: Threads of one operator.
        most_bytes: See `Line.cut`.
    """
    for name, array in feed.items():
        if not np.isfinite(array).all():
            return f"the graph's input {name!r} already holds it; check how the data is made"
    way = line.to([tensor])
    way = way.to(filter(way.is_float, way.made))
    sizes = way.measure(feed, threads=threads)
    carried: dict[str, np.ndarray] = {}
    start = 0
    while start < len(way.nodes):
        part = way.cut(start, sizes, most_bytes)
        found = run(way.open(part, threads=threads), {**feed, **carried})
        for name in part.shown:
            if not np.isfinite(found[name]).all():
                node = way.maker(name)
                kind = "NaN" if np.isnan(found[name]).any() else "infinity"
                return (
                    f"node {node.name!r} ({node.op_type}) is the first to make {kind}, in "
                    f"{name!r}; check that layer's weights"
                )
        carried = {name: {**carried, **found}[name] for name in part.carried}
        start = part.end
    return "no node makes it where all are looked at one by one; FP32 is at its limit here"
