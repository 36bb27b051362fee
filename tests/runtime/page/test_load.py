"""The live page under load: clients that storm in, that never read, and that are too many."""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import numpy as np
import pytest

from saymask.runtime.live.prompt_board import PromptBoard
from saymask.runtime.masks import Masks
from saymask.runtime.page import Page
from saymask.runtime.page import http as page_http
from saymask.runtime.sources import Frame

ANY_PORT = "127.0.0.1:0"
STREAM = b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
FIGURES = b"GET /figures HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def page() -> Iterator[Page]:
    with Page(ANY_PORT, PromptBoard("a box")) as page:
        yield page


@pytest.fixture
def shot() -> tuple[np.ndarray, Masks]:
    """A frame that makes large pictures, and its masks."""
    image_hwc = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    boolean = np.zeros((1, 480, 640), bool)
    boolean[:, 100:300, 200:400] = True
    return image_hwc, Masks.of(boolean, np.float32([0.5]), ("a box",))


def _write(page: Page, shot: tuple[np.ndarray, Masks], index: int) -> None:
    frame = Frame(
        image_hwc=shot[0], name="cam", index=index, captured_ns=time.monotonic_ns(), time_s=0
    )
    page.write(frame, shot[1])


def _connect(page: Page, *, receive_bytes: int = 1 << 16) -> socket.socket:
    address = urlsplit(page.url)
    client = socket.socket()
    client.settimeout(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect((address.hostname, address.port))
    return client


def _ask(page: Page, data: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    with _connect(page) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65536), b""))


def _watching(page: Page) -> int:
    return json.loads(_ask(page, FIGURES).partition(b"\r\n\r\n")[2])["clients"]


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def _held() -> tuple[int, int]:
    """Open descriptors and running threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208


def test_it_can_be_left_while_frames_come_and_somebody_watches(shot) -> None:
    for _ in range(40):
        with ExitStack() as clients:
            with Page(ANY_PORT, PromptBoard("a box")) as page:
                watcher = clients.enter_context(_connect(page))
                watcher.sendall(STREAM)
                assert watcher.recv(100)
                for index in range(4):
                    _write(page, shot, index)
                release = threading.Timer(4, watcher.shutdown, (socket.SHUT_RDWR,))
                release.start()
                start = time.monotonic()
            release.cancel()
            release.join()
            assert time.monotonic() - start < 3


def test_it_can_be_left_while_clients_storm_in() -> None:
    def storm(address: tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                socket.create_connection(address, 0.2).close()

    for _ in range(8):
        with Page(ANY_PORT, PromptBoard("a box")) as page:
            address = ("127.0.0.1", urlsplit(page.url).port or 0)
            storms = [threading.Thread(target=storm, args=(address,)) for _ in range(3)]
            for each in storms:
                each.start()
            time.sleep(0.02)
            start = time.monotonic()
        assert time.monotonic() - start < 3
        for each in storms:
            each.join()
        gc.collect()  # a socket that was lost warns here


def test_watchers_are_bounded_and_their_places_are_free_again(page) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            watcher = stack.enter_context(_connect(page))
            watcher.sendall(STREAM)
            assert watcher.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert re.match(rb"HTTP/1.1 503 .*\r\nRetry-After: 5\r\n", _ask(page, STREAM), re.DOTALL)
        assert _watching(page) == 8
    # They left before the first frame; no picture had to fail for that to be seen.
    _wait_until(lambda: _watching(page) == 0)


def test_connections_are_bounded(page) -> None:
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(_connect(page)).sendall(b"GET")
        _wait_until(lambda: b" 503 " in _ask(page, b"")[:20])
    _wait_until(lambda: _ask(page, FIGURES)[9:12] == b"200")


def test_a_client_that_never_reads_holds_nobody_up(shot, monkeypatch) -> None:
    """Two clients read 200 frames a second as fast as they may; the third is dropped."""
    monkeypatch.setattr(page_http, "PATIENCE_S", 0.5)
    held = _held()
    parts: list[int] = [0, 0]
    costs_ms = []

    def read(number: int, client: socket.socket) -> None:
        while data := client.recv(1 << 16):
            parts[number] += data.count(b"\xff\xd8\xff")

    with ExitStack() as clients:
        with Page(ANY_PORT, PromptBoard("a box")) as page:
            watchers = [clients.enter_context(_connect(page)) for _ in range(2)]
            deaf = clients.enter_context(_connect(page, receive_bytes=4096))
            for client in (*watchers, deaf):
                client.sendall(STREAM)
            readers = [threading.Thread(target=read, args=each) for each in enumerate(watchers)]
            for reader in readers:
                reader.start()
            _wait_until(lambda: _watching(page) == 3)
            start_ns = time.monotonic_ns()
            for index in range(400):
                due_ns = start_ns + index * 5_000_000
                time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
                begin_ns = time.perf_counter_ns()
                _write(page, shot, index)
                costs_ms.append((time.perf_counter_ns() - begin_ns) / 1e6)
            _wait_until(lambda: _watching(page) == 2)
        for reader in readers:
            reader.join(10)
    assert np.percentile(costs_ms, 99) < 5
    assert 5 < min(parts) <= max(parts) < 100  # 30 pictures a second are drawn at most
    _wait_until(lambda: _held() <= held)
