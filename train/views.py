"""Cached views as the networks' inputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..runtime.spec import ViewSpec


def normalized(view_nhwc: np.ndarray, spec: ViewSpec) -> Tensor:
    """Return uint8 (n, h, w, 3) pixels of a view as its normalised float32 (n, 3, h, w)."""
    pixels = torch.from_numpy(np.array(view_nhwc)).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean_rgb, spec.std_rgb))
    return (pixels - mean) / std
