"""A frame seen twice by a language model that sees: whole, and cut into tiles of full detail.

Source: LLaVA-NeXT ("anyres" with "spatial_unpad"), whose own code is followed to the pixel and the
token. transformers' port differs from it in two ways: of two grids that fit equally well it prefers
the other one, as it reads the same list height first, and where rounding leaves a scaled side a
hair below a whole number of tokens it counts that token, which the original does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from ..kernels.resize import normalize_nchw, resize_chw
from .geometry import check_frame, fit
from .spec import ViewSpec

__all__ = ["TilingSpec", "best_grid", "cut", "token_order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingSpec:
    """How a frame becomes tiles, and their tokens a sequence."""

    view: ViewSpec
    """Of the whole frame and of each tile; stretches."""
    tokens_hw: tuple[int, int]
    """Rows and columns of tokens that the network makes of a tile."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of tiles a frame may be cut into, the preferred one of equals first; empty
    where only the whole frame is seen."""


def best_grid(frame_hw: tuple[int, int], spec: TilingSpec) -> tuple[int, int]:
    """Return the grid that keeps most of a frame's pixels and, among equals, wastes least.

    Args:
        frame_hw: Height and width of the frame in pixels.
        spec: With at least one grid.
    """
    height, width = frame_hw

    def kept_and_wasted(grid: tuple[int, int]) -> tuple[int, int]:
        canvas_height, canvas_width = _canvas_hw(grid, spec)
        scale = min(canvas_width / width, canvas_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas_height * canvas_width

    return max(spec.grids, key=kept_and_wasted)


def cut(frame: np.ndarray, spec: TilingSpec) -> np.ndarray:
    """Turn a frame into the tiles that the network looks at.

    Args:
        frame: (H, W, 3) uint8 RGB.
        spec: How to cut.

    Returns:
        (tiles, 3, h, w) float32: the whole frame, then each tile of the best grid, row by row. The
        frame lies amid black where its aspect is not the grid's.

    Raises:
        FrameError: `frame` is not such an array or has no pixels.
    """
    check_frame(frame)
    whole, _ = fit(frame, spec.view)
    if not spec.grids:
        return whole
    rows, columns = grid = best_grid((frame.shape[0], frame.shape[1]), spec)
    canvas = normalize_nchw(
        _on_black(frame, _canvas_hw(grid, spec), spec.view),
        _canvas_hw(grid, spec),
        mean=spec.view.mean_rgb,
        std=spec.view.std_rgb,
    )
    height, width = spec.view.size_hw
    tiles = canvas.reshape(3, rows, height, columns, width).transpose(1, 3, 0, 2, 4)
    return np.concatenate([whole, tiles.reshape(-1, 3, height, width)])


def token_order(frame_hw: tuple[int, int], spec: TilingSpec) -> np.ndarray:
    """Say which of the network's tokens the language model reads, in which order.

    The whole frame's tokens come first, then those of the tiles, row by row across all of them,
    without the rows or columns that see black alone, and with a newline at each row's end. A
    network that is given tiles puts the newline behind the tokens of each.

    Args:
        frame_hw: Height and width of the frame in pixels.
        spec: How it was cut.

    Returns:
        (image tokens,) int64: indices into `embeddings.reshape(-1, width)` of the embeddings
        (tiles, tokens, width) that the network makes of `cut(frame, spec)`.
    """
    rows, columns = spec.tokens_hw
    newline = rows * columns
    whole = np.arange(newline)
    if not spec.grids:
        return whole
    down, along = best_grid(frame_hw, spec)
    first = (1 + np.arange(down * along)) * (newline + 1)
    tokens = first.reshape(down, 1, along, 1) + whole.reshape(rows, 1, columns)
    lines = _without_black(tokens.reshape(down * rows, along * columns), frame_hw)
    ended = np.pad(lines, ((0, 0), (0, 1)), constant_values=newline)
    return np.concatenate([whole, ended.ravel()])


def _canvas_hw(grid: tuple[int, int], spec: TilingSpec) -> tuple[int, int]:
    return grid[0] * spec.view.size_hw[0], grid[1] * spec.view.size_hw[1]


def _on_black(frame: np.ndarray, canvas_hw: tuple[int, int], view: ViewSpec) -> np.ndarray:
    """Scale a frame to a canvas without changing its aspect; (3, H, W) of the view's numbers."""
    scale_height, scale_width = (
        side / own for side, own in zip(canvas_hw, frame.shape[:2], strict=True)
    )
    if scale_width < scale_height:
        size_hw = min(ceil(frame.shape[0] * scale_width), canvas_hw[0]), canvas_hw[1]
    else:
        size_hw = canvas_hw[0], min(ceil(frame.shape[1] * scale_height), canvas_hw[1])
    scaled = resize_chw(
        frame,
        size_hw,
        interpolation=view.interpolation,
        is_antialiased=view.is_antialiased,
        rounds_to_uint8=view.rounds_to_uint8,
    )
    top, left = (canvas_hw[0] - size_hw[0]) // 2, (canvas_hw[1] - size_hw[1]) // 2
    canvas = np.zeros((3, *canvas_hw), scaled.dtype)
    canvas[:, top : top + size_hw[0], left : left + size_hw[1]] = scaled
    return canvas


def _without_black(tokens: np.ndarray, frame_hw: tuple[int, int]) -> np.ndarray:
    """Drop as many rows (or columns) of a grid of tokens at both ends as see no frame."""
    (height, width), (rows, columns) = frame_hw, tokens.shape
    if width / height > columns / rows:
        black = (rows - int(height * (columns / width))) // 2
        return tokens[black : rows - black]
    black = (columns - int(width * (rows / height))) // 2
    return tokens[:, black : columns - black]
