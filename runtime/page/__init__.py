"""The live page: the stream with its masks in a browser, and a box to say what to segment.

It is served with asyncio's streams on a thread of its own: numpy is all that the runtime stands
on, and what matters here, a deadline on every step of every client and one end to all of them,
takes a line each there. Pictures are drawn on a second thread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ..errors import OutputError, SaymaskError, require
from ..live.prompt_board import PromptBoard
from ..masks import Masks
from ..overlay import PALETTE_RGB
from ..prompt import Prompt, prompts_from
from ..sinks import Sink
from ..sources import Frame
from .access import Address, Gate
from .feed import Feed, Picture
from .http import (
    HEAD_BYTES,
    Connection,
    Headers,
    Refusal,
    Request,
    body_of_json,
    response_head,
)

__all__ = ["Page"]

_MOST_CONNECTIONS = 32
_MOST_STREAMS = 8
_MOST_PHRASES = 16
_LONGEST_PHRASE = 2000
_LOOK_UP_S = 1.0
_PART = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
"""Goes before each picture, and at once after the last one, for browsers show a picture when they
have read the head of the next; that is why no part can say how long it is."""
_HTML = Path(__file__).with_name("page.html")

Handler = Callable[[Connection, Request, Headers], Awaitable[None]]


class Page(Sink):
    """Serves the newest frame with its masks, figures, and a box for phrases.

    | route | gives |
    |---|---|
    | GET / | the page |
    | GET /stream | the pictures as they come (multipart/x-mixed-replace), 30 a second at most |
    | GET /frame.jpg | the newest picture |
    | GET /figures | JSON: see `Feed.figures`, and "revision", "phrases", "clients" |
    | POST /phrases | takes {"phrases": ["the red mug"]}, gives {"revision": 1} or {"error": why} |

    Up to 8 clients see the stream, each the newest picture whenever it has taken the one before.
    Nothing is drawn while nobody looks, and nothing that a client does holds `write` up. The
    token and the pictures are not encrypted: across networks, go through ssh -L or a TLS proxy.
    """

    def __init__(
        self,
        address: str,
        board: PromptBoard,
        *,
        token: str | None = None,
        check: Callable[[Sequence[Prompt]], None] | None = None,
    ) -> None:
        """Prepare to serve; entering the block starts it, leaving ends it.

        Args:
            address: "HOST:PORT"; port 0 is any that is free.
            board: Takes what is typed, and says what is shown.
            token: What clients must know; it is required unless the host is a loopback address.
            check: Called before prompts are posted, raises where they cannot be segmented.

        Raises:
            UsageError: The address is none, needs a token, or the token would need quotes.
        """
        self._address = Address.parse(address)
        self._gate = Gate(self._address, token)
        self._board = board
        self._check = check
        self._feed = Feed()
        self._routes: dict[str, tuple[str, Handler]] = {
            "/": ("GET", self._send_page),
            "/stream": ("GET", self._send_stream),
            "/frame.jpg": ("GET", self._send_picture),
            "/figures": ("GET", self._send_figures),
            "/phrases": ("POST", self._take_phrases),
        }
        self._html = _HTML.read_bytes()
        self._policy = ("Content-Security-Policy", _content_policy(self._html.decode()))
        self._clients: set[asyncio.Task[None]] = set()
        self._streams = 0
        self._fault: Exception | None = None

    @property
    def url(self) -> str:
        """Where to open it, without the token; known while it is served."""
        host, port = self._listener.getsockname()[:2]
        name = socket.gethostname() if host in ("0.0.0.0", "::") else self._address.host
        return f"http://{Address(host=name, port=port)}/"

    def write(self, frame: Frame, masks: Masks) -> None:
        """Show a frame, whose arrays must not change any more; see `Sink.write`."""
        self._raise_fault()
        self._feed.put(frame, masks)
        if self._streams:
            self._loop.call_soon_threadsafe(self._announce)

    def __enter__(self) -> Page:
        """Start to serve.

        Raises:
            OutputError: The address cannot be taken.
            MissingExtraError: OpenCV is not installed.
        """
        require("cv2", extra="video")
        self._listener = self._address.listen()
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="saymask-page-painter")
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saymask-page", daemon=True)
        self._thread.start()
        self._is_ready.wait()
        self._raise_fault()
        return self

    def __exit__(self, *exception: object) -> None:
        """Let all clients go."""
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()
        self._painter.shutdown()
        if exception[0] is None:
            self._raise_fault()

    def _raise_fault(self) -> None:
        """Hand the caller what failed on a thread of ours."""
        if isinstance(self._fault, SaymaskError):
            raise self._fault
        if self._fault:
            raise OutputError(
                f"the live page must be served, which failed: {self._fault!r}; report it"
            ) from self._fault

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._fault = error
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_over, self._fresh = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._welcome, sock=self._listener, limit=HEAD_BYTES)
        self._is_ready.set()
        await self._is_over.wait()
        # Who was let in at the last moment is met before the server closes, or asyncio loses him.
        with suppress(NotImplementedError):  # on Windows there is no such moment
            self._loop.remove_reader(self._listener)
        await asyncio.sleep(0)
        server.close()

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Give a client a task of its own, which the end of the loop cancels."""
        connection = Connection(reader, writer)
        if self._is_over.is_set():
            connection.close()
            return
        task = self._loop.create_task(self._meet(connection))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        # Also for a task that is cancelled before it begins.
        task.add_done_callback(lambda _: connection.close())

    async def _meet(self, connection: Connection) -> None:
        """Serve one client from its first byte to its last."""
        try:
            await self._converse(connection)
        except (OSError, asyncio.TimeoutError):
            pass  # the client has left, or takes nothing
        except Exception as error:
            self._fault = error

    async def _converse(self, connection: Connection) -> None:
        try:
            if len(self._clients) > _MOST_CONNECTIONS:
                raise _busy(f"at most {_MOST_CONNECTIONS} connections are served; try again soon")
            request = await connection.request()
            headers = self._gate.admit(request)
            await self._handler(request)(connection, request, headers)
        except Refusal as refusal:
            await connection.refuse(refusal)

    def _handler(self, request: Request) -> Handler:
        if request.path not in self._routes:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                f"a path must be one of {', '.join(self._routes)}; got {request.path[:80]!r}",
            )
        method, handler = self._routes[request.path]
        if request.method != method:
            raise Refusal(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.path} must be asked with {method}; got {request.method[:80]!r}",
                (("Allow", method),),
            )
        return handler

    async def _send_page(self, connection: Connection, _: Request, headers: Headers) -> None:
        headers = (*headers, self._policy)
        await connection.answer("text/html; charset=utf-8", self._html, headers)

    async def _send_stream(self, connection: Connection, _: Request, headers: Headers) -> None:
        if self._streams >= _MOST_STREAMS:
            raise _busy(f"at most {_MOST_STREAMS} clients may watch; close one of the others")
        self._streams += 1
        try:
            kind = "multipart/x-mixed-replace; boundary=frame"
            await connection.send(response_head(HTTPStatus.OK, kind, headers) + _PART)
            shown = 0
            # `asyncio.wait_for` loses a cancellation that comes as its wait ends.
            while not (connection.has_left or self._is_over.is_set()):
                picture = await self._picture_after(shown)
                if picture and picture.number != shown:
                    await connection.send(picture.jpeg + b"\r\n" + _PART)
                    shown = picture.number
                    await asyncio.sleep(picture.rest_s)
        finally:
            self._streams -= 1

    async def _send_picture(self, connection: Connection, _: Request, headers: Headers) -> None:
        picture = await self._paint(self._feed.picture)
        if not picture:
            raise _busy("no frame has come yet; try again soon")
        await connection.answer("image/jpeg", picture.jpeg, headers)

    async def _send_figures(self, connection: Connection, _: Request, headers: Headers) -> None:
        revision, prompts = self._board.read()
        scores = self._feed.scores()
        texts = dict.fromkeys(prompt.text for prompt in prompts)
        phrases = [
            {"text": text, "color": _css_color(number), "score": scores.get(text)}
            for number, text in enumerate(texts)
        ]
        shared = {"revision": revision, "phrases": phrases, "clients": self._streams}
        await connection.answer_json({**shared, **self._feed.figures()}, headers)

    async def _take_phrases(
        self, connection: Connection, request: Request, headers: Headers
    ) -> None:
        phrases = _phrases(body_of_json(request))
        try:
            prompts = prompts_from(phrases)
            if self._check:
                await self._paint(self._check, prompts)
            revision = self._board.post(prompts)
        except SaymaskError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
        await connection.answer_json({"revision": revision}, headers)

    async def _picture_after(self, number: int) -> Picture | None:
        """Wait a moment for a picture newer than this one; it may not come."""
        if self._feed.count == number:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._fresh.wait(), _LOOK_UP_S)
        return await self._paint(self._feed.picture)

    def _paint(self, work: Callable[..., Any], *args: object) -> Awaitable[Any]:
        """Do what takes long where it holds no client up."""
        return self._loop.run_in_executor(self._painter, work, *args)

    def _announce(self) -> None:
        """Wake who waits for a frame."""
        self._fresh.set()
        self._fresh = asyncio.Event()


def _content_policy(html: str) -> str:
    """Allow the page's own script and style by their hashes, and nothing from elsewhere."""

    def allowed(tag: str) -> str:
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; object-src 'none'; "
        f"form-action 'self'; frame-ancestors 'none'; script-src {allowed('script')}; "
        f"style-src {allowed('style')}"
    )


def _css_color(number: int) -> str:
    """Color of the overlay's masks of this phrase."""
    return "#{:02x}{:02x}{:02x}".format(*PALETTE_RGB[number % len(PALETTE_RGB)])


def _phrases(value: object) -> list[str]:
    phrases = value.get("phrases") if isinstance(value, dict) else None
    if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
        raise Refusal(HTTPStatus.BAD_REQUEST, 'the body must be {"phrases": ["the red mug", ...]}')
    if len(phrases) > _MOST_PHRASES:
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            f"there must be {_MOST_PHRASES} phrases at most; got {len(phrases)}; take some away",
        )
    longest = max(map(len, phrases), default=0)
    if longest > _LONGEST_PHRASE:
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            f"a phrase must have {_LONGEST_PHRASE} characters at most; got {longest}; "
            "say it shorter",
        )
    return phrases


def _busy(message: str) -> Refusal:
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, (("Retry-After", "5"),))
