"""Who may open the live page: this machine alone, or whoever brings the token."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from ..errors import OutputError, UsageError
from .http import Headers, Refusal, Request

__all__ = ["Address", "Gate"]

_SEND_BUFFER_BYTES = 128 * 1024
_URL_SAFE = re.compile(r"[A-Za-z0-9._~-]+")
_SCHEME = "Bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the page is served."""

    host: str
    """Name or IP address, without brackets."""
    port: int
    """0 to 65535; 0 is any that is free."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "HOST:PORT"; an IPv6 address stands in brackets.

        Raises:
            UsageError: It is not of that form.
        """
        host, _, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        is_port = port.isascii() and port.isdecimal() and int(port) < 1 << 16
        if not bare or not is_port or (":" in bare and bare == host):
            raise UsageError(
                f"an address must be HOST:PORT, as 127.0.0.1:8080 or [::1]:8080; got {text!r}"
            )
        return cls(host=bare, port=int(port))

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach it."""
        return _is_loopback(self.host)

    def listen(self) -> socket.socket:
        """Open the socket that clients connect to.

        Raises:
            OutputError: The port is taken, or the host is not one of this machine's.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            raise OutputError(
                f"the live page must have an address of its own; {self} cannot be taken: "
                f"{error.strerror or error}; stop what holds it, or name another port (0: any)"
            ) from error
        # A slow client would otherwise look at seconds of old pictures that wait in the kernel.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        return listener

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Gate:
    """Lets requests in or refuses them."""

    def __init__(self, address: Address, token: str | None) -> None:
        """Guard an address.

        Args:
            address: Where the page is served.
            token: What clients must know; None is for loopback addresses alone.

        Raises:
            UsageError: The address can be reached from outside and there is no token, or the
                token would have to be quoted.
        """
        if token is None and not address.is_loopback:
            raise UsageError(
                f"a page that other machines can reach must have a token; {address} has none; "
                "give it one, or serve 127.0.0.1 and reach it through ssh -L"
            )
        if token is not None and not _URL_SAFE.fullmatch(token):
            raise UsageError(
                "a token must be letters, digits and . _ ~ - alone; got another; "
                "make one with: openssl rand -hex 16"
            )
        self._token = token
        # A cookie goes to every port of its host, so it does not hold the token itself.
        self._cookie = f"saymask-{address.port}={secrets.token_urlsafe(32)}"

    def admit(self, request: Request) -> Headers:
        """Let a request in and return the headers that the answer must carry.

        Raises:
            Refusal: It may not be answered.
        """
        cookie: Headers = ()
        if self._token is None:
            _require_loopback_name(request.headers.get("host", ""))
        else:
            cookie = self._check_token(request, self._token)
        if request.method == "POST":
            _require_same_origin(request)
        return cookie

    def _check_token(self, request: Request, token: str) -> Headers:
        """Take the token from the header or the query, or the session from the cookie."""
        bearer = request.headers.get("authorization", "")
        asked = parse_qs(request.query).get("token", [""])[-1]
        cookies = request.headers.get("cookie", "").split(";")
        if _is_same(asked, token):
            return (("Set-Cookie", f"{self._cookie}; Path=/; HttpOnly; SameSite=Strict"),)
        if _is_same(bearer, _SCHEME + token):
            return ()
        if any(_is_same(cookie.strip(), self._cookie) for cookie in cookies):
            return ()
        raise Refusal(
            HTTPStatus.UNAUTHORIZED,
            "this page must be opened with its token; open /?token=TOKEN once, or send "
            "'Authorization: Bearer TOKEN'",
            (("WWW-Authenticate", "Bearer"),),
        )


def _is_same(given: str, secret: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _require_loopback_name(host: str) -> None:
    """Refuse the names of others: such a page could point its name at this machine (rebinding).

    Any port will do, because tunnels change it.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not _is_loopback(name):
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            f"this page must be opened as localhost, 127.0.0.1 or [::1]; got {host[:80]!r}; "
            "serve it with a token to use other names",
        )


def _require_same_origin(request: Request) -> None:
    """Refuse what another site's page sends; what is no browser names no origin."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Refusal(
            HTTPStatus.FORBIDDEN, f"phrases must come from this page; got them from {origin[:80]!r}"
        )
