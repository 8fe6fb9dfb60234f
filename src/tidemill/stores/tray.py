"""Memory that two processes share: one lays a part of a table on it, and the other reads it where it lies.

The same pages serve one part after another, so a part costs one copy; a file for each would cost its pages anew.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from tidemill.stores.parts import Lost, Part

_NUMBER = "\0row"


class Tray:
    """A place for one part at a time: whoever lays the next one waits until the other side is done with the last.

    Args:
        file: what both sides have open. `new_file` makes one; a process of its own inherits the descriptor.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._map: mmap.mmap | None = None

    @property
    def descriptor(self) -> int:
        """The file's, for another process to inherit."""
        return self._file.fileno()

    def lay(self, part: Part) -> int:
        """Write a part over the one before; return how many bytes it takes.

        Raises:
            OSError: there is no room.
        """
        table = part.table.append_column(_NUMBER, pa.array(part.rows))
        self._file.seek(0)  # nothing is cut off: what the other side has mapped stays there
        with pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), table.schema) as writer:
            writer.write_table(table)
        self._file.flush()
        return self._file.tell()

    def take(self, number: int, size: int, lost: Sequence[Sequence[Any]]) -> Part:
        """Return the part that lies there; it must not be looked at after the next one was laid."""
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size, access=mmap.ACCESS_READ)
        table = pa.ipc.open_file(pa.py_buffer(self._map)[:size]).read_all()
        rows = table.column(_NUMBER).to_numpy()
        return Part(
            number=number, table=table.drop_columns([_NUMBER]), rows=rows, lost=[Lost(at, why) for at, why in lost]
        )

    def close(self) -> None:
        """Let go of the memory."""
        self._file.close()


def new_file() -> BinaryIO:
    """Return a file for a tray that goes with whoever has it open: memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tidemill-part"), "w+b")
    return tempfile.TemporaryFile()
