"""Low-resolution logits as masks at frame size, with the certainty of each."""

from __future__ import annotations

import numpy as np

from .taps import Taps, resample

__all__ = ["masks_from_logits"]


def masks_from_logits(
    logits_nhw: np.ndarray, vertical: Taps, horizontal: Taps, *, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Upsample logits and cut them at a threshold.

    Args:
        logits_nhw: (N, h, w) float32, one plane of logits a mask.
        vertical: Taps from h to H rows, without negative weights.
        horizontal: Taps from w to W columns, without negative weights.
        threshold: A pixel belongs to its mask when its upsampled logit is above this.

    Returns:
        The masks (N, H, W) bool and their scores (N,) float32: the mean of sigmoid(logit) over
        the mask's pixels, in [0, 1], and 0 for an empty mask.
    """
    masks = np.zeros((len(logits_nhw), len(vertical.start), len(horizontal.start)), np.bool_)
    scores = np.zeros(len(logits_nhw), np.float32)
    for index, logits_hw in enumerate(logits_nhw):
        # Weights are >= 0 and sum to one: without a logit above the threshold in its window, no
        # upsampled one is above it. Most masks are small, so most of the frame is left out.
        is_lit = logits_hw > threshold
        rows = _reached(vertical, is_lit.any(1))
        columns = _reached(horizontal, is_lit.any(0))
        inner_hw = resample(logits_hw.T, horizontal.part(columns)).T
        inner_hw = resample(inner_hw, vertical.part(rows))
        mask_hw = inner_hw > threshold
        masks[index, rows, columns] = mask_hw
        inside = inner_hw[mask_hw]
        if inside.size:
            # Where exp overflows to infinity its reciprocal is the right zero; a stable logaddexp
            # takes 13 times as long.
            with np.errstate(over="ignore"):
                scores[index] = np.reciprocal(1 + np.exp(-inside)).mean()
    return masks, scores


def _reached(taps: Taps, is_lit: np.ndarray) -> slice:
    """The outputs from the first to the last whose window holds a lit sample."""
    window = taps.start[:, None] + np.arange(taps.weight.shape[1])
    reached = np.flatnonzero(is_lit[window].any(1))
    return slice(reached[0], reached[-1] + 1) if reached.size else slice(0)
