"""Arrow tables stored under the hash of their bytes, and read by memory-mapping them.

A chunk is one file in the IPC stream format, uncompressed, `<digest>.arrow`: the form Hugging Face `datasets` opens as
it is. It is written under a temporary name, synced and renamed, so what has a name is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.errors import Corrupt, StoreError
from tidemill.stores.segments import sync_folder

_MAX_ROWS = 4096
_MAX_BYTES = 32 << 20

Row = Mapping[str, Any]


class Chunks:
    """A folder of chunks; processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: set[str] = set()

    def put(self, table: pa.Table) -> str:
        """Store a table and return its digest; it is on disk when this returns. Storing it again changes nothing."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        write_whole(self.folder / f"{digest}.arrow", data)
        return digest

    def get(self, digest: str) -> pa.Table:
        """Return a table whose values are read from the disk when they are asked for.

        Raises:
            StoreError: there is no such chunk.
            Corrupt: its bytes are not those that were stored; they are checked once per process.
        """
        path = self.folder / f"{digest}.arrow"
        try:
            with pa.memory_map(str(path)) as file:
                self._verify(digest, file)
                return pa.ipc.open_stream(file).read_all()
        except FileNotFoundError as error:
            raise StoreError(f"chunk {str(path)!r} is missing.", "restore it from a backup") from error

    def _verify(self, digest: str, file: pa.MemoryMappedFile) -> None:
        if digest in self._verified:
            return
        if hashlib.sha256(file.read_buffer()).hexdigest() != digest:
            raise Corrupt(f"chunk {digest} in {str(self.folder)!r} has changed.", "restore it from a backup")
        file.seek(0)
        self._verified.add(digest)


def write_whole(path: Path, data: Any) -> None:
    """Write a file that appears under its name complete and on disk; one that is there already has this content."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)
    sync_folder(path.parent.parent)


def portions(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Part rows of canonical inputs so that a portion makes a chunk of bounded size."""
    portion: list[Row] = []
    size = 0
    for row in rows:
        if portion and (len(portion) >= _MAX_ROWS or size >= _MAX_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row.values())
    if portion:
        yield portion
