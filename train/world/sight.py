"""What a person would agree to see in a drawn scene: yes, no, or a matter of opinion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .catalogue import CATEGORIES
from .scene import SceneObject
from .truth import Drawing, Target, visible_objects

Verdict = bool | None
"""True and False are clear to all; None is a matter of opinion, so no phrase may hang on it."""

_CLEAR_PART_AREA = 0.0006
"""Below this area, in squared shorter sides, a part is too small to speak of."""
_MOST_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One object as it shows in the image. Lengths are in shorter sides, areas in their squares."""

    index: int
    """Index into `Scene.objects`."""
    thing: SceneObject
    """The object itself."""
    box_xyxy: tuple[float, float, float, float]
    """Left, top, right and bottom of its visible pixels."""
    area: float
    """Visible area."""
    full_area: float
    """Area inside the image if nothing covered it."""
    parts: tuple[str, ...]
    """Names of the parts that show clearly, in the catalogue's order."""
    traces: tuple[str, ...]
    """Names of the parts that show at least one pixel."""
    is_clear: bool
    """True when enough of it shows to speak of it; the others make a phrase doubtful."""

    @property
    def center_xy(self) -> tuple[float, float]:
        """Centre of the visible box."""
        left, top, right, bottom = self.box_xyxy
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All objects that show at least one pixel, and who covers whom."""

    split: str
    """The scene's split."""
    width: float
    """Width of the image in shorter sides."""
    height: float
    """Height of the image in shorter sides."""
    seen: tuple[Seen, ...]
    """The visible objects in drawing order."""
    covered: tuple[tuple[float, ...], ...]
    """[i][j]: the area of object j that object i covers; both index `Scene.objects`."""

    @property
    def clear(self) -> tuple[Seen, ...]:
        """The objects that may be spoken of."""
        return tuple(one for one in self.seen if one.is_clear)

    def matches(self, holds: Callable[[Seen], Verdict]) -> tuple[Seen, ...] | None:
        """Return the objects of which `holds` is true; None when opinions may differ on any."""
        found = []
        for one in self.seen:
            verdict = holds(one)
            if verdict is False:
                continue
            if verdict is None or not one.is_clear:
                return None
            found.append(one)
        return tuple(found)


def look(drawing: Drawing) -> View:
    """Measure every visible object of a drawing once."""
    scene, short = drawing.scene, min(drawing.instance_map_hw.shape)
    height, width = drawing.instance_map_hw.shape
    clear = visible_objects(drawing)
    part_areas = _part_px(drawing) / short**2
    seen = tuple(
        Seen(
            index=index,
            thing=thing,
            box_xyxy=tuple((drawing.boxes_xyxy[index] / short).tolist()),
            area=float(drawing.visible_px[index]) / short**2,
            full_area=float(drawing.full_px[index]) / short**2,
            parts=_parts(thing, part_areas[index] >= _CLEAR_PART_AREA),
            traces=_parts(thing, part_areas[index] > 0),
            is_clear=index in clear,
        )
        for index, thing in enumerate(scene.objects)
        if drawing.visible_px[index]
    )
    return View(
        split=scene.split,
        width=width / short,
        height=height / short,
        seen=seen,
        covered=tuple(map(tuple, (drawing.hidden_px / short**2).tolist())),
    )


def _part_px(drawing: Drawing) -> np.ndarray:
    """Return the visible pixels of each object's parts as int64 (n, parts)."""
    label_hw = drawing.instance_map_hw.astype(np.int16) * _MOST_PARTS + drawing.part_map_hw
    count = len(drawing.scene.objects) + 1
    table = np.bincount(label_hw.ravel(), minlength=count * _MOST_PARTS)
    return table.reshape(count, _MOST_PARTS)[1:, 1:]


def _parts(thing: SceneObject, shows: np.ndarray) -> tuple[str, ...]:
    parts = CATEGORIES[thing.category].parts
    return tuple(part.name for part, is_shown in zip(parts, shows, strict=False) if is_shown)


def targets_of(seen: Iterable[Seen], part: str | None = None) -> tuple[Target, ...]:
    """Return whole objects, or one part of each, as targets."""
    return tuple(Target(object_index=one.index, part=part) for one in seen)
