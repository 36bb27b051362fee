from __future__ import annotations

import asyncio
import json
import socket
from http import HTTPStatus

import pytest

from saymask.runtime.page import http as page_http
from saymask.runtime.page.http import (
    HEAD_BYTES,
    Connection,
    Refusal,
    Request,
    body_of_json,
    response_head,
)


def _ask(data: bytes, *, ends: bool = True) -> Request:
    """Send bytes to a connection and return what it makes of them."""

    async def ask() -> Request:
        theirs, ours = socket.socketpair()
        with theirs:
            theirs.sendall(data)
            if ends:
                theirs.shutdown(socket.SHUT_WR)
            connection = Connection(*await asyncio.open_connection(sock=ours, limit=HEAD_BYTES))
            try:
                return await connection.request()
            finally:
                connection.close()
                await asyncio.sleep(0)

    return asyncio.run(ask())


def _refused(data: bytes, *, ends: bool = True) -> tuple[int, str]:
    with pytest.raises(Refusal) as refusal:
        _ask(data, ends=ends)
    return refusal.value.status.value, str(refusal.value)


def _posted(body: bytes, content_type: str = "application/json") -> Request:
    head = f"POST /phrases HTTP/1.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return _ask(head.encode() + b"\r\n\r\n" + body)


def test_a_request_is_read_as_it_was_sent() -> None:
    request = _ask(b"GET /a%2e%2e/?x=1&y=? HTTP/1.1\r\nHost: here\r\nX-A: 1\r\nx-a:  2 \r\n\r\n")
    assert (request.method, request.path, request.query) == ("GET", "/a%2e%2e/", "x=1&y=?")
    assert request.headers == {"host": "here", "x-a": "1, 2"}
    assert request.body == b""


def test_a_body_is_as_long_as_it_says() -> None:
    request = _ask(b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcdef")
    assert request.body == b"abc"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: line\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : here\r\n\r\n",
        b"GET / HTTP/1.1\nHost: here\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: he",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
def test_what_is_malformed_is_refused(data) -> None:
    assert _refused(data)[0] == HTTPStatus.BAD_REQUEST


def test_lengths_are_limited() -> None:
    assert _refused(b"GET /" + b"a" * HEAD_BYTES, ends=False)[0] == 431
    long = b"GET / HTTP/1.1\r\nCookie: " + b"a" * HEAD_BYTES + b"\r\n\r\n"
    assert _refused(long)[0] == 431
    assert _ask(b"POST / HTTP/1.1\r\nContent-Length: 65536\r\n\r\n" + b"a" * 65536).body
    status, message = _refused(b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", ends=False)
    assert (status, message) == (413, "a body must fit in 65536 bytes; got 65537; say less")


def test_a_body_without_its_length_is_refused() -> None:
    assert _refused(b"POST / HTTP/1.1\r\n\r\n")[0] == 411
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n"
    assert _refused(chunked)[0] == 411


def test_a_client_that_dawdles_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(page_http, "PATIENCE_S", 0.05)
    assert _refused(b"GET / HTT", ends=False)[0] == 408


def test_a_client_that_says_nothing_is_no_fault() -> None:
    with pytest.raises(ConnectionResetError):
        _ask(b"")


def test_a_client_that_never_reads_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(page_http, "PATIENCE_S", 0.1)

    async def flood() -> None:
        theirs, ours = socket.socketpair()
        with theirs:
            connection = Connection(*await asyncio.open_connection(sock=ours))
            try:
                await connection.send(bytes(1 << 24))
            finally:
                connection.close()
                await asyncio.sleep(0)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(flood())


def test_a_refusal_is_json_and_arrives_whole() -> None:
    async def refuse() -> bytes:
        theirs, ours = socket.socketpair()
        with theirs:
            theirs.sendall(bytes(50_000))
            theirs.shutdown(socket.SHUT_WR)
            connection = Connection(*await asyncio.open_connection(sock=ours))
            refusal = Refusal(HTTPStatus.NOT_FOUND, 'no "such" thing', (("Allow", "GET"),))
            await connection.refuse(refusal)
            connection.close()
            await asyncio.sleep(0)
            return b"".join(iter(lambda: theirs.recv(65536), b""))

    head, _, body = asyncio.run(refuse()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nAllow: GET\r\n" in head
    assert json.loads(body) == {"error": 'no "such" thing'}
    assert f"Content-Length: {len(body)}".encode() in head


def test_every_answer_forbids_guesses_and_caches() -> None:
    head = response_head(HTTPStatus.OK, "image/jpeg", (("X-A", "1"),)).decode()
    assert head.endswith("\r\nX-A: 1\r\n\r\n")
    for line in (
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Cross-Origin-Resource-Policy: same-origin",
        "Connection: close",
    ):
        assert f"\r\n{line}\r\n" in head


def test_json_is_read_when_it_is_declared() -> None:
    assert body_of_json(_posted(b'{"a": 1}', "application/json; charset=utf-8")) == {"a": 1}
    with pytest.raises(Refusal, match="Content-Type must be") as refusal:
        body_of_json(_posted(b"{}", "text/plain"))
    assert refusal.value.status == 415


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\xfd", b"[" * 60_000])
def test_what_is_no_json_is_refused(body) -> None:
    with pytest.raises(Refusal, match="must be JSON") as refusal:
        body_of_json(_posted(body))
    assert refusal.value.status == 400
