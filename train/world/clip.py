"""Moving things under a moving camera: a clip as a value, drawn frame by frame with its truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...runtime.errors import UsageError
from .catalogue import CATEGORIES
from .chance import chance
from .compose import compose
from .draw import draw
from .scene import Camera, Scene
from .truth import Drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How one object moves; it eases from each waypoint to the next."""

    waypoints_xy: tuple[tuple[float, float], ...]
    """Offsets from where it starts, in image widths and heights, evenly spaced in time."""
    turn_deg: float
    """How far it turns over the whole clip, counter-clockwise as seen, in degrees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A scene set in motion; object i of any frame is object i of every frame."""

    scene: Scene
    """The first frame."""
    paths: tuple[Path, ...]
    """One per object; what stands on another rides along with it, so its own path is at rest."""
    camera_xy: tuple[tuple[float, float], ...]
    """Waypoints of `Camera.shift_xy`, evenly spaced in time."""
    camera_zooms: tuple[float, ...]
    """Waypoints of `Camera.zoom`, evenly spaced in time."""
    frame_count: int
    """Number of frames, at least 2."""


_AT_REST = Path(waypoints_xy=((0.0, 0.0),), turn_deg=0.0)


def compose_clip(seed: int, split: str, frame_count: int) -> Clip:
    """Set a scene in motion: one object leaves and returns, two cross, some drift, the camera pans.

    Args:
        seed: Any integer >= 0.
        split: One of `catalogue.SPLITS`.
        frame_count: Number of frames, at least 2.

    Raises:
        UsageError: `frame_count` is below 2.
        UnknownNameError: `split` is not in `catalogue.SPLITS`.
    """
    if frame_count < 2:
        raise UsageError(f"`frame_count` must be at least 2, got {frame_count}; ask for more")
    scene = compose(seed, split)
    rng = chance("motion", split, seed)
    loose = [i for i, thing in enumerate(scene.objects) if thing.supporter is None]
    movers = rng.permutation(loose).tolist()
    paths = [_AT_REST] * len(scene.objects)
    paths[movers[0]] = _leave_and_return(scene, movers[0], rng)
    if len(movers) >= 3:
        first, second = movers[1:3]
        paths[first] = _go_to(scene, first, second)
        paths[second] = _go_to(scene, second, first)
    for index in movers[3:]:
        paths[index] = _drift(scene, index, rng)
    return Clip(
        scene=scene,
        paths=tuple(paths),
        camera_xy=((0.0, 0.0), *_pairs(rng.uniform(-0.08, 0.08, (2, 2)))),
        camera_zooms=(1.0, *(float(zoom) for zoom in rng.uniform(0.92, 1.12, 2))),
        frame_count=frame_count,
    )


def scene_at(clip: Clip, frame: int) -> Scene:
    """Return the scene as it is in frame `frame`, 0 to `clip.frame_count` - 1."""
    time = frame / (clip.frame_count - 1)
    objects = clip.scene.objects
    offsets = [_eased(path.waypoints_xy, time) for path in clip.paths]
    moved = []
    for index, (thing, path) in enumerate(zip(objects, clip.paths, strict=True)):
        x, y = np.add(thing.center_xy, offsets[_root(clip.scene, index)])
        angle = thing.angle_deg + path.turn_deg * time
        moved.append(replace(thing, center_xy=(float(x), float(y)), angle_deg=angle))
    shift_x, shift_y = _eased(clip.camera_xy, time)
    zoom = float(_eased(clip.camera_zooms, time))
    camera = Camera(shift_xy=(float(shift_x), float(shift_y)), zoom=zoom, frame=frame)
    return replace(clip.scene, camera=camera, objects=tuple(moved))


def frames(clip: Clip, size_hw: tuple[int, int]) -> Iterator[Drawing]:
    """Draw every frame in order; `size_hw` is height and width in pixels."""
    for frame in range(clip.frame_count):
        yield draw(scene_at(clip, frame), size_hw)


def _leave_and_return(scene: Scene, index: int, rng: np.random.Generator) -> Path:
    """Cross the nearer side edge, stay away, come back a little higher or lower."""
    x = scene.objects[index].center_xy[0]
    away = -x - 0.45 if x < 0.5 else 1.45 - x
    back = (0.0, float(rng.uniform(-0.1, 0.1)))
    stops = ((0.0, 0.0), (away, 0.0), (away, 0.0), back, back)
    return Path(waypoints_xy=stops, turn_deg=0.0)


def _go_to(scene: Scene, index: int, other: int) -> Path:
    x, y = np.subtract(scene.objects[other].center_xy, scene.objects[index].center_xy)
    return Path(waypoints_xy=((0.0, 0.0), (float(x), float(y))), turn_deg=0.0)


def _drift(scene: Scene, index: int, rng: np.random.Generator) -> Path:
    is_flat = CATEGORIES[scene.objects[index].category].is_flat
    carries = any(thing.supporter == index for thing in scene.objects)
    return Path(
        waypoints_xy=((0.0, 0.0), *_pairs(rng.uniform(-0.12, 0.12, (2, 2)))),
        turn_deg=float(rng.uniform(-120, 120)) if is_flat and not carries else 0.0,
    )


def _pairs(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)


def _root(scene: Scene, index: int) -> int:
    while (below := scene.objects[index].supporter) is not None:
        index = below
    return index


def _eased(waypoints: tuple, time: float) -> np.ndarray:
    """Interpolate evenly spaced waypoints at `time` in [0, 1], slow at each of them."""
    stops = np.asarray(waypoints, dtype=np.float64)
    position = time * (len(stops) - 1)
    before = min(int(position), max(0, len(stops) - 2))
    t = position - before
    after = min(before + 1, len(stops) - 1)
    return stops[before] + (stops[after] - stops[before]) * (t * t * (3 - 2 * t))
