"""Image and video files to read, and the console script to run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def write_image(frame: np.ndarray) -> Callable[[Path], Path]:
    """Writes `frame` in the format of the path's suffix."""
    import cv2

    def write(path: Path) -> Path:
        path.write_bytes(cv2.imencode(path.suffix, frame[..., ::-1])[1].tobytes())
        return path

    return write


@pytest.fixture
def image_file(tmp_path: Path, write_image: Callable[[Path], Path]) -> Path:
    """PNG of `frame`."""
    return write_image(tmp_path / "table.png")


@pytest.fixture
def write_video(frame: np.ndarray) -> Callable[..., Path]:
    """Writes `frame`, which moves one pixel to the right each time, at 25 Hz."""
    import av

    def write(path: Path, count: int = 12, codec: str = "h264", **options: str) -> Path:
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
            for index in range(count):
                image = av.VideoFrame.from_ndarray(np.roll(frame, index, axis=1), format="rgb24")
                image.pts = index
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def video_file(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """MP4 of 12 frames whose index comes first, so that its beginning plays alone."""
    return write_video(tmp_path / "walk.mp4", movflags="faststart")


@pytest.fixture
def saymask(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the console script in a process of its own, in `tmp_path`."""
    script = Path(sys.executable).with_name("saymask")

    def run(*words: str | Path, shell: str = 'exec "$@"') -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = ["sh", "-c", shell, "sh", str(script), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run
