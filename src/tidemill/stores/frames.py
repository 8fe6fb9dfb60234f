"""The bytes of a segment: a header, and frames with a checksum each.

Little-endian:

| offset | bytes | what |
|---|---|---|
| 0 | 7 | `TIDESEG` |
| 7 | 1 | the format's number: 2, earlier 1; 0 in a file that was wiped (see `recycled`) |
| 8 | 8 | `low_at`: no row in this segment, or in a later one of its gateway, was received earlier (microseconds) |
| 16 | | frames: length (4), CRC-32 of the segment's name and the payload (4; in format 1 of the payload), payload |

What follows the last good frame is a torn write and was never acknowledged, or zeros.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tidemill.errors import NewerStore

_MAGIC = b"TIDESEG"
_FORMAT = 2
_HEADER = struct.Struct("<7sBq")
_LOW_AT = struct.Struct("<q")
_FRAME = struct.Struct("<II")

FORMAT_AT, LOW_AT_AT, FRAMES_AT = 7, 8, _HEADER.size

Payload = bytes | bytearray


class Frames(NamedTuple):
    """What a segment holds: its good payloads in order, and the length of the torn write after them."""

    payloads: list[bytes]
    num_torn: int


def header(low_at: int) -> bytes:
    """Return what a segment begins with."""
    return _HEADER.pack(_MAGIC, _FORMAT, low_at)


def packed_low_at(low_at: int) -> bytes:
    """Return what stands at `LOW_AT_AT`."""
    return _LOW_AT.pack(low_at)


def read_low_at(head: bytes) -> int:
    """Return the time in a header; one that was lost in a power cut says nothing: then there may be any time."""
    low_at: int = _LOW_AT.unpack_from(head, LOW_AT_AT)[0] if _has_header(head) else 0
    return low_at


def salt(name: str) -> int:
    """Return what the checksums in a segment begin with: the frames of another are no good in its file."""
    return zlib.crc32(name.encode())


def framed(payloads: Sequence[Payload], salt: int) -> list[Payload]:
    """Return the frames of payloads, in parts that belong one after another."""
    parts: list[Payload] = []
    for payload in payloads:
        parts += (_FRAME.pack(len(payload), zlib.crc32(payload, salt)), payload)
    return parts


def read_frames(path: Path) -> Frames:
    """Return the good payloads of a segment, stopping at a torn write.

    Raises:
        FileNotFoundError: it is in the log by now.
        NewerStore: a newer program wrote it.
    """
    data = path.read_bytes()
    if not (path.exists() or path.with_suffix(".seg").exists()):  # it may have been wiped while it was read
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not _has_header(data):
        return Frames([], len(data.rstrip(b"\0")))
    if data[FORMAT_AT] > _FORMAT:
        raise NewerStore(f"segment {path} has format {data[FORMAT_AT]}.", "run the newer program")
    payloads, at = [], FRAMES_AT
    begin = salt(path.stem) if data[FORMAT_AT] == _FORMAT else 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if not length or len(payload) < length or zlib.crc32(payload, begin) != checksum:
            break
        payloads.append(payload)
        at += _FRAME.size + length
    return Frames(payloads, len(data[at:].rstrip(b"\0")))  # zeros were preallocated, not written


def _has_header(data: bytes) -> bool:
    return len(data) >= _HEADER.size and data.startswith(_MAGIC)
