"""Files of sealed segments that are written again, once what was in them is in the log.

A file that grows needs pages in the cache of the system, and a new one costs several times as much as one that is
there: in a virtual machine often a turn of its host. So who writes much keeps the file of `NAME.seg` under a second
name, `NAME.new`, and its lock. Who deletes such a segment then wipes the file, which also erases what was in it: zeros
from its first frame on, and in the end in place of the format's number. Only after that its writer takes it for a later
segment. What was in it counts for nothing even if the zeros are lost in a power cut: a frame's checksum is good under
the name of its own segment alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tidemill.stores.frames import FORMAT_AT, FRAMES_AT

_MOST_FILES = 16  # of one writer: what it fills while a loop takes a turn
_CHUNK = 1 << 18


@dataclass
class _Kept:
    fd: int
    path: Path
    is_left: bool = False  # deleted as a segment, but not wiped when it was last looked at


class Recycled:
    """The files that a writer keeps: locked, some of them in use as sealed segments, some wiped and free.

    None is kept where that saves nothing: in memory, across a network, or where each write goes to another place. There
    a file system has no disk of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._files: list[_Kept] = []
        self._num_free = 0
        self._is_worth_it = is_on_disk(folder)

    def keep(self, fd: int, sealed: Path) -> bool:
        """Keep the open, locked file of a segment that was just sealed; with False it remains the caller's.

        It is not kept where others are free, or too many are in use: then whoever deletes them is behind.
        """
        if not self._is_worth_it or self._num_free or len(self._files) == _MOST_FILES:
            return False
        path = sealed.with_suffix(".new")
        try:
            os.link(sealed, path)
        except OSError:  # it is in the log already, or the file system knows no second names
            return False
        self._files.append(_Kept(fd, path))
        return True

    def take(self) -> tuple[int, Path] | None:
        """Return a file that is free, which is the caller's from now on."""
        free = [file for file in list(self._files) if self._is_free(file)]
        self._num_free = max(0, len(free) - 1)
        if not free:
            return None
        self._files.remove(free[0])
        return free[0].fd, free[0].path

    def discard(self) -> None:
        """Keep none any longer; segments among them stay until they are in the log."""
        self._num_free = 0
        while self._files:
            self._let_go(self._files[-1])

    def _is_free(self, file: _Kept) -> bool:
        try:
            if file.path.with_suffix(".seg").exists():
                return False
            if os.pread(file.fd, 1, FORMAT_AT) == b"\0":
                return True
        except OSError:  # a block of the disk is bad: segments go elsewhere
            file.is_left = True
        if file.is_left:  # whoever deleted it was killed, may not write to it, or saw that a copy shares it
            self._let_go(file)
        file.is_left = True
        return False

    def _let_go(self, file: _Kept) -> None:
        self._files.remove(file)
        with suppress(OSError):  # what is left, a compactor removes
            file.path.unlink(missing_ok=True)
        os.close(file.fd)


def is_on_disk(folder: Path) -> bool:
    """Say whether a folder is in a file system that has a disk of its own."""
    return os.major(folder.stat().st_dev) != 0


def delete(sealed: Path) -> None:
    """Delete a segment, if it is there; a file that its writer keeps is wiped, if it can be."""
    fd = _opened(sealed)
    try:
        # Of several that delete it one does: the others must not wipe what may be in use again by then.
        sealed.unlink()
        # Looked at only now: without that name nobody can keep the file any more, or copy the segment by a name.
        if fd is not None and _is_kept(fd, sealed.with_suffix(".new")):
            _wipe(fd)
    except FileNotFoundError:
        pass
    finally:
        if fd is not None:
            os.close(fd)


def drop_unwiped(kept: Path) -> None:
    """Take the name from a file whose segment was deleted by somebody who was killed before the file was wiped.

    Its writer may stand still, or have no more to write. One that is being wiped may lose its name, too: its writer
    then takes another.
    """
    with suppress(OSError), kept.open("rb") as file:
        if os.fstat(file.fileno()).st_nlink == 1 and os.pread(file.fileno(), 1, FORMAT_AT) > b"\0":
            kept.unlink()


def _opened(sealed: Path) -> int | None:
    try:
        return os.open(sealed, os.O_RDWR)
    except OSError:
        return None


def _is_kept(fd: int, kept: Path) -> bool:
    """Say whether the writer's is the only name left: a copy of the folder may be made of names."""
    with suppress(OSError):
        return os.fstat(fd).st_nlink == 1 and os.path.samestat(os.fstat(fd), kept.stat())
    return False


def _wipe(fd: int) -> None:
    zeros, at, end = bytes(_CHUNK), FRAMES_AT, os.fstat(fd).st_size
    with suppress(OSError):  # then its writer lets it go
        while at < end:
            at += os.pwrite(fd, zeros[: end - at], at)
        os.pwrite(fd, zeros[:1], FORMAT_AT)
