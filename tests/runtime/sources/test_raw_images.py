import cv2
import numpy as np
import pytest

from saymask.runtime.errors import FrameError, SourceError
from saymask.runtime.sources.raw_images import (
    ENCODINGS,
    RawImage,
    rgb_from_compressed,
    rgb_from_raw,
)

PATTERNS = {"rggb": (0, 1, 1, 2), "bggr": (2, 1, 1, 0), "gbrg": (1, 2, 0, 1), "grbg": (1, 0, 2, 1)}
"""Channels of RGB at the four places of each pattern, row by row."""

COLORS = ("rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16", "rgba16", "bgra16", "8UC3", "8UC4")
GRAYS = ("mono8", "mono16", "8UC1")
SHARED = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21")


def _raw(samples: np.ndarray, encoding: str, size_hw, padding: int = 0, order: str = "<"):
    """Lay rows of samples (rows, columns, ...) out as a driver does, with padding."""
    if encoding.endswith("16"):
        samples = (samples.astype(np.uint16) * 256 + 7).astype(f"{order}u2")
    lines = np.ascontiguousarray(samples).view(np.uint8).reshape(len(samples), -1)
    lines = np.pad(lines, ((0, 0), (0, padding)), constant_values=200)
    return RawImage(
        encoding=encoding,
        size_hw=size_hw,
        step_bytes=lines.shape[1],
        is_bigendian=order == ">",
        data=lines.tobytes(),
    )


def _packed(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Write an RGB picture in an encoding, 8 bits a sample."""
    plain = encoding.rstrip("0123456789")
    if plain in ("bgr", "8UC"):
        return rgb[..., ::-1]
    if plain in ("rgba", "bgra"):
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA if plain == "rgba" else cv2.COLOR_RGB2BGRA)
    return rgb


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", COLORS)
def test_colors_are_exact(frame, encoding, padding, order):
    packed = (
        cv2.cvtColor(frame, cv2.COLOR_RGB2BGRA) if encoding == "8UC4" else _packed(frame, encoding)
    )
    seen = rgb_from_raw(_raw(packed, encoding, (90, 120), padding * 2, order))
    np.testing.assert_array_equal(seen, frame)
    assert seen.flags.c_contiguous
    assert seen.flags.owndata


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("encoding", GRAYS)
def test_grays_become_rgb(frame, encoding, order):
    seen = rgb_from_raw(_raw(frame[..., 0], encoding, (90, 120), 2, order))
    np.testing.assert_array_equal(seen, np.repeat(frame[..., :1], 3, axis=2))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_mosaics_get_their_colors_back(frame, pattern, bits):
    mosaic = np.empty(frame.shape[:2], np.uint8)
    for place, channel in enumerate(PATTERNS[pattern]):
        here = np.s_[place // 2 :: 2, place % 2 :: 2]
        mosaic[here] = frame[here][..., channel]
    seen = rgb_from_raw(_raw(mosaic, f"bayer_{pattern}{bits}", (90, 120), 4))
    assert np.abs(seen.astype(int) - frame).mean() < 4
    np.testing.assert_array_equal(seen[40, 30], (255, 0, 0))


def _shared(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Write a picture with two pixels, or four, to a color (ITU-R BT.601, limited range)."""
    scale = rgb.astype(float) / 255
    luma = 16 + scale @ (65.481, 128.553, 24.966)
    blue = 128 + scale @ (-37.797, -74.203, 112.0)
    red = 128 + scale @ (112.0, -93.786, -18.214)
    luma, blue, red = (np.rint(plane).astype(np.uint8) for plane in (luma, blue, red))
    if encoding.startswith("nv"):
        first, second = (blue, red) if encoding == "nv12" else (red, blue)
        colors = np.stack([first[::2, ::2], second[::2, ::2]], axis=2)
        return np.concatenate([luma, colors.reshape(-1, luma.shape[1])])
    colors = np.where(np.arange(rgb.shape[1]) % 2, np.roll(red, 1, axis=1), blue)
    is_color_first = encoding in ("yuv422", "uyvy")
    return np.stack([colors, luma] if is_color_first else [luma, colors], axis=2)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", SHARED)
def test_shared_colors_are_near(frame, encoding, padding):
    seen = rgb_from_raw(_raw(_shared(frame, encoding), encoding, (90, 120), padding))
    assert np.abs(seen.astype(int) - frame).max() <= 3


def test_every_encoding_is_tested():
    mosaics = {f"bayer_{pattern}{bits}" for pattern in PATTERNS for bits in (8, 16)}
    assert set(ENCODINGS) == {*COLORS, *GRAYS, *SHARED, *mosaics}


def test_an_unknown_encoding_lists_the_known_ones(frame):
    with pytest.raises(SourceError) as caught:
        rgb_from_raw(_raw(frame, "32FC1", (90, 120)))
    assert "must be one of rgb8" in str(caught.value)
    assert "got '32FC1'" in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "size_hw", "step_bytes", "count"),
    [
        ("rgb8", (4, 6), 18, 71),
        ("rgb8", (4, 6), 18, 73),
        ("rgb8", (4, 6), 17, 68),
        ("rgb8", (0, 6), 18, 0),
        ("mono16", (4, 6), 6, 24),
        ("nv12", (4, 6), 6, 24),
        ("nv12", (3, 6), 6, 24),
        ("yuyv", (4, 5), 10, 40),
    ],
)
def test_wrong_sizes_are_refused(encoding, size_hw, step_bytes, count):
    image = RawImage(
        encoding=encoding,
        size_hw=size_hw,
        step_bytes=step_bytes,
        is_bigendian=False,
        data=bytes(count),
    )
    with pytest.raises(FrameError, match=f"got a step of {step_bytes} and {count} bytes"):
        rgb_from_raw(image)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_compressed_pictures_are_read(frame, suffix):
    data = cv2.imencode(suffix, frame[..., ::-1])[1].tobytes()
    seen = rgb_from_compressed(memoryview(data), "rgb8; compressed bgr8")
    assert np.abs(seen.astype(int) - frame).mean() < (3 if suffix == ".jpg" else 1e-9)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_pictures_are_refused(frame, suffix, capfd):
    data = cv2.imencode(suffix, frame[..., ::-1])[1].tobytes()
    for kept in (0, 5, len(data) // 2):
        with pytest.raises(FrameError, match=f"got {kept} bytes called 'h264'"):
            rgb_from_compressed(data[:kept], "h264")
