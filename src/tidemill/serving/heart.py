"""How a worker shows that its event loop goes on: it counts, in memory that its supervisor reads.

That takes no system call, so that neither a full disk nor a slow one can look like a worker that stands still.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import IO

BEAT_EVERY_S = 0.5

_NUM_WORDS, _WORD = 2, 8  # of a worker: how often it has beaten, and whether it leaves; of bytes each


class Heart:
    """A worker's count of beats. One process writes it; no sense is made of it but that it has changed.

    Args:
        file: the descriptor of `memory`, of which each process may close its own afterwards.
        number: which worker's.
    """

    def __init__(self, file: int, number: int) -> None:
        shared = memoryview(mmap.mmap(file, 0)).cast("Q")  # words are aligned, so each is read and written whole
        self._words = shared[number * _NUM_WORDS : (number + 1) * _NUM_WORDS]

    @property
    def num_beats(self) -> int:
        """How often it has beaten."""
        return self._words[0]

    @property
    def leaves(self) -> bool:
        """Whether the worker has begun to end."""
        return bool(self._words[1])

    def beat(self) -> None:
        """Show that the event loop goes on."""
        self._words[0] += 1

    def leave(self) -> None:
        """Show that this worker ends: its event loop ends before it does. May be called in a signal's handler."""
        self._words[1] = 1

    def reset(self) -> None:
        """Forget a worker that is dead, for the next in its place."""
        self._words[0] = self._words[1] = 0


def memory(num_workers: int) -> IO[bytes]:
    """Return the memory for so many hearts, a file without a name."""
    file = unnamed("tidemill-hearts")
    file.truncate(num_workers * _NUM_WORDS * _WORD)
    return file


def unnamed(label: str) -> IO[bytes]:
    """Return a file without a name that is on no disk, where the system has such (Linux)."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create(label), "w+b")
    return tempfile.TemporaryFile()
