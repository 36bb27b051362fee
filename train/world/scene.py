"""A tabletop scene as a value: which objects lie where, in which color, before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One object on the table. Lengths are fractions of the image's shorter side."""

    category: str
    """Key of `catalogue.CATEGORIES`, for example "mug"."""
    color: str
    """Key of `catalogue.COLORS`: the color of the category's main parts."""
    pattern: str
    """One of `catalogue.PATTERNS`: "plain", "striped" or "dotted", on the main parts."""
    size: str
    """Key of `catalogue.SIZES`: "small", "medium" or "large"."""
    center_xy: tuple[float, float]
    """Centre in [0, 1] of the image's width and height.

    A supported object keeps its distance to its supporter in shorter sides at any aspect ratio.
    """
    angle_deg: float
    """Rotation, counter-clockwise as seen, in degrees."""
    is_flipped: bool
    """True when mirrored left to right before the rotation."""
    supporter: int | None
    """Index of the object this one stands on; None when it stands on the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What lies under and over the objects: surface, light and camera faults."""

    texture: str
    """One of `catalogue.TEXTURES`."""
    tint_rgb: tuple[int, int, int]
    """Base color of the surface, 0 to 255."""
    light_angle_deg: float
    """Direction the light comes from, counter-clockwise as seen, in degrees; 90 is from above."""
    light_gain: float
    """Strength of the light gradient: 0 is even light, 0.5 is strong."""
    noise_sigma: float
    """Standard deviation of the sensor noise, in grey levels of 255."""
    blur_sigma: float
    """Gaussian blur in thousandths of the shorter side (0 is none)."""
    jpeg_quality: int
    """1 to 100; 100 means no JPEG round trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Where the camera looks; a still looks straight at the whole table."""

    shift_xy: tuple[float, float]
    """How far the picture moves right and down, in shorter sides; (0, 0) in a still."""
    zoom: float
    """Magnification about the image's centre; 1 in a still."""
    frame: int
    """Number of the frame, from 0; it renews the sensor noise and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A whole scene; objects come in drawing order, farthest first: later ones cover earlier."""

    seed: int
    """Any integer >= 0; it also seeds the surface and the sensor noise."""
    split: str
    """One of `catalogue.SPLITS`: "train", "val" or "test"."""
    table: Table
    """Surface, light and camera faults."""
    camera: Camera
    """Where the camera looks."""
    objects: tuple[SceneObject, ...]
    """The objects in drawing order."""
