"""Synced writes at the end of a file: in whole blocks, and past the page cache where the file system can."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence

BLOCK = 4096
"""Bytes that are written together; a divisor of what files are given room in."""

_DSYNC: int = getattr(os, "RWF_DSYNC", 0)  # Linux; elsewhere a sync follows each write
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_sync_data = getattr(os, "fdatasync", os.fsync)
_CANNOT = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS))
_ROOM, _MOST_ROOM = 1 << 18, 16 << 20  # bytes of the buffer: at first, and at most between two writes


def whole(num_bytes: int) -> int:
    """Return how many bytes the blocks have that hold so many."""
    return -(-num_bytes // BLOCK) * BLOCK


class Synced:
    """Writes blocks to files, and returns only when the disk has them, in the quickest way that the file system knows.

    That is past the page cache, by a write that is synced in itself. What it cannot is found out once, and done without
    from then on: through the cache, or with a sync after the write. `by_write` says whether no such sync is needed.
    """

    def __init__(self) -> None:
        self.by_write = bool(_DSYNC)
        self._is_direct, self._fd = bool(_DIRECT), -1

    def begin(self, fd: int) -> None:
        """Go on with another file."""
        self._fd = fd
        self._is_direct = self._is_direct and _go_direct(fd)

    def write(self, blocks: memoryview, at: int, *, flush: bool = True) -> int:
        """Write whole blocks, which begin at a page, to where a block begins; return how many bytes are on the disk.

        Without `flush` it may keep them in a cache of its own until `sync`. What goes through the page cache is synced
        all the same: there it would gather, and keep other writes waiting later.

        Raises:
            OSError: the disk is full or broken.
        """
        while True:
            waits = flush or not self._is_direct
            try:
                if self.by_write:
                    return os.pwritev(self._fd, [blocks], at, _DSYNC if waits else 0)
                num = os.pwrite(self._fd, blocks, at)
                break
            except OSError as error:
                if error.errno not in _CANNOT or not (self._is_direct or self.by_write):
                    raise
                if self._is_direct:
                    self._is_direct = False
                    go_through_cache(self._fd)
                else:
                    self.by_write = False
        if waits:
            self.sync()
        return num

    def sync(self) -> None:
        """Wait until the disk has everything."""
        _sync_data(self._fd)


def go_through_cache(fd: int) -> None:
    """Take and give any bytes of a file again, not whole blocks alone."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~_DIRECT)


def _go_direct(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | _DIRECT)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


class Blocks:
    """Writes parts at the ends of files, one file after another, synced.

    The end of a file is in memory as well, from the beginning of its last block on: that block is written again with
    what comes after it, and zeros up to the end of the last. The disk takes it from that memory, without a page in the
    cache that nobody would read. What is in a block already does not change, so a write that is cut short harms nothing
    that was written before.
    """

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, _ROOM)  # a disk takes only what begins at a page
        self._synced = Synced()
        self._at, self._kept = 0, 0

    @property
    def by_write(self) -> bool:
        """Whether a write is synced in itself."""
        return self._synced.by_write

    def begin(self, fd: int, head: bytes) -> None:
        """Go on with a file that holds `head`, less than a block."""
        self._synced.begin(fd)
        self._at, self._kept = 0, len(head)
        self._buffer[: len(head)] = head

    def append(self, parts: Sequence[bytes | bytearray]) -> int:
        """Write parts one after another; return how many of their bytes are on the disk.

        Where that is not all of them, the next call writes in their place.

        Raises:
            OSError: the disk is full or broken, or there is no memory; what is beyond the end then, nobody knows.
        """
        num_bytes = sum(map(len, parts))
        size = whole(self._kept + num_bytes)
        self._make_room(size)
        buffer, at = self._buffer, self._kept
        for part in parts:
            buffer[at : at + len(part)] = part
            at += len(part)
        buffer[at:size] = bytes(size - at)
        with memoryview(buffer) as view, view[:size] as blocks:
            num = max(0, min(self._synced.write(blocks, self._at) - self._kept, num_bytes))
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
        try:
            other = mmap.mmap(-1, max(_ROOM, 1 << (size - 1).bit_length()))
        except OSError:
            if size > room:
                raise
            return
        other[: self._kept] = self._buffer[: self._kept]
        self._buffer.close()
        self._buffer = other
