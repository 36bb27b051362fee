"""The tabletop world: endless seeded scenes with exact masks, and what can be said of them."""

from __future__ import annotations

from .clip import Clip, compose_clip, frames
from .compose import compose
from .draw import draw
from .scene import Camera, Scene, SceneObject, Table
from .sheet import contact_sheet
from .truth import Drawing, Target, mask_of, visible_fraction, visible_objects

__all__ = [
    "Camera",
    "Clip",
    "Drawing",
    "Scene",
    "SceneObject",
    "Table",
    "Target",
    "compose",
    "compose_clip",
    "contact_sheet",
    "draw",
    "frames",
    "mask_of",
    "visible_fraction",
    "visible_objects",
]
