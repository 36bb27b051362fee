"""A seed in, a scene out: which things lie on the table, where, in which color and light."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .catalogue import CATEGORIES, COLORS, HELD_OUT_PAIRS, PATTERNS, SIZES, TEXTURES
from .chance import chance
from .pose import pixel_from_unit
from .scene import Camera, Scene, SceneObject, Table
from .shapes import TOPS, points_of, shapes_of

_GRID_HW = (64, 64)
_TRIES = 12
_IS_HELD_OUT = 0.18
_REPEATS_A_CATEGORY = 0.35
_STANDS_ON_ANOTHER = 0.8
_OVERLAPS_ANOTHER = 0.35
_MOST_HIDDEN = 0.25
"""Share of the smaller of two objects that the nearer may hide."""
_MOST_HIDDEN_BELOW = 0.9
"""The same for an object and what it stands on."""
_TINTS_RGB = (
    (196, 176, 148),
    (170, 132, 96),
    (126, 92, 66),
    (160, 164, 168),
    (112, 118, 124),
    (150, 166, 156),
    (146, 158, 178),
    (190, 182, 176),
)
_STILL = Camera(shift_xy=(0.0, 0.0), zoom=1.0, frame=0)


def compose(seed: int, split: str) -> Scene:
    """Lay a table with 3 to 9 objects.

    Args:
        seed: Any integer >= 0.
        split: "train", "val" or "test"; the same seed gives unrelated scenes in different splits,
            and only "test" draws the pairs of `HELD_OUT_PAIRS`.

    Raises:
        UnknownNameError: `split` is not one of these.
    """
    rng = chance("layout", split, seed)
    layout = _Layout(Scene(seed=seed, split=split, table=_table(rng), camera=_STILL, objects=()))
    wanted = int(rng.integers(3, 10))
    for _ in range(_TRIES * wanted):
        layout.try_to_add(rng)
        if len(layout.scene.objects) == wanted:
            break
    return _in_depth_order(layout.scene)


def _table(rng: np.random.Generator) -> Table:
    tint = np.array(_TINTS_RGB[rng.integers(len(_TINTS_RGB))]) + rng.integers(-14, 15, 3)
    return Table(
        texture=str(rng.choice(TEXTURES)),
        tint_rgb=(int(tint[0]), int(tint[1]), int(tint[2])),
        light_angle_deg=float(rng.uniform(25, 155)),
        light_gain=float(rng.uniform(0, 0.32)),
        noise_sigma=float(rng.uniform(0, 6)),
        blur_sigma=float(max(0.0, rng.uniform(-4, 5))),
        jpeg_quality=100 if rng.random() < 0.5 else int(rng.integers(55, 96)),
    )


class _Layout:
    """A growing scene and the coarse map of what each of its objects occupies."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.footprints: list[np.ndarray] = []

    def try_to_add(self, rng: np.random.Generator) -> None:
        """Add one more object where it fits, or leave the scene as it is."""
        thing = _thing(rng, self.scene)
        if self._place_on_another(thing, rng):
            return
        most_hidden = _MOST_HIDDEN if rng.random() < _OVERLAPS_ANOTHER else 0.0
        for _ in range(_TRIES):
            x, y = rng.uniform(0.06, 0.94, 2)
            if self._accept(replace(thing, center_xy=(float(x), float(y))), most_hidden):
                return

    def _place_on_another(self, thing: SceneObject, rng: np.random.Generator) -> bool:
        """Stand `thing`, made small enough, on something that is free and broad, if it fits."""
        if CATEGORIES[thing.category].is_flat or rng.random() > _STANDS_ON_ANOTHER:
            return False
        taken = {placed.supporter for placed in self.scene.objects}
        for index, below in enumerate(self.scene.objects):
            if below.category in TOPS and below.size != "small" and index not in taken:
                smaller = replace(thing, size="small" if below.size == "medium" else "medium")
                return self._accept(_stood_on(self.scene, index, smaller), 0.0)
        return False

    def _accept(self, thing: SceneObject, most_hidden: float) -> bool:
        """Add `thing` unless the image or more than `most_hidden` of another is in its way."""
        scene = replace(self.scene, objects=(*self.scene.objects, thing))
        footprint = _footprint(scene, len(self.footprints))
        if footprint is None:
            return False
        area = np.count_nonzero(footprint)
        for index, other in enumerate(self.footprints):
            shared = np.count_nonzero(footprint & other)
            most = _MOST_HIDDEN_BELOW if index == thing.supporter else most_hidden
            if shared > most * min(area, np.count_nonzero(other)):
                return False
        self.scene = scene
        self.footprints.append(footprint)
        return True


def _thing(rng: np.random.Generator, scene: Scene) -> SceneObject:
    color, category = _pair(rng, scene)
    kind = CATEGORIES[category]
    is_patterned = kind.takes_pattern and rng.random() < 0.4
    angle = rng.uniform(-180, 180) if kind.is_flat else np.clip(rng.normal(0, 9), -28, 28)
    return SceneObject(
        category=category,
        color=color,
        pattern=PATTERNS[rng.integers(1, 3)] if is_patterned else "plain",
        size=tuple(SIZES)[rng.choice(3, p=(0.34, 0.42, 0.24))],
        center_xy=(0.5, 0.5),
        angle_deg=float(angle),
        is_flipped=bool(rng.random() < 0.5),
        supporter=None,
    )


def _pair(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    if scene.split == "test" and rng.random() < _IS_HELD_OUT:
        pairs = sorted(HELD_OUT_PAIRS)
        return pairs[rng.integers(len(pairs))]
    placed = sorted({thing.category for thing in scene.objects})
    wanted = placed if placed and rng.random() < _REPEATS_A_CATEGORY else tuple(CATEGORIES)
    category = wanted[rng.integers(len(wanted))]
    colors = [color for color in COLORS if (color, category) not in HELD_OUT_PAIRS]
    return colors[rng.integers(len(colors))], category


def _stood_on(scene: Scene, index: int, thing: SceneObject) -> SceneObject:
    """Return `thing` with its foot on the top of object `index`."""
    thing = replace(thing, angle_deg=thing.angle_deg / 4, supporter=index)
    below = pixel_from_unit(scene, index, (1, 1))
    top_xy = below @ (*TOPS[scene.objects[index].category], 1.0) + 0.5
    upright = pixel_from_unit(replace(scene, objects=(replace(thing, supporter=None),)), 0, (1, 1))
    x, y = top_xy - upright[:, 1] * points_of(thing.category)[:, 1].max()
    return replace(thing, center_xy=(float(x), float(y)))


def _footprint(scene: Scene, index: int) -> np.ndarray | None:
    """Return what object `index` occupies as bool `_GRID_HW`, or None when the edge cuts it."""
    affine = pixel_from_unit(scene, index, _GRID_HW)
    category = scene.objects[index].category
    points = points_of(category) @ affine[:, :2].T + affine[:, 2]
    if points.min() < -0.02 * _GRID_HW[0] or points.max() > 1.02 * _GRID_HW[0]:
        return None
    fixed = np.round(points).astype(np.int32)
    grid = np.zeros(_GRID_HW, dtype=np.uint8)
    start = 0
    for shape in shapes_of(category):
        for contour in shape.contours:
            cv2.fillPoly(grid, [fixed[start : start + len(contour)]], 1)
            start += len(contour)
    return grid.astype(bool)


def _in_depth_order(scene: Scene) -> Scene:
    """Sort the objects, farthest first, and follow the supporters to their new places."""
    order = sorted(range(len(scene.objects)), key=lambda index: _depth(scene, index))
    things = [scene.objects[index] for index in order]
    objects = (
        thing if thing.supporter is None else replace(thing, supporter=order.index(thing.supporter))
        for thing in things
    )
    return replace(scene, objects=tuple(objects))


def _depth(scene: Scene, index: int) -> tuple[float, ...]:
    """Rank by the lowest point, which is nearest; what stands on a thing comes right after it."""
    thing = scene.objects[index]
    if thing.supporter is not None:
        return (*_depth(scene, thing.supporter), 0.0)
    row = pixel_from_unit(scene, index, (1, 1))[1]
    return (float((points_of(thing.category) @ row[:2]).max() + row[2]),)
