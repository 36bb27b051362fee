"""Chromium without a window, driven by what it says and is told on two pipes."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# The browser takes commands on its descriptor 3 and answers on 4; no port is opened.
ON_PIPES = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
    "about:blank",
)


class Browser:
    """One tab, driven by the DevTools protocol: JSON messages that a zero byte ends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._count = 0
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": session["sessionId"]}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        assert self._process.stdin
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **self._session}
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (reply := self._receive()).get("id") != self._count:
            pass
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        message = bytearray()
        while (byte := self._process.stdout.read(1)) != b"\0":
            assert byte, "the browser has ended"
            message += byte
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip

    def screenshot(self) -> bytes:
        """PNG of what is seen."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 15
        while self.evaluate("document.readyState") == "loading":
            assert time.monotonic() < deadline, "the page never loaded"
            time.sleep(0.05)

    def value(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({selector!r}).value")

    def count(self, selector: str) -> int:
        return self.evaluate(f"document.querySelectorAll({selector!r}).length")

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({selector!r}).textContent")

    def type(self, words: str) -> None:
        """Type into what has the focus, and press Enter."""
        self.call("Input.insertText", text=words)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r")

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({selector!r}).click()")


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    command = ["sh", "-c", ON_PIPES, "sh", str(CHROMIUM), f"--user-data-dir={profile}", *FLAGS]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    with process:
        try:
            yield Browser(process)
        finally:
            watchdog.cancel()
            process.terminate()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)
