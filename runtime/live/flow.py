"""Where the pixels of a frame were some frames ago: dense optical flow between small copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import require

__all__ = ["BackwardFlow", "Grid"]

MOST_CELLS = 120
"""Cells along the longer side of a frame."""
FEWEST_CELLS = 32
"""The shorter side is padded to this; DIS crashes the process below 16 (opencv issue 14554)."""
SAMPLES_A_SIDE = 4
"""A cell is the mean of at most 4 x 4 of its pixels; a full-HD frame shrinks five times faster."""
PATCH_STRIDE = 6
"""DIS matches a patch of 8 x 8 cells every 6 cells, up to the grid's whole resolution."""
WINDOW = 5
"""Differences are averaged over 5 x 5 cells, so that an edge half a cell off is none."""
LARGEST_DIFFERENCE = 45
"""A cell whose color differs more from where it came from, of 255, shows something else."""
NOWHERE = -1e4
"""Offset of what was out of view, in cells; it points out of every frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Square cells of whole pixels that cover a frame, and perhaps more on the right and below."""

    frame_hw: tuple[int, int]
    """Height and width of the frame in pixels."""
    cell_px: int
    """Side of a cell in pixels."""
    size_hw: tuple[int, int]
    """Rows and columns of cells."""

    @classmethod
    def over(cls, frame_hw: tuple[int, int]) -> Grid:
        """Lay the finest grid over a frame that flow is computed on."""
        cell_px = -(-max(frame_hw) // MOST_CELLS)
        rows, columns = (max(-(-side // cell_px), FEWEST_CELLS) for side in frame_hw)
        return cls(frame_hw=frame_hw, cell_px=cell_px, size_hw=(rows, columns))


class BackwardFlow:
    """Follows frames of one size by dense inverse search (DIS, arXiv 1603.03590)."""

    def __init__(self, frame_hwc: np.ndarray) -> None:
        """Begin with a marked frame, (H, W, 3) uint8 RGB.

        Raises:
            MissingExtraError: OpenCV is not installed.
        """
        self._cv2 = cv2 = require("cv2", extra="video")
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._dis.setFinestScale(0)
        self._dis.setPatchStride(PATCH_STRIDE)
        self.grid = Grid.over((frame_hwc.shape[0], frame_hwc.shape[1]))
        rows, columns = self.grid.size_hw
        self._cell_xy = np.dstack(np.meshgrid(np.arange(columns), np.arange(rows)))
        self._cell_xy = self._cell_xy.astype(np.float32)
        self._step_xy = np.zeros_like(self._cell_xy)
        self._look(frame_hwc)
        self.mark()

    def mark(self) -> None:
        """Make the newest frame the one whose masks are carried from here on."""
        self._marked_hwc = self._colors_hwc
        self._offset_xy = np.zeros_like(self._cell_xy)
        self._is_same_hw = np.ones(self.grid.size_hw, np.bool_)

    def advance(self, frame_hwc: np.ndarray) -> None:
        """Take the next frame, (H, W, 3) uint8 RGB of the size of the first one."""
        cv2 = self._cv2
        before_hw = self._gray_hw
        self._look(frame_hwc)
        # What moved goes on moving: the search begins at the last step, and overwrites it.
        self._step_xy = self._dis.calc(self._gray_hw, before_hw, self._step_xy)
        # A patch that nothing matches runs further off with each frame.
        np.clip(self._step_xy, -MOST_CELLS, MOST_CELLS, out=self._step_xy)
        self._offset_xy = self._step_xy + cv2.remap(
            self._offset_xy,
            self._cell_xy + self._step_xy,
            None,
            cv2.INTER_LINEAR,
            borderValue=(NOWHERE, NOWHERE),
        )
        came_hwc = cv2.remap(
            self._marked_hwc, self._cell_xy + self._offset_xy, None, cv2.INTER_LINEAR
        )
        difference_hwc = cv2.blur(cv2.absdiff(came_hwc, self._colors_hwc), (WINDOW, WINDOW))
        self._is_same_hw = cv2.inRange(difference_hwc, (0,) * 3, (LARGEST_DIFFERENCE,) * 3) != 0

    def carry(self, mask_hw: np.ndarray, box_xyxy: np.ndarray, out_hw: np.ndarray) -> float:
        """Move a mask of the marked frame to the newest one; what left the view is lost.

        Args:
            mask_hw: (H, W) bool.
            box_xyxy: (4,) float32, its box in pixels, right and bottom exclusive.
            out_hw: (H, W) bool, all False; the moved mask is written here.

        Returns:
            Its support: the share, in [0, 1], of its cells that look as they did in the marked
            frame.
        """
        x, y, columns, rows = self._cells_from(box_xyxy)
        if not columns:
            return 0.0
        px, region = self.grid.cell_px, (slice(y, y + rows), slice(x, x + columns))
        source_x, source_y = (
            self._cv2.resize(self._offset_xy[region][..., axis] * px, (columns * px, rows * px))
            for axis in range(2)
        )
        source_x += np.arange(x * px, (x + columns) * px, dtype=np.float32)
        source_y += np.arange(y * px, (y + rows) * px, dtype=np.float32)[:, None]
        patch_hw = self._cv2.remap(
            mask_hw.view(np.uint8), source_x, source_y, self._cv2.INTER_LINEAR
        ).view(np.bool_)
        inner_hw = out_hw[y * px : (y + rows) * px, x * px : (x + columns) * px]
        inner_hw[:] = patch_hw[: inner_hw.shape[0], : inner_hw.shape[1]]
        same = self._is_same_hw[region][patch_hw[px // 2 :: px, px // 2 :: px]]
        return float(same.mean()) if same.size else 1.0

    def _cells_from(self, box_xyxy: np.ndarray) -> tuple[int, int, int, int]:
        """Left, top, columns and rows of the cells that came from a box in the marked frame."""
        cells_xyxy = (box_xyxy.reshape(2, 2) - 0.5) / self.grid.cell_px - 0.5
        low_xy, high_xy = cells_xyxy[0] - 1, cells_xyxy[1] + 1
        origin_xy = self._cell_xy + self._offset_xy
        return self._cv2.boundingRect(self._cv2.inRange(origin_xy, low_xy, high_xy))

    def _look(self, frame_hwc: np.ndarray) -> None:
        """Average the pixels of each cell of the newest frame."""
        cv2, (rows, columns), px = self._cv2, self.grid.size_hw, self.grid.cell_px
        height, width = self.grid.frame_hw
        below, right = rows * px - height, columns * px - width
        if below or right:
            frame_hwc = cv2.copyMakeBorder(frame_hwc, 0, below, 0, right, cv2.BORDER_REPLICATE)
        if px > SAMPLES_A_SIDE:
            sampled_wh = columns * SAMPLES_A_SIDE, rows * SAMPLES_A_SIDE
            frame_hwc = cv2.resize(frame_hwc, sampled_wh, interpolation=cv2.INTER_NEAREST)
        self._colors_hwc = cv2.resize(frame_hwc, (columns, rows), interpolation=cv2.INTER_AREA)
        self._gray_hw = cv2.cvtColor(self._colors_hwc, cv2.COLOR_RGB2GRAY)
