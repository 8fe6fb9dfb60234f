"""Images as PNG, so that a browser shows them."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from tidemill.schema import Array

_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour types by the number of channels


def png(pixels: Array) -> bytes:
    """Return an image uint8 (H, W) or (H, W, C) of one to four channels as PNG; of more channels, the first."""
    image = pixels.reshape(*pixels.shape[:2], -1)
    image = image if image.shape[2] in _COLOURS else image[:, :, :1]
    height, width, channels = image.shape
    rows = np.concatenate([np.zeros((height, 1), dtype=np.uint8), image.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _part(b"IHDR", head)
        + _part(b"IDAT", zlib.compress(rows.tobytes()))
        + _part(b"IEND", b"")
    )


def data_url(pixels: Array) -> str:
    """Return an image as the address of itself, to put into a page or a task."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
