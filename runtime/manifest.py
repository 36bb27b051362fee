"""`bundle.json`: a `Manifest` as text, and back with nothing guessed."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import BundleError
from .spec import SCHEMA_VERSION, Manifest

__all__ = ["manifest_from_text", "text_from_manifest"]


def text_from_manifest(manifest: Manifest) -> str:
    """Write a manifest as JSON, one field a line, in the order of the specs."""
    return json.dumps(asdict(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def manifest_from_text(text: str, *, origin: str) -> Manifest:
    """Read a manifest; every field of the specs must be there, of its type, and no other.

    Args:
        text: Content of a `bundle.json`.
        origin: Where it was read, for messages.

    Raises:
        BundleError: Not JSON, another schema version, or a field missing, unknown or mistyped.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{origin} must be JSON; {error}; export the bundle again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{origin} must have schema_version {SCHEMA_VERSION}, which this saymask reads; "
            f"got {version!r}; export the bundle again or take the saymask that wrote it"
        )
    return _record(Manifest, data, origin)


def _record(kind: Any, data: Any, where: str) -> Any:
    names = [field.name for field in fields(kind)]
    if not isinstance(data, dict) or set(data) != set(names):
        given = set(data) if isinstance(data, dict) else set()
        raise BundleError(
            f"{where} must have the fields {', '.join(names)}; "
            f"missing: {', '.join(sorted(set(names) - given)) or 'none'}; "
            f"unknown: {', '.join(sorted(given - set(names))) or 'none'}; export the bundle again"
        )
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], data[name], f"{where}: {name}") for name in names})


def _value(kind: Any, data: Any, where: str) -> Any:
    if isinstance(kind, UnionType) and data is not None:
        kind = next(filter(is_dataclass, get_args(kind)), kind)
    if is_dataclass(kind):
        return _record(kind, data, where)
    if get_origin(kind) is tuple:
        return _items(kind, data, where)
    if kind is float and type(data) is int:
        return float(data)
    if type(data) not in (get_args(kind) or (kind,)):
        raise _mistyped(kind, data, where)
    return data


def _items(kind: Any, data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _mistyped(kind, data, where)
    kinds = get_args(kind)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(data)
    if len(kinds) != len(data):
        raise _mistyped(kind, data, where)
    pairs = enumerate(zip(kinds, data, strict=True))
    return tuple(_value(kind, item, f"{where}[{index}]") for index, (kind, item) in pairs)


def _mistyped(kind: Any, data: Any, where: str) -> BundleError:
    name = kind.__name__ if isinstance(kind, type) else kind
    return BundleError(f"{where} must be {name}; got {data!r}; export the bundle again")
