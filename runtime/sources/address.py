"""Addresses as the user types them: their options read, their secrets left out of sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from ..errors import UnknownNameError, UsageError

__all__ = ["positive_number", "redacted", "size_hw", "split_address"]


def redacted(address: str) -> str:
    """Leave user, password and query out: rtsp://***@host/path?***.

    Whatever stands before the last "@" counts as secret, as passwords hold "/", "?" and "@" too.
    """
    scheme, mark, rest = address.partition("://")
    _, at, place = rest.rpartition("@")
    place, query, _ = place.partition("?")
    return f"{scheme}{mark}{'***@' if at else ''}{place}{'?***' if query else ''}"


def split_address(
    reference: str, readers: Mapping[str, Callable[[str], Any]]
) -> tuple[str, dict[str, Any]]:
    """Read "scheme://place?key=value&key=value".

    Args:
        reference: What the user typed.
        readers: Known keys -> what makes a value of the text, or raises ValueError.

    Returns:
        The place, and the values of the keys that were given.

    Raises:
        UnknownNameError: A key is not known.
        UsageError: A value is none, or its reader refuses it.
    """
    scheme, _, rest = reference.partition("://")
    place, _, query = rest.partition("?")
    options = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in readers:
            raise UnknownNameError(f"an option of {scheme}://", key, readers)
        try:
            options[key] = readers[key](text)
        except ValueError as error:
            raise UsageError(f"{key} must be {error}; got {text!r} in {reference}") from None
    return place, options


def positive_number(text: str) -> float:
    """Read a finite number above 0.

    Raises:
        ValueError: It is none; the message says what it must be.
    """
    with_meaning = "a number above 0, as 30"
    try:
        number = float(text)
    except ValueError:
        raise ValueError(with_meaning) from None
    if not 0 < number < float("inf"):
        raise ValueError(with_meaning)
    return number


def size_hw(text: str) -> tuple[int, int]:
    """Read "1920x1080", width by height as people say it, as height and width.

    Raises:
        ValueError: It is none, or a side is not 16 to 8192; the message says what it must be.
    """
    sides = [int(side) if side.isdecimal() else 0 for side in text.split("x")]
    if len(sides) != 2 or not all(16 <= side <= 8192 for side in sides):
        raise ValueError("WIDTHxHEIGHT, each 16 to 8192, as 1280x720")
    width, height = sides
    return height, width
