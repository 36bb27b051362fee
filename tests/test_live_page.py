"""`saymask segment` on a stream, with its page in a real browser."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest

from saymask.runtime.overlay import PALETTE_RGB

from .browser import CHROMIUM, Browser, open_browser, wait_until

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium here; run: apt-get install --no-install-recommends chromium"
)


@pytest.fixture
def command(miniature: Path) -> Iterator[subprocess.Popen[str]]:
    """`saymask segment` on the drawn table, with a page and a line of JSON for every mask."""
    program = "import sys; from saymask.runtime.cli import main; sys.exit(main())"
    stream = "test://tabletop?fps=10&size=480x360&seed=4&loop=20"
    words = ["segment", stream, "--bundle", str(miniature), "--device", "cpu", "--threads", "1"]
    flags = ["--prompt", "the red mug", "--serve", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    with process:
        yield process
        watchdog.cancel()
        process.kill()


def test_a_running_command_obeys_the_page(command, tmp_path) -> None:
    with open_browser(tmp_path) as browser:
        _look_and_type(browser, command)
    command.send_signal(signal.SIGINT)
    assert command.wait(10) == 130


def _look_and_type(browser: Browser, command: subprocess.Popen[str]) -> None:
    assert command.stdout
    assert command.stderr
    url = next(line.split()[-1] for line in command.stderr if "the page is at " in line)
    browser.open(url)
    wait_until(lambda: browser.text("#state") == "live")
    lines = map(json.loads, command.stdout)
    before = next(line for line in lines if line["area_px"])
    assert before["phrase"] == "the red mug"
    # In the page, the mug is tinted in its phrase's color, and so is nothing else.
    wait_until(lambda: _tinted_px(browser.screenshot()) > 200)

    browser.type("the yellow car")
    wait_until(lambda: browser.text("#phrases b") == "the yellow car")
    assert next(line for line in lines if line["phrase"] == "the yellow car")

    body = json.dumps({"phrases": ["the white clock"]}).encode()
    request = Request(f"{url}phrases", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    posted_ns = time.monotonic_ns()
    first = next(line for line in lines if line["captured_ns"] > posted_ns)
    assert first["phrase"] == "the white clock"


def _tinted_px(screenshot: bytes) -> int:
    """Count pixels of the outline's color, which the world does not paint with."""
    seen_bgr = cv2.imdecode(np.frombuffer(screenshot, np.uint8), cv2.IMREAD_COLOR)
    assert seen_bgr is not None
    return int((np.abs(seen_bgr[..., ::-1].astype(int) - PALETTE_RGB[0]).max(-1) < 25).sum())
