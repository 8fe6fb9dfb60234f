"""Scores of inputs that a version has seen, so that it need not run again for the same.

What is kept are scores, never decisions: those are made by the policy in force when a request comes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from tidemill.schema import Array

_OVERHEAD_BYTES = 320  # of an entry: its key, the array's head and its place in the order, as measured
_encode = msgspec.msgpack.Encoder().encode


class Entry(NamedTuple):
    """What a version made of inputs: scores float32 (K,), and which of the inputs lie outside what it learnt from."""

    scores: Array
    outlier: list[str] | None


def cache_key(version: int, inputs: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """Return 16 bytes that stand for a version and the canonical values of the inputs `names`: those that it reads.

    What else a request says, such as its unit, has no part in it. Unequal inputs meet with a chance of 2**-128.
    """
    return blake2b(_encode([version, *[inputs[name] for name in names]]), digest_size=16).digest()


class ScoreCache:
    """Keeps entries by key, in at most `max_bytes`; what was asked for longest ago goes first."""

    def __init__(self, max_bytes: int = 0) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._max_bytes = max_bytes
        self.num_bytes = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def resize(self, max_bytes: int) -> None:
        """Keep at most so much from now on; nothing with 0."""
        if max_bytes != self._max_bytes:
            self._max_bytes = max_bytes
            self._shrink()

    def get(self, key: bytes) -> Entry | None:
        """Return an entry, None where there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry; one that is larger than the whole is not."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        size = _size(entry)
        if size <= self._max_bytes:
            self._entries[key] = Entry(entry.scores.copy(), entry.outlier)  # a row alone, not the batch it is part of
            self.num_bytes += size
            self._shrink()

    def _shrink(self) -> None:
        while self.num_bytes > self._max_bytes:
            _, entry = self._entries.popitem(last=False)
            self.num_bytes -= _size(entry)


def _size(entry: Entry) -> int:
    return _OVERHEAD_BYTES + int(entry.scores.nbytes) + sum(64 + len(name) for name in entry.outlier or ())
