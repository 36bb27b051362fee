"""Pictures and clips of the world on disk, each with a line of JSON for everything that is true."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...kernels.rle import encode
from ...runtime.errors import UsageError, require
from ...runtime.replace import replacing
from .clip import compose_clip, frames
from .dialogue import converse
from .expression import Expression
from .pages import Page, draw_pages, save_image
from .sheet import contact_sheet
from .speak import express
from .truth import Drawing, Target, mask_of

_PER_TASK = 4
_SHEET_PHRASES = 48
_QUALITY = {"crf": "18", "preset": "veryfast"}


def write_stills(
    folder: Path,
    *,
    split: str,
    count: int,
    size_hw: tuple[int, int],
    seed: int,
    tasks: Sequence[str],
    has_sheet: bool,
    on_page: Callable[[], None] = lambda: None,
) -> int:
    """Write `images/`, `masks/` and `phrases.jsonl`, and `sheet.png` when asked, all or nothing.

    Args:
        folder: What to create; an existing folder is replaced.
        split: "train", "val" or "test".
        count: How many pictures.
        size_hw: Their height and width in pixels.
        seed: Seed of the first scene; the next ones count up from it.
        tasks: Which of `expression.TASKS`.
        has_sheet: Whether to lay out some phrases on a page to look at.
        on_page: Called when a picture is done.

    Returns:
        The number of phrases, one line each.
    """
    shown: list[tuple[np.ndarray, str, np.ndarray]] = []
    lines: list[str] = []
    with replacing(folder) as scratch:
        (scratch / "masks").mkdir()
        for page in draw_pages(split, count, size_hw, seed):
            image = f"images/{page.image_id:06d}.png"
            save_image(scratch / image, page.drawing.image_hwc)
            for number, expression in enumerate(_said(page.drawing, tasks), start=1):
                mask_hw = mask_of(page.drawing, expression.targets)
                name = f"masks/{page.image_id:06d}_{number:02d}.png"
                cv2.imwrite(str(scratch / name), mask_hw.astype(np.uint8) * 255)
                lines.append(json.dumps(_phrase(page, image, name, expression, mask_hw)))
                if len(shown) < _SHEET_PHRASES:
                    shown.append((page.drawing.image_hwc, expression.text, mask_hw))
            on_page()
        (scratch / "phrases.jsonl").write_text("".join(f"{line}\n" for line in lines))
        if has_sheet and shown:
            save_image(scratch / "sheet.png", contact_sheet(shown))
    return len(lines)


def write_clip(
    path: Path,
    *,
    split: str,
    seed: int,
    size_hw: tuple[int, int],
    frame_count: int,
    rate_hz: int,
    on_frame: Callable[[], None] = lambda: None,
) -> Path:
    """Write a clip as H.264 and, beside it, a line of JSON for each frame.

    Both files appear under their names only when they are whole.

    Args:
        path: The video, for example `clip.mp4`; the truth goes to `clip.jsonl`.
        split: "train", "val" or "test".
        seed: Any integer >= 0.
        size_hw: Height and width in pixels, both even, as H.264 asks.
        frame_count: How many frames, at least 2.
        rate_hz: Frames a second.
        on_frame: Called when a frame is done.

    Returns:
        The path of the truth.

    Raises:
        UsageError: A side is odd, `frame_count` is below 2, or `path` is no `.mp4`.
        MissingExtraError: PyAV is not installed.
    """
    if path.suffix != ".mp4":
        raise UsageError(f"a clip must be called something.mp4, got {path.name!r}; rename it")
    if size_hw[0] % 2 or size_hw[1] % 2:
        raise UsageError(f"H.264 needs even sides, got {size_hw[1]}x{size_hw[0]}; change the size")
    av = require("av", extra="video")
    drawings = frames(compose_clip(seed, split, frame_count), size_hw)
    truth = path.with_suffix(".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        video_path, truth_path = (stack.enter_context(_completed(each)) for each in (path, truth))
        file = stack.enter_context(truth_path.open("w"))
        with av.open(str(video_path), "w", format="mp4") as video:
            stream = video.add_stream("libx264", rate=rate_hz, options=_QUALITY)
            stream.height, stream.width = size_hw
            stream.pix_fmt = "yuv420p"
            for frame, drawing in enumerate(drawings):
                picture = av.VideoFrame.from_ndarray(drawing.image_hwc, format="rgb24")
                video.mux(stream.encode(picture))
                line = _frame_truth(drawing, frame, Fraction(frame, rate_hz))
                file.write(f"{json.dumps(line)}\n")
                on_frame()
            video.mux(stream.encode(None))
    return truth


@contextmanager
def _completed(path: Path) -> Iterator[Path]:
    """Yield a hidden name to write to, which becomes `path` when the block ends well."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _said(drawing: Drawing, tasks: Sequence[str]) -> Iterator[Expression]:
    seed = drawing.scene.seed
    for task in tasks:
        if task == "dialogue":
            dialogue = converse(drawing, seed=seed, rounds=_PER_TASK)
            yield from (turn.expression for turn in dialogue.turns)
        else:
            yield from express(drawing, seed=seed, tasks=(task,), per_task=_PER_TASK)


def _phrase(
    page: Page, image: str, mask: str, expression: Expression, mask_hw: np.ndarray
) -> dict[str, Any]:
    references = [mask_of(page.drawing, (target,)) for target in expression.references]
    return {
        "image": image,
        "task": expression.task,
        "kind": expression.kind,
        "text": expression.text,
        "answer": expression.answer,
        "targets": [_target(page.drawing, target) for target in expression.targets],
        "mask": mask,
        "segmentation": encode(mask_hw),
        "references": [encode(reference_hw) for reference_hw in references],
        "is_held_out": expression.is_held_out,
    }


def _target(drawing: Drawing, target: Target) -> dict[str, Any]:
    thing = drawing.scene.objects[target.object_index]
    return {
        "object": target.object_index,
        "category": thing.category,
        "color": thing.color,
        "part": target.part,
    }


def _frame_truth(drawing: Drawing, frame: int, time_s: Fraction) -> dict[str, Any]:
    objects = []
    for index, thing in enumerate(drawing.scene.objects):
        mask_hw = drawing.instance_map_hw == index + 1
        objects.append(
            {
                "object": index,
                "category": thing.category,
                "color": thing.color,
                "pattern": thing.pattern,
                "size": thing.size,
                "visible_px": int(drawing.visible_px[index]),
                "full_px": int(drawing.full_px[index]),
                "segmentation": encode(mask_hw),
            }
        )
    return {"frame": frame, "time_s": round(float(time_s), 6), "objects": objects}
