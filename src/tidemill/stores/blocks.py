"""Synced writes at the end of a file: in whole blocks, and past the page cache where the file system can."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence

BLOCK = 4096
"""Bytes that are written together; a divisor of what files are given room in."""

DSYNC: int = getattr(os, "RWF_DSYNC", 0)
"""The flag of a write that is synced; 0 where a sync must follow it. Linux has it."""

_DIRECT: int = getattr(os, "O_DIRECT", 0)
_sync_data = getattr(os, "fdatasync", os.fsync)
_CANNOT = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS))
_ROOM, _MOST_ROOM = 1 << 18, 4 << 20  # bytes of the buffer: at first, and at most between two writes


def whole(num_bytes: int) -> int:
    """Return how many bytes the blocks have that hold so many."""
    return -(-num_bytes // BLOCK) * BLOCK


def go_direct(fd: int, *, on: bool = True) -> bool:
    """Write past the page cache from now on, or through it again; say whether that can be."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT if on else flags & ~_DIRECT)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return bool(_DIRECT)


class Blocks:
    """Writes parts at the ends of files, one file after another.

    The end of a file is in memory as well, from the beginning of its last block on: that block is written again with
    what comes after it, and zeros up to the end of the last. The disk takes all of it from that memory, which saves the
    processor the copy, and the page in the cache that nobody would read. What is in a block already does not change, so
    a write that is cut short harms nothing that was written before.
    """

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, _ROOM)  # a disk takes only what begins at a page
        self._is_direct, self._dsync = bool(_DIRECT), DSYNC
        self._fd, self._at, self._kept = -1, 0, 0

    def begin(self, fd: int, head: bytes) -> None:
        """Go on with a file that holds `head`, less than a block."""
        self._fd, self._at, self._kept = fd, 0, len(head)
        self._buffer[: len(head)] = head
        self._is_direct = self._is_direct and go_direct(fd)

    def append(self, parts: Sequence[bytes | bytearray]) -> int:
        """Write parts one after another; return how many of their bytes are on the disk.

        Where that is not all of them, the next call writes in their place.

        Raises:
            OSError: the disk is full or broken; what is beyond the end then, nobody knows.
        """
        num_bytes = sum(map(len, parts))
        size = whole(self._kept + num_bytes)
        self._make_room(size)
        buffer, at = self._buffer, self._kept
        for part in parts:
            buffer[at : at + len(part)] = part
            at += len(part)
        buffer[at:size] = bytes(size - at)
        with memoryview(buffer) as view, view[:size] as written:
            num = max(0, min(self._write(written) - self._kept, num_bytes))
        if num == num_bytes:
            self._go_on(at)
        return num

    def _go_on(self, end: int) -> None:
        """Keep what lies in the last block."""
        begin = end - end % BLOCK
        self._buffer.move(0, begin, end - begin)
        self._at, self._kept = self._at + begin, end - begin

    def _make_room(self, size: int) -> None:
        room = len(self._buffer)
        if size <= room <= max(_MOST_ROOM, 2 * size):
            return
        kept = self._buffer[: self._kept]
        self._buffer.close()
        self._buffer = mmap.mmap(-1, max(_ROOM, 1 << (size - 1).bit_length()))
        self._buffer[: self._kept] = kept

    def _write(self, blocks: memoryview) -> int:
        while self._dsync:
            try:
                return os.pwritev(self._fd, [blocks], self._at, self._dsync)
            except OSError as error:
                self._give_way(error)
        try:
            num = os.pwrite(self._fd, blocks, self._at)
        except OSError as error:
            if not self._is_direct:
                raise
            self._give_way(error)
            num = os.pwrite(self._fd, blocks, self._at)
        _sync_data(self._fd)
        return num

    def _give_way(self, error: OSError) -> None:
        """Do without what this file system cannot: first to write past the cache, then to sync within the write."""
        if error.errno not in _CANNOT:
            raise error
        if self._is_direct:
            self._is_direct = False
            go_direct(self._fd, on=False)
        elif self._dsync:
            self._dsync = 0
        else:
            raise error
