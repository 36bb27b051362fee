"""Tells whether a file ends before its own format says it does."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_jpeg_cut", "is_matroska_cut"]

_JPEG_BEGIN = b"\xff\xd8"
_JPEG_END = 0xD9
# Inside a scan, FF is followed by 00 or by a restart mark; any other pair begins a segment.
_JPEG_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_MATROSKA_BEGIN = b"\x1a\x45\xdf\xa3"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
_HEAD_BYTES = 4096


def is_jpeg_cut(data: bytes) -> bool:
    """True for a JPEG (ISO/IEC 10918-1, annex B) that ends before its end mark."""
    if not data.startswith(_JPEG_BEGIN):
        return False
    position = len(_JPEG_BEGIN)
    while mark := _JPEG_MARK.search(data, position):
        if mark[0][1] == _JPEG_END:
            return False
        position = mark.end() + int.from_bytes(data[mark.end() : mark.end() + 2], "big")
    return True


def is_matroska_cut(path: Path) -> bool:
    """True for a Matroska or WebM file that is shorter than its segment (RFC 8794, section 6)."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    start = head.find(_MATROSKA_SEGMENT) + len(_MATROSKA_SEGMENT)
    if not head.startswith(_MATROSKA_BEGIN) or start < len(_MATROSKA_SEGMENT):
        return False
    width = 9 - int.from_bytes(head[start : start + 1], "big").bit_length()
    unknown = (1 << 7 * width) - 1
    segment_bytes = int.from_bytes(head[start : start + width], "big") & unknown
    return segment_bytes != unknown and start + width + segment_bytes > path.stat().st_size
