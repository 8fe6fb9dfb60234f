"""Files that appear whole under their names, and stay: what every store does before it trusts the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

_MAX_CHARS = 100


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write: it is on disk under its name when the block ends, or not there at all if it raises.

    A process that is killed may leave `<name>.<random>.part` behind.
    """
    part = path.with_name(f"{path.name}.{os.urandom(4).hex()}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_folder(place: Path, within: Path) -> None:
    """Create `place` and what lies between it and the existing folder `within`, so that they survive a power cut."""
    if place.is_dir():
        return
    place.mkdir(parents=True, exist_ok=True)
    while place != within:
        place = place.parent
        sync_folder(place)


def sync_folder(folder: Path) -> None:
    """Make renames and deletions in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def clear(folder: Path, kept: Collection[str]) -> int:
    """Delete the files of a folder but those of these names, and return how many bytes that were."""
    num_bytes = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in kept and path.is_file():
            num_bytes += path.stat().st_size
            path.unlink()
    if num_bytes:
        sync_folder(folder)
    return num_bytes


def folder_name(project: str) -> str:
    """Return a name for a project's folder: its own where it is plain and short, escaped or cut where it is not."""
    name = quote(project, safe="").replace(".", "%2E")
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return name if len(name) <= _MAX_CHARS else f"{name[:_MAX_CHARS]}-{digest}"
