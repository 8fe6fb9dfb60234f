"""Room on the disk for a segment: reserved at once, or written with zeros ahead of time."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from pathlib import Path

from tidemill.stores.blocks import Synced, go_through_cache

_CHUNK = 1 << 18


class Spare:
    """A locked file that a thread fills with zeros, for a later segment.

    A synced write into blocks that were written before takes about half of one into blocks that are only reserved: of
    those the file system must first note, in its journal, that they are in use.

    Args:
        path: where it lies until it is taken; no such file may exist.
        num_zeros: how many bytes of it are written, whole blocks of them.
        num_bytes: how many it has in the end; those beyond the zeros are reserved.
    """

    def __init__(self, path: Path, *, num_zeros: int, num_bytes: int) -> None:
        self.path = path
        self._num_zeros, self._num_bytes = num_zeros, num_bytes
        self._guard = threading.Lock()
        self._fd: int | None = None
        self._is_unwanted = False
        self.is_lost = False
        """Whether it could not be made."""
        try:
            threading.Thread(target=self._make, name="log-spare", daemon=True).start()
        except RuntimeError:  # there may be no more threads: a segment does without
            self.is_lost = True

    def take(self) -> int | None:
        """Return the file, which is the caller's from now on; None where it is not ready or could not be made."""
        with self._guard:
            fd, self._fd = self._fd, None
        return fd

    def discard(self) -> None:
        """Remove the file, now or as soon as the thread sees that nobody wants it; not if it was taken."""
        with self._guard:
            self._is_unwanted = True
            fd, self._fd = self._fd, None
        if fd is not None:
            self._remove(fd)

    def _make(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        except OSError:
            self.is_lost = True
            return
        is_whole = self._fill(fd)
        with self._guard:
            if is_whole and not self._is_unwanted:
                self._fd = fd
                return
        self._remove(fd)
        self.is_lost = True

    def _fill(self, fd: int) -> bool:
        """Lock and fill the file; say whether that was done and is still wanted."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not reserve(fd, self._num_bytes, least=0):
                return False  # the last room on a disk is not for zeros
            return self._zero(fd)
        except (OSError, MemoryError):
            return False  # the disk is full, or fails: a segment does without

    def _zero(self, fd: int) -> bool:
        """Write the zeros, in pieces: the log is written between them. Say whether all are there."""
        synced, at = Synced(), 0
        synced.begin(fd)
        with mmap.mmap(-1, _CHUNK) as page, memoryview(page) as zeros:
            while at < self._num_zeros:
                with zeros[: self._num_zeros - at] as piece:
                    if self._is_unwanted or synced.write(piece, at, flush=False) != len(piece):
                        return False
                    at += len(piece)
        synced.sync()
        go_through_cache(fd)
        return True

    def _remove(self, fd: int) -> None:
        self.path.unlink(missing_ok=True)
        os.close(fd)


def reserve(fd: int, num_bytes: int, *, least: int) -> bool:
    """Reserve room, so that synced writes need not; where there is less, or no way to, the file has `least` bytes."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(fd, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(fd, least)
        return False
    return True
