"""The table under the objects, the light over it and the faults of the camera that looks at it."""

from __future__ import annotations

import cv2
import numpy as np

from .chance import chance
from .scene import Scene, Table

_NOISE_CELLS = 48


def table_image(scene: Scene, size_hw: tuple[int, int]) -> np.ndarray:
    """Paint the bare table.

    Returns:
        float32 (H, W, 3) RGB, 0 to 255, before light and camera faults.
    """
    rng = chance("surface", scene.split, scene.seed)
    u_hw, v_hw = _table_coordinates(scene, size_hw)
    if rng.random() < 0.5:
        u_hw, v_hw = v_hw, u_hw
    relief_hw = _RELIEFS[scene.table.texture](u_hw, v_hw, rng)
    return np.array(scene.table.tint_rgb, dtype=np.float32) * (1 + relief_hw[..., None])


def lighten(image_hwc: np.ndarray, table: Table) -> np.ndarray:
    """Brighten the side the light comes from, darken the other; float32 (H, W, 3) to the same."""
    height, width = image_hwc.shape[:2]
    angle = np.radians(table.light_angle_deg)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(0.5, -0.5, height, dtype=np.float32) * np.float32(np.sin(angle))
    gain_hw = 1 + np.float32(table.light_gain) * (x[None, :] + y[:, None])
    return image_hwc * gain_hw[..., None]


def photograph(image_hwc: np.ndarray, scene: Scene) -> np.ndarray:
    """Add blur, sensor noise and JPEG; float32 (H, W, 3) RGB 0 to 255 to uint8 (H, W, 3) RGB."""
    table = scene.table
    rng = chance("sensor", scene.split, scene.seed, frame=scene.camera.frame)
    sigma = table.blur_sigma * min(image_hwc.shape[:2]) / 1000
    if sigma > 0.2:
        image_hwc = cv2.GaussianBlur(image_hwc, (0, 0), sigma)
    noise = rng.standard_normal(image_hwc.shape, dtype=np.float32)
    image_hwc = image_hwc + noise * np.float32(table.noise_sigma)
    photo_hwc = np.clip(image_hwc + 0.5, 0, 255).astype(np.uint8)
    if table.jpeg_quality == 100:
        return photo_hwc
    bgr_hwc = cv2.cvtColor(photo_hwc, cv2.COLOR_RGB2BGR)
    _, coded = cv2.imencode(".jpg", bgr_hwc, (cv2.IMWRITE_JPEG_QUALITY, table.jpeg_quality))
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB))


def _table_coordinates(scene: Scene, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    height, width = size_hw
    short, camera = min(size_hw), scene.camera
    x, y = (np.arange(n, dtype=np.float32) + np.float32(0.5 - n / 2) for n in (width, height))
    shift_x, shift_y = np.multiply(camera.shift_xy, short).astype(np.float32)
    scale = np.float32(1 / (short * camera.zoom))
    u_hw, v_hw = np.meshgrid((x - shift_x) * scale, (y - shift_y) * scale)
    return u_hw, v_hw


def _noise(u_hw: np.ndarray, v_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sample smooth noise of about one bump a unit, mirrored endlessly."""
    cells = rng.standard_normal((_NOISE_CELLS, _NOISE_CELLS), dtype=np.float32)
    middle = np.float32(_NOISE_CELLS / 2)
    return cv2.remap(
        cells, u_hw + middle, v_hw + middle, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def _plain(u_hw: np.ndarray, v_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.02 * _noise(u_hw * 4, v_hw * 4, rng)


def _wood(u_hw: np.ndarray, v_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    plank = np.floor(v_hw * 4)
    tone = np.float32(0.07) * np.sin(plank * 2.4 + np.float32(rng.uniform(0, 6)))
    seam = np.float32(-0.25) * (np.abs(v_hw * 4 - plank - 0.5) > 0.46)
    return tone + seam + 0.06 * _noise(u_hw * 2.5, v_hw * 36, rng)


def _cloth(u_hw: np.ndarray, v_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = np.float32(2 * np.pi * rng.uniform(16, 26))
    weave = 0.05 * (np.sin(u_hw * count) + np.sin(v_hw * count))
    return weave + 0.03 * _noise(u_hw * 6, v_hw * 6, rng)


def _checker(u_hw: np.ndarray, v_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = np.float32(rng.uniform(3, 6))
    odd = (np.floor(u_hw * count) + np.floor(v_hw * count)) % 2
    return 0.16 * odd.astype(np.float32) - 0.08


def _marble(u_hw: np.ndarray, v_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    fog = _noise(u_hw * 5, v_hw * 5, rng)
    vein = np.abs(np.sin(3 * (u_hw + 2 * v_hw) + 1.2 * fog))
    return 0.04 * fog - 0.12 * np.exp(-8 * vein)


def _speckle(u_hw: np.ndarray, v_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.05 * _noise(u_hw * 40, v_hw * 40, rng)


_RELIEFS = {
    "plain": _plain,
    "wood": _wood,
    "cloth": _cloth,
    "checker": _checker,
    "marble": _marble,
    "speckle": _speckle,
}
