"""Files and folders stored under the hash of their content: what is there is whole, and what was read is unchanged.

A blob is written under a temporary name, synced and renamed, so that a crash leaves either all of it or nothing under
its digest. A folder is known by the names and contents of its files (not by times, owners or modes).
"""

from __future__ import annotations

import builtins
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tidemill.errors import Corrupt, StoreError
from tidemill.stores.folders import whole_file

_CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = ".tmp-"


class Blobs:
    """Keeps blobs in one folder; processes and threads may share it."""

    def __init__(self, folder: Path | str) -> None:
        self._root = Path(folder)
        self._verified: set[str] = set()

    def put_folder(self, path: Path) -> str:
        """Store a copy of a folder and return its digest, 64 hex digits; storing the same again is free of harm.

        Raises:
            StoreError: it has no file, or holds something that is neither file nor folder (a link, a socket), or the
                disk is full.
        """
        with self._temporary() as place:
            entries = [(name, *_copy(path / name, place / name)) for name in _files(path, StoreError)]
            digest = _folder_digest(entries)
            for folder in (place, *(p for p in place.rglob("*") if p.is_dir())):
                _sync(folder)
            there = self._root / digest
            if there.is_dir() and digest_of(there) != digest:  # files of it were overwritten
                self.remove(digest)
            self._settle(place, digest)
        return digest

    def unchecked_folder(self, digest: str) -> Path:
        """Return where a stored folder lies, to look at what it says of itself: nothing of it is loaded from here.

        Raises:
            StoreError: there is no such folder.
        """
        place = self._place(digest)
        if not place.is_dir():
            raise self._missing(digest, "folder")
        return place

    def folder(self, digest: str) -> Path:
        """Return where a stored folder lies; read it, never write there. Its hash is checked once per process.

        Raises:
            StoreError: there is no such folder.
            Corrupt: its content is not what was stored.
        """
        place = self._place(digest)
        if digest not in self._verified:
            if not place.is_dir():
                raise self._missing(digest, "folder")
            with self._readable(digest):
                found = _folder_digest([(name, *_measure(place / name)) for name in _files(place, Corrupt)])
            self._check(digest, found)
            self._verified.add(digest)
        return place

    def put_bytes(self, data: builtins.bytes) -> str:
        """Store bytes and return their digest, the SHA-256; storing the same again is free of harm."""
        digest = hashlib.sha256(data).hexdigest()
        with self._temporary() as place:
            with _created(place / "bytes") as file:
                file.write(data)
            self._settle(place / "bytes", digest)
        return digest

    def bytes(self, digest: str) -> builtins.bytes:
        """Return stored bytes, checked at every reading.

        Raises:
            StoreError: there is no such blob.
            Corrupt: they are not what was stored.
        """
        place = self._place(digest)
        if not place.is_file():
            raise self._missing(digest, "file")
        with self._readable(digest):
            data = place.read_bytes()
        self._check(digest, hashlib.sha256(data).hexdigest())
        return data

    def overwrite(self, old: str, new: str, names: Sequence[str]) -> None:
        """Put files of a folder in the place of those of another, which nothing names any more.

        Processes that read the old folder by its path go on. To all others it has changed, until it is deleted.
        """
        for name in names:
            source, target = self._place(new) / name, self._place(old) / name
            if source.is_file() and target.parent.is_dir():
                with whole_file(target) as file:
                    file.write(source.read_bytes())
        self._verified.discard(old)

    def alike(self, digest: str, names: Sequence[str]) -> list[str]:
        """Return the other folders in which these files are the same, as where they were put by `overwrite`."""
        mine = [_read(self._place(digest) / name) for name in names]
        others = sorted(set(self.stored()) - {digest}) if any(one is not None for one in mine) else []
        return [one for one in others if [_read(self._place(one) / name) for name in names] == mine]

    def stored(self) -> dict[str, float]:
        """Return when each blob was stored (seconds since 1970), by digest."""
        found = {}
        for place in self._root.iterdir() if self._root.is_dir() else ():
            if _DIGEST.fullmatch(place.name):
                with suppress(FileNotFoundError):
                    found[place.name] = place.stat().st_mtime
        return found

    def remove(self, digest: str) -> int:
        """Delete a blob, whole at once to everybody else; return how many bytes it took. None of that digest is fine.

        One that is being deleted when the process dies is swept by the next that stores a blob.
        """
        place, doomed = self._place(digest), self._root / f"{_TEMPORARY}{secrets.token_hex(8)}"
        with suppress(FileNotFoundError), _locked(self._root):  # so that the sweep of another leaves it to us
            place.rename(doomed)
            _sync(self._root)
            num_bytes = sum(path.stat().st_size for path in [doomed, *doomed.rglob("*")] if path.is_file())
            shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()
            return num_bytes
        return 0

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"{digest!r} is not the digest of a blob.", "give 64 hexadecimal digits")
        return self._root / digest

    def _missing(self, digest: str, kind: str) -> StoreError:
        return StoreError(f"blob {digest!r} is not a {kind} in {str(self._root)!r}.", "restore it from a backup")

    @contextmanager
    def _readable(self, digest: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"blob {digest!r} cannot be read: {error}.", "check the disk and the permissions"
            ) from error

    def _check(self, digest: str, found: str) -> None:
        if found != digest:
            raise Corrupt(
                f"blob {digest!r} in {str(self._root)!r} has changed: its content now hashes to {found!r}.",
                "restore it from a backup; what is not in one must be trained anew",
            )

    def _settle(self, place: Path, digest: str) -> None:
        """Give what was written its name, unless the same content has it already."""
        target = self._root / digest
        if not target.exists():
            try:
                place.rename(target)
            except OSError:
                if not target.exists():  # else another process stored the same content just now
                    raise
        _sync(self._root)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """Give an empty folder to write in, gone afterwards; whatever the block raises as `OSError` is explained.

        The folder is locked by its writer, and the system frees the lock of a process that dies: unlocked ones are
        left-overs. The root is locked meanwhile, so that none is taken for one before its writer has locked it.
        """
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self._root):
                self._sweep()
                place = self._root / f"{_TEMPORARY}{secrets.token_hex(8)}"
                place.mkdir(mode=0o700)
                lock = _lock(place)
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)
                os.close(lock)
        except OSError as error:
            raise StoreError(
                f"a blob cannot be stored in {str(self._root)!r}: {error}.",
                "check that the source is readable and that the disk is writable and has room",
            ) from error

    def sweep(self) -> None:
        """Delete what killed processes were about to store."""
        if self._root.is_dir():
            with _locked(self._root):
                self._sweep()

    def _sweep(self) -> None:
        for place in self._root.glob(f"{_TEMPORARY}*"):
            with suppress(BlockingIOError, FileNotFoundError), _locked(place, wait=False):
                shutil.rmtree(place, ignore_errors=True)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def digest_of(path: Path) -> str:
    """Return the digest that a folder has once it is stored.

    Raises:
        StoreError: it has no file, or holds something that is neither file nor folder.
    """
    return _folder_digest([(name, *_measure(path / name)) for name in _files(path, StoreError)])


def _lock(folder: Path, *, wait: bool = True) -> int:
    """Return a handle that holds the folder's lock until it is closed, or the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    handle = _lock(folder, wait=wait)
    try:
        yield
    finally:
        os.close(handle)


def _files(folder: Path, error: type[StoreError]) -> list[str]:
    """Return the paths of a folder's files relative to it, sorted; raise `error` for what a blob cannot hold."""
    found = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            found.append(path.relative_to(folder).as_posix())
        elif not stat.S_ISDIR(mode):
            raise error(f"{str(path)!r} is a link or a special file, which a blob cannot hold.", "make it a plain file")
    if not found:
        raise error(f"folder {str(folder)!r} has no file.", "give the folder that the files are in")
    return sorted(found)


def _folder_digest(entries: list[tuple[str, int, str]]) -> str:
    """Hash the names, sizes and content hashes of a folder's files, which come sorted by name."""
    return hashlib.sha256(json.dumps(["tidemill folder 1", entries]).encode()).hexdigest()


def _measure(path: Path) -> tuple[int, str]:
    """Return a file's size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file to disk and return the size and SHA-256 of what was written, even if the source changes meanwhile."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, _created(target) as write:
        while chunk := read.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += write.write(chunk)
    return size, digest.hexdigest()


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """Give a new read-only file to write; it is on disk when the block ends."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
