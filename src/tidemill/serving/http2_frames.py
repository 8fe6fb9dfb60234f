"""The numbers of HTTP/2 (RFC 9113): frames, flags, settings, errors."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x7, 0x8, 0x9, 0xB
MAX_STREAMS, FIRST_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADERS = 0x3, 0x4, 0x5, 0x6

HEAD = struct.Struct(">IBI")
"""The head of a frame: its length and kind, its flags, its stream."""
SETTING = struct.Struct(">HI")
FIRST_WINDOW = 65_535
FRAME_SIZE = 16_384
"""What a frame may hold unless the other side said otherwise."""
MAX_WINDOW = LAST = (1 << 31) - 1


class ProtocolError(Exception):
    """The peer broke the protocol: the connection ends with `code`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload
