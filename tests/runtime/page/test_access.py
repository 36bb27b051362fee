from __future__ import annotations

import re

import pytest

from saymask.runtime.errors import OutputError, UsageError
from saymask.runtime.page.access import Address, Gate
from saymask.runtime.page.http import Refusal, Request

HERE = Address(host="127.0.0.1", port=8080)


def _request(method: str = "GET", query: str = "", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method=method, path="/", query=query, headers=named, body=b"")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8080", "127.0.0.1", 8080), ("[::1]:0", "::1", 0), ("jetson:80", "jetson", 80)],
)
def test_an_address_is_read_and_written(text, host, port) -> None:
    address = Address.parse(text)
    assert address == Address(host=host, port=port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "host:", "host:x", "host:65536", "::1", "::1:8080", "h:-1", "h:²"]
)
def test_what_is_no_address_is_refused(text) -> None:
    with pytest.raises(UsageError, match=re.escape("must be HOST:PORT, as 127.0.0.1:8080")):
        Address.parse(text)


def test_a_port_that_is_taken_is_named() -> None:
    with Address.parse("127.0.0.1:0").listen() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OutputError, match=rf"127.0.0.1:{port} cannot be taken: .*another port"):
            Address.parse(f"127.0.0.1:{port}").listen()


def test_a_host_of_others_cannot_be_served() -> None:
    with pytest.raises(OutputError, match="192.0.2.1:8080 cannot be taken"):
        Address.parse("192.0.2.1:8080").listen()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "jetson", "127.0.0.1.evil.com"])
def test_the_outside_needs_a_token(host) -> None:
    address = Address(host=host, port=8080)
    with pytest.raises(UsageError, match="must have a token; .* has none; give it one"):
        Gate(address, None)
    Gate(address, "secret")


@pytest.mark.parametrize("token", ["", "two words", "a;b", "größe", "line\nbreak"])
def test_a_token_needs_no_quotes(token) -> None:
    with pytest.raises(UsageError, match="openssl rand -hex 16") as error:
        Gate(HERE, token)
    assert not token or token not in str(error.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost:9000", "LOCALHOST", "[::1]:8080", "127.9.9.9"]
)
def test_this_machine_is_let_in_by_its_names(host) -> None:
    assert Gate(HERE, None).admit(_request(host=host)) == ()


@pytest.mark.parametrize("host", ["", "evil.com", "127.0.0.1.evil.com:8080", "localhost.evil", "["])
def test_a_rebound_name_is_refused(host) -> None:
    with pytest.raises(Refusal, match="must be opened as localhost") as refusal:
        Gate(HERE, None).admit(_request(host=host))
    assert refusal.value.status == 403


@pytest.mark.parametrize("origin", ["http://evil.com", "null", "http://127.0.0.1:9999", ""])
def test_other_sites_cannot_post(origin) -> None:
    gate = Gate(HERE, None)
    with pytest.raises(Refusal, match="must come from this page") as refusal:
        gate.admit(_request("POST", host="127.0.0.1:8080", origin=origin))
    assert refusal.value.status == 403


def test_the_page_itself_and_programs_can_post() -> None:
    gate = Gate(HERE, None)
    gate.admit(_request("POST", host="127.0.0.1:8080", origin="http://127.0.0.1:8080"))
    gate.admit(_request("POST", host="127.0.0.1:8080"))


def test_a_token_opens_as_a_bearer_and_once_as_a_query() -> None:
    gate = Gate(HERE, "s3cret")
    assert gate.admit(_request(authorization="Bearer s3cret", host="any.name")) == ()
    ((name, value),) = gate.admit(_request(query="x=1&token=s3cret"))
    cookie, *attributes = value.split("; ")
    assert name == "Set-Cookie"
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert "s3cret" not in value
    assert gate.admit(_request(cookie=f"other=1; {cookie}")) == ()


@pytest.mark.parametrize(
    "request_",
    [
        _request(host="127.0.0.1:8080"),
        _request(authorization="Bearer s3cre"),
        _request(authorization="s3cret"),
        _request(query="token=s3crets"),
        _request(query="token=%ff%00"),
        _request(cookie="saymask-8080=s3cret"),
        _request(cookie="saymask-8080="),
        _request(authorization="Bearer s\xe9cret"),
    ],
)
def test_without_the_token_nothing_opens(request_) -> None:
    with pytest.raises(Refusal, match="must be opened with its token") as refusal:
        Gate(HERE, "s3cret").admit(request_)
    assert refusal.value.status == 401
    assert refusal.value.headers == (("WWW-Authenticate", "Bearer"),)


def test_a_cookie_of_another_run_is_stale() -> None:
    ((_, value),) = Gate(HERE, "s3cret").admit(_request(query="token=s3cret"))
    with pytest.raises(Refusal):
        Gate(HERE, "s3cret").admit(_request(cookie=value.split(";")[0]))
