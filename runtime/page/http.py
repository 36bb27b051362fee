"""HTTP/1.1 as the live page speaks it: one short request a connection, under strict limits."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

__all__ = [
    "HEAD_BYTES",
    "PATIENCE_S",
    "Connection",
    "Headers",
    "Refusal",
    "Request",
    "body_of_json",
    "response_head",
]

HEAD_BYTES = 16 * 1024
"""The request line and all headers together may be this long."""
PATIENCE_S = 5.0
"""A client has this long to ask, and again for taking each piece of the answer."""

_BODY_BYTES = 64 * 1024
_LINGER_S = 1.0
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(r"[0-9]{1,15}")
_VERSIONS = ("HTTP/1.0", "HTTP/1.1")
_ALWAYS = (
    ("Connection", "close"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks."""

    method: str
    """As sent, for example "GET"."""
    path: str
    """As sent, up to the question mark; nothing in it is decoded."""
    query: str
    """What follows the question mark, as sent."""
    headers: Mapping[str, str]
    """Values by names in lower case; those of a repeated name are joined by ", "."""
    body: bytes
    """Content of a POST; empty otherwise."""


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a failure of ours
    """The answer to a request that is not granted."""

    def __init__(self, status: HTTPStatus, message: str, headers: Headers = ()) -> None:
        """Say why in one line."""
        super().__init__(message)
        self.status = status
        self.headers = headers


class Connection:
    """One client: it asks once and is answered, or refused, in time or never."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the two ends; `reader` must have been opened with the limit `HEAD_BYTES`."""
        # Sending ends when the kernel has it all, so a client that doesn't read is noticed.
        writer.transport.set_write_buffer_limits(high=0)
        self._reader = reader
        self._writer = writer

    @property
    def has_left(self) -> bool:
        """True once the client has closed its end."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def request(self) -> Request:
        """Read what is asked.

        Raises:
            Refusal: It is malformed, too long or too late.
        """
        try:
            return await asyncio.wait_for(self._read(), PATIENCE_S)
        except asyncio.TimeoutError:
            raise Refusal(
                HTTPStatus.REQUEST_TIMEOUT, f"a request must be whole within {PATIENCE_S:g} s"
            ) from None

    async def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError: The client has left.
            asyncio.TimeoutError: It does not take what it is sent.
        """
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), PATIENCE_S)

    async def answer(self, content_type: str, body: bytes, headers: Headers = ()) -> None:
        """Send a complete answer; see `send`."""
        await self._reply(HTTPStatus.OK, content_type, body, headers)

    async def answer_json(self, value: object, headers: Headers = ()) -> None:
        """Send a value as JSON; see `send`."""
        await self.answer("application/json", json.dumps(value).encode(), headers)

    async def refuse(self, refusal: Refusal) -> None:
        """Send {"error": why}; see `send`."""
        body = json.dumps({"error": str(refusal)}).encode()
        await self._reply(refusal.status, "application/json", body, refusal.headers)
        # What the client still sends is thrown away: closing over it would reset the connection,
        # and the answer would be lost on its way.
        self._writer.write_eof()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(), _LINGER_S)

    def close(self) -> None:
        """Close at once; what was sent still arrives."""
        self._writer.transport.abort()

    async def _reply(
        self, status: HTTPStatus, content_type: str, body: bytes, headers: Headers
    ) -> None:
        headers = (*headers, ("Content-Length", str(len(body))))
        await self.send(response_head(status, content_type, headers) + body)

    async def _read(self) -> Request:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            method, target, headers = _parse(head.decode("latin-1"))
            length = _length(headers) if method == "POST" else 0
            body = await self._reader.readexactly(length)
        except asyncio.LimitOverrunError:
            raise Refusal(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"a request's headers must fit in {HEAD_BYTES} bytes",
            ) from None
        except asyncio.IncompleteReadError as error:
            if not error.partial:  # it came and left without a word
                raise ConnectionResetError from None
            raise _malformed("a request must be whole; the client left before its end") from None
        path, _, query = target.partition("?")
        return Request(method=method, path=path, query=query, headers=headers, body=body)

    async def _discard(self) -> None:
        while await self._reader.read(HEAD_BYTES):
            pass


def response_head(status: HTTPStatus, content_type: str, headers: Headers = ()) -> bytes:
    """Write the status line and the headers, with those that every answer carries."""
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in (*_ALWAYS, *headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def body_of_json(request: Request) -> object:
    """Read the value in the body.

    Raises:
        Refusal: The body is no JSON, or is not declared as such.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type must be application/json; got {content_type!r}",
        )
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"the body must be JSON, which this is not: {error}") from error


def _parse(head: str) -> tuple[str, str, dict[str, str]]:
    """Read method, target and headers."""
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[1].startswith("/") or words[2] not in _VERSIONS:
        raise _malformed(f"a request must begin as in 'GET / HTTP/1.1'; got {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not (colon and _TOKEN.fullmatch(name)):
            raise _malformed(f"a header must be 'Name: value'; got {line[:80]!r}")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return words[0], words[1], headers


def _length(headers: Mapping[str, str]) -> int:
    """Read how long the body is."""
    text = headers.get("content-length")
    if text is None or "transfer-encoding" in headers:
        raise Refusal(HTTPStatus.LENGTH_REQUIRED, "a body must come with its Content-Length alone")
    if not _LENGTH.fullmatch(text):
        raise _malformed(f"Content-Length must be a number of bytes; got {text[:80]!r}")
    if int(text) > _BODY_BYTES:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"a body must fit in {_BODY_BYTES} bytes; got {text}; say less",
        )
    return int(text)


def _malformed(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, message)
