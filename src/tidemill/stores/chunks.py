"""Arrow tables stored under the hash of their bytes, and read by memory-mapping them.

A chunk is one file, `<digest>.arrow`, in the IPC stream format and uncompressed: the form that Hugging Face `datasets`
opens as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.errors import Corrupt, StoreError
from tidemill.stores.folders import make_folder, whole_file

_MAX_ROWS = 4096
_MAX_BYTES = 32 << 20


class Chunks:
    """The chunks in one folder; processes may share it."""

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
        path = self.path(digest)
        if not path.exists():
            make_folder(self.folder, self.folder.parent)
            with whole_file(path) as file:
                file.write(data)
        return digest

    def get(self, digest: str) -> pa.Table:
        """Return a table whose values are read from the disk when they are asked for.

        Raises:
            StoreError: there is no such chunk.
            Corrupt: its bytes are not those that were stored; they are checked once per process.
        """
        try:
            file = pa.memory_map(str(self.path(digest)))
        except FileNotFoundError as error:
            raise StoreError(f"chunk {digest} is not in {str(self.folder)!r}.", "restore it from a backup") from error
        with file:
            data = file.read_buffer()
        if digest not in self._verified and hashlib.sha256(data).hexdigest() != digest:
            raise Corrupt(f"chunk {digest} in {str(self.folder)!r} has changed.", "restore it from a backup")
        self._verified.add(digest)
        return pa.ipc.open_stream(data).read_all()

    def path(self, digest: str) -> Path:
        """Return where a chunk is, whether or not it is there."""
        return self.folder / f"{digest}.arrow"


def portions(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Part rows of canonical values so that each portion makes a chunk of bounded size."""
    portion: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        if portion and (len(portion) >= _MAX_ROWS or size >= _MAX_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row.values())
    if portion:
        yield portion
