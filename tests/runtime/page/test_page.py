from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

import av
import numpy as np
import pytest

from saymask.runtime.errors import OutputError, PromptError, UsageError
from saymask.runtime.live.prompt_board import PromptBoard
from saymask.runtime.masks import Masks
from saymask.runtime.page import Page
from saymask.runtime.page import feed as page_feed
from saymask.runtime.page import http as page_http
from saymask.runtime.prompt import Prompt
from saymask.runtime.sources import Frame

ANY_PORT = "127.0.0.1:0"


@pytest.fixture
def board() -> PromptBoard:
    return PromptBoard(["the red square", "größe <b>"])


@pytest.fixture
def page(board) -> Iterator[Page]:
    with Page(ANY_PORT, board) as page:
        yield page


@pytest.fixture
def write(frame) -> Callable[[Page, int], None]:
    """Writes a frame with one mask."""
    masks = Masks.of(frame[None, ..., 0] > 200, np.float32([0.875]), ("the red square",))
    masks = replace(masks, timings_ms=(("image", 2.0),))

    def write(page: Page, index: int = 0) -> None:
        now_ns = time.monotonic_ns()
        page.write(
            Frame(image_hwc=frame, name="cam", index=index, captured_ns=now_ns, time_s=0), masks
        )

    return write


@contextmanager
def _asked(
    page: Page, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> Iterator[HTTPResponse]:
    address = urlsplit(page.url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def _status(page: Page, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Status and complaint."""
    with _asked(page, path, method, **headers) as answer:
        body = answer.read()
        return answer.status, json.loads(body)["error"] if answer.status != 200 else ""


def _figures(page: Page) -> dict:
    with _asked(page, "/figures") as answer:
        return json.loads(answer.read())


def _post(page: Page, value: object, **headers: str) -> tuple[int, dict]:
    headers = {"Content-Type": "application/json", **headers}
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    with _asked(page, "/phrases", "POST", body, **headers) as answer:
        return answer.status, json.loads(answer.read())


def _connect(page: Page) -> socket.socket:
    address = urlsplit(page.url)
    client = socket.socket()
    client.settimeout(10)
    client.connect((address.hostname, address.port))
    return client


def _send(page: Page, data: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    with _connect(page) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65536), b""))


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def _held() -> tuple[int, int]:
    """Open descriptors and running threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208


def test_the_page_allows_its_own_script_and_style_alone(page) -> None:
    with _asked(page, "/?x=1") as answer:
        html = answer.read().decode()
        policy = answer.headers["Content-Security-Policy"]
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='; style-src 'sha256-[\w+/]{43}='$", policy)
    assert not re.search(r"(src|href)=.?(https?:)?//", html)
    assert not re.search(r" style=| on\w+=", html)


def test_figures_say_what_is_shown(page, write) -> None:
    figures = _figures(page)
    assert figures["silent_ms"] is None
    assert [phrase["score"] for phrase in figures["phrases"]] == [None, None]
    for index in (0, 1, 5):
        write(page, index)
    figures = _figures(page)
    assert figures["revision"] == figures["clients"] == 0
    assert figures["phrases"] == [
        {"text": "the red square", "color": "#00a8ff", "score": 0.875},
        {"text": "größe <b>", "color": "#ff6b35", "score": None},
    ]
    assert (figures["frames"], figures["dropped"]) == (3, 3)
    assert figures["stages_ms"] == {"image": 2.0}
    assert 0 <= figures["age_ms"]["p50"] <= figures["age_ms"]["p90"] < 1000
    assert figures["fps"] > 0


def test_a_picture_is_there_once_a_frame_is(page, write) -> None:
    assert _status(page, "/frame.jpg")[0] == 503
    write(page)
    with _asked(page, "/frame.jpg") as answer:
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.read()[:3] == b"\xff\xd8\xff"


def test_the_stream_sends_each_picture_with_the_head_of_the_next(page, write) -> None:
    write(page)
    head = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    with _asked(page, "/stream") as answer:
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        assert answer.read(len(head)) == head
        for index in range(1, 4):
            part = b""
            while not part.endswith(head):
                part += answer.read1(1 << 16)
            assert part.startswith(b"\xff\xd8\xff")
            assert part.endswith(b"\xff\xd9\r\n" + head)
            write(page, index)


def test_other_programs_can_read_the_stream(page, write) -> None:
    is_over = threading.Event()

    def write_on() -> None:
        while not is_over.wait(0.01):
            write(page)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        with av.open(f"{page.url}stream", format="mpjpeg") as container:
            for _, picture in zip(range(3), container.decode(video=0), strict=False):
                assert (picture.height, picture.width) == (5 * 90, 5 * 120)
    finally:
        is_over.set()
        writer.join()


def test_phrases_are_posted(page, board) -> None:
    assert _post(page, {"phrases": ["the blue square", "ein Löffel"]}) == (200, {"revision": 1})
    assert board.read() == (1, (Prompt("the blue square"), Prompt("ein Löffel")))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"phrases": []}, "at least one prompt must be given"),
        ({"phrases": ["the mug", " "]}, "must hold words"),
        ({"phrases": ["\ud800"]}, "UTF-8 can hold"),
        ({"phrases": ["x" * 10_000]}, "2000 characters at most; got 10000; say it shorter"),
        ({"phrases": ["x"] * 17}, "16 phrases at most; got 17"),
        ({"phrases": "the mug"}, "the body must be"),
        ({"phrases": [1]}, "the body must be"),
        (["the mug"], "the body must be"),
        (b"{", "the body must be JSON"),
    ],
)
def test_phrases_that_cannot_be_are_refused_and_the_old_ones_stay(
    page, board, value, complaint
) -> None:
    before = board.read()
    status, answer = _post(page, value)
    assert status == 400
    assert complaint in answer["error"]
    assert board.read() == before


def test_prompts_are_checked_before_they_are_posted(board) -> None:
    def check(prompts: Sequence[Prompt]) -> None:
        if "lamp" in prompts[0].text:
            raise PromptError("a prompt must have 16 tokens at most; got 20")

    with Page(ANY_PORT, board, check=check) as page:
        status, answer = _post(page, {"phrases": ["the lamp"]})
        assert (status, answer["error"]) == (400, "a prompt must have 16 tokens at most; got 20")
        assert _post(page, {"phrases": ["the mug"]})[0] == 200
    assert board.read()[0] == 1


def test_unknown_paths_and_methods_are_refused(page) -> None:
    for path in ("/x", "/page.html", "/../page.py", "/%2e%2e/page.py", "//etc/passwd", "/stream/"):
        status, complaint = _status(page, path)
        assert status == 404
        assert "a path must be one of /, /stream, /frame.jpg, /figures, /phrases" in complaint
    for path, method in (("/", "POST"), ("/phrases", "GET"), ("/stream", "PUT"), ("/", "OPTIONS")):
        with _asked(page, path, method, b"") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] in ("GET", "POST")


def test_who_asks_is_looked_at(page) -> None:
    assert _status(page, "/figures", Host="evil.com")[0] == 403
    assert _post(page, {"phrases": ["a"]}, Origin="http://evil.com")[0] == 403
    assert _post(page, {"phrases": ["a"]}, Content_Type="text/plain")[0] == 415
    assert _post(page, b" " * 70_000)[0] == 413


def test_a_token_opens_the_page(board) -> None:
    with Page(ANY_PORT, board, token="s3cret") as page:
        assert _status(page, "/figures")[0] == 401
        assert _status(page, "/nothing")[0] == 401
        assert _status(page, "/figures", Authorization="Bearer s3cret")[0] == 200
        with _asked(page, "/?token=s3cret") as answer:
            assert answer.status == 200
            cookie = answer.headers["Set-Cookie"].split(";")[0]
        assert _status(page, "/figures", Cookie=cookie, Host="any.name")[0] == 200
        assert "s3cret" not in page.url


def test_ipv6_is_served(board) -> None:
    with Page("[::1]:0", board) as page:
        assert re.fullmatch(r"http://\[::1\]:\d+/", page.url)
        assert _figures(page)["revision"] == 0


def test_the_outside_needs_a_token(board) -> None:
    with pytest.raises(UsageError, match="must have a token"):
        Page("0.0.0.0:8080", board)


def test_a_taken_port_is_one_clear_error(page, board) -> None:
    port = urlsplit(page.url).port
    with pytest.raises(OutputError, match=f"127.0.0.1:{port} cannot be taken.*another port"):
        Page(f"127.0.0.1:{port}", board).__enter__()


def test_a_port_is_free_again_at_once(board, write) -> None:
    with Page(ANY_PORT, board) as page:
        write(page)
        port = urlsplit(page.url).port
        watcher = _connect(page)
        watcher.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert watcher.recv(100)
    with watcher, Page(f"127.0.0.1:{port}", board) as page:
        assert _figures(page)["frames"] == 0


def test_malformed_requests_leave_no_trace(page, board, write) -> None:
    held = _held()
    noise = np.random.default_rng(0).bytes(3000)
    for data in (
        b"\0" * 20_000,
        noise,
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nx\r\n\r\n",
        b"\xff\r\n\r\n",
    ):
        assert re.match(rb"HTTP/1.1 4\d\d ", _send(page, data + b"\r\n\r\n"))
    _connect(page).close()
    write(page)
    assert _figures(page)["frames"] == 1
    _wait_until(lambda: _held() <= held)


def test_who_dawdles_is_let_go(page, monkeypatch) -> None:
    monkeypatch.setattr(page_http, "PATIENCE_S", 0.2)
    with _connect(page) as client:
        start = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\n")
        while not (answer := _received(client)):
            client.sendall(b"X-A: 1\r\n")
            time.sleep(0.02)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - start < 5


def _received(client: socket.socket) -> bytes:
    client.setblocking(False)
    try:
        return client.recv(4096)
    except BlockingIOError:
        return b""
    finally:
        client.settimeout(10)


def test_nothing_is_drawn_while_nobody_looks(page, write, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(page_feed, "draw", lambda *_: drawn.append(1))
    for index in range(50):
        write(page, index)
    assert _figures(page)["frames"] == 50
    assert not drawn


def test_what_fails_on_a_thread_reaches_the_writer(board, write, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(page_feed, "draw", fail)

    def show_and_write() -> None:
        with Page(ANY_PORT, board) as page:
            write(page)
            _send(page, b"GET /frame.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
            write(page, 1)

    held = _held()
    with pytest.raises(OutputError, match="live page must be served, which failed.*no ink"):
        show_and_write()
    _wait_until(lambda: _held() <= held)
