"""A handful of the world's pictures that travel with a checkpoint, for calibration and the gate."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from ..calibration.samples import PHRASES_FILE
from ..kernels import rle
from .world.compose import compose
from .world.draw import draw
from .world.speak import express
from .world.truth import mask_of

PICTURES = 48
SIZE_HW = (240, 320)
PER_TASK = 3
JPEG_QUALITY = 95


def write_samples(folder: Path, *, tasks: tuple[str, ...], split: str = "val") -> None:
    """Write `samples/` with JPEG pictures and a `phrases.jsonl` into `folder`.

    Args:
        folder: A checkpoint's folder.
        tasks: What to say of each picture, three phrases of each.
        split: Split of the pictures; it is neither trained nor reported on.
    """
    samples = folder / "samples"
    samples.mkdir()
    lines = []
    for seed in range(PICTURES):
        drawing = draw(compose(seed, split), SIZE_HW)
        name = f"{seed:03d}.jpg"
        picture_bgr = cv2.cvtColor(drawing.image_hwc, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(samples / name), picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        for expression in express(drawing, seed=seed, tasks=tasks, per_task=PER_TASK):
            truth = rle.encode(mask_of(drawing, expression.targets))
            row = {"image": name, "text": expression.text, "task": expression.task, "rle": truth}
            lines.append(f"{json.dumps(row)}\n")
    (samples / PHRASES_FILE).write_text("".join(lines))
