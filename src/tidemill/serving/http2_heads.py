"""The headers of calls over HTTP/2, decoded once for all calls that send the same."""

from __future__ import annotations

from typing import NamedTuple

import hpack

from tidemill.serving.http2_frames import COMPRESSION_ERROR, ProtocolError

_MAX_KNOWN = 64


class Head(NamedTuple):
    """What the headers of a call say."""

    method: bytes
    path: str
    kind: bytes
    authorization: bytes | None
    encoding: bytes
    parent: bytes = b""  # of the trace it belongs to


class Heads:
    """Reads the blocks of headers of one connection, in the order in which they came."""

    def __init__(self, max_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_bytes)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Return what a block says.

        Raises:
            ProtocolError: it cannot be decoded, or is too long.
        """
        return self._known.get(block) or self._decode(block)

    def _decode(self, block: bytes) -> Head:
        table = self._decoder.header_table
        before, newest = table.maxsize, table.dynamic_entries[0] if table.dynamic_entries else None
        try:
            fields = dict(self._decoder.decode(block, raw=True))
        except hpack.HPACKError:
            raise ProtocolError(COMPRESSION_ERROR, "the headers cannot be decoded") from None
        head = Head(
            fields.get(b":method", b""),
            fields.get(b":path", b"").decode("latin-1"),
            fields.get(b"content-type", b""),
            fields.get(b"authorization"),
            fields.get(b"grpc-encoding", b"identity"),
            fields.get(b"traceparent", b""),
        )
        same = table.maxsize == before and (table.dynamic_entries[0] if table.dynamic_entries else None) is newest
        if not same or len(self._known) >= _MAX_KNOWN:
            self._known.clear()  # what the blocks refer to has moved
        if same and not head.parent:  # a trace's headers do not come again
            self._known[block] = head
        return head
