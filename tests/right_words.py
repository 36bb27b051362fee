"""How well a bundle's masks fit the right words and another scene's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from saymask.calibration.score import score_mask
from saymask.runtime import Segmenter
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw
from saymask.train.world.speak import express
from saymask.train.world.truth import mask_of


def mean_gious(bundle: Path, seeds: Iterable[int]) -> tuple[float, float]:
    """Return the mean gIoU of words about each scene, and of the next scene's words put to it."""
    right, wrong = [], []
    with Segmenter.open(bundle, device="cpu", threads=1) as segmenter:
        for seed in seeds:
            drawing = draw(compose(seed, "test"), (240, 320))
            said = express(drawing, seed=seed, tasks=("single",), per_task=3)
            others = express(draw(compose(seed + 1, "test"), (240, 320)), seed=seed)
            if not said or not others:
                continue
            asked = [*(each.text for each in said), others[0].text]
            masks = segmenter.segment(drawing.image_hwc, asked).boolean
            truths = [mask_of(drawing, each.targets) for each in said]
            right += [score_mask(m, t).giou for m, t in zip(masks, truths, strict=False)]
            wrong.append(score_mask(masks[-1], truths[0]).giou)
    return float(np.mean(right)), float(np.mean(wrong))
