"""Ingest: append-only files of checksummed records, written by gateways and sealed by a rename.

A segment is `NAME.open` while its gateway writes it and `NAME.seg` once it is sealed; `frames` tells its bytes. A
payload is a `Batch` in msgpack. A writer holds a lock (`flock`) on its file, so an `.open` file whose lock is free
belongs to a gateway that died. A `.new` file is none yet, or was one: no reader looks at it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from tidemill.errors import Corrupt, ProjectError
from tidemill.records import DeviceProfile, Feedback, Prediction
from tidemill.stores.blocks import BLOCK, Blocks, go_through_cache, whole
from tidemill.stores.folders import sync_folder
from tidemill.stores.frames import FRAMES_AT, LOW_AT_AT, Payload, framed, header, packed_low_at, read_low_at, salt
from tidemill.stores.recycled import Recycled, delete, drop_unwiped
from tidemill.stores.spare import Spare, reserve

Durability = Literal["process", "power"]

_GATEWAY = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_WORTH_PARTS = 1 << 16  # bytes, from which on to put the parts together takes longer than to hand them over singly
_MAX_PARTS = 256
_MUCH = 1 << 18  # bytes in a segment, from which on its file is kept, or the next but one made ready ahead of time


class Batch(msgspec.Struct, gc=False, kw_only=True, omit_defaults=True):
    """The payload of a frame: rows of one project, predictions and feedback alike, and profiles of devices."""

    project: str
    predictions: list[Prediction] = []
    feedback: list[Feedback] = []
    profiles: list[DeviceProfile] = []


_decoder = msgspec.msgpack.Decoder(Batch)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment file as it was when the folder was listed."""

    name: str
    path: Path
    sealed: bool
    low_at: int
    num_bytes: int


class SegmentWriter:
    """Appends frames to a gateway's open segment: each `append` is one write(2) and nothing waits in the process.

    With durability `process` what was appended survives `kill -9`; with `power` it survives a power cut, because the
    write into the preallocated file returns only when the bytes are on the disk (see `Blocks`). While much is written,
    the file after this one is an old one (`process`, see `Recycled`), or a thread makes it ready (`power`, see
    `Spare`). Calls must not overlap.

    Args:
        folder: where segments lie; it must exist.
        gateway: names the writer, for people; letters, digits and `_.-`.
        low_at: no row appended from now on was received earlier (microseconds since 1970).
        durability: `process` or `power`.
        max_bytes: the size at which `is_full` asks for `rotate`; nothing is refused beyond it.
    """

    def __init__(
        self, folder: Path, gateway: str, *, low_at: int, durability: Durability = "process", max_bytes: int = 16 << 20
    ) -> None:
        if not _GATEWAY.fullmatch(gateway):
            raise ProjectError(f"gateway name {gateway!r} is no file name.", "use letters, digits and _ . -")
        if durability not in ("process", "power"):
            raise ProjectError(f"durability is {durability!r}.", "use 'process' or 'power'")
        self._folder = folder
        self._gateway = gateway
        self._blocks = Blocks() if durability == "power" else None
        self._max_bytes = max_bytes
        self._torn = False
        self._low_at = low_at
        self._end = FRAMES_AT
        self._spare: Spare | None = None
        self._recycled = Recycled(folder)
        self._fd, self._name = self._create(low_at)
        self._salt = salt(self._name)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was appended since the last rotation."""
        return self._end == FRAMES_AT

    @property
    def is_full(self) -> bool:
        """Whether the segment has reached `max_bytes`."""
        return self._end >= self._max_bytes

    @property
    def num_bytes(self) -> int:
        """The size of the open segment."""
        return self._end

    def append(self, frames: bytes | Sequence[Payload]) -> None:
        """Write one or more payloads, all or none of them.

        Raises:
            OSError: the disk is full or broken. What was half written is cut off again, so nothing torn comes before
                later frames.
        """
        payloads = (frames,) if isinstance(frames, bytes) else frames
        parts = framed(payloads, self._salt)
        num_bytes = sum(map(len, parts))
        if self._blocks is None and (num_bytes < _WORTH_PARTS or len(parts) > _MAX_PARTS):
            parts = [b"".join(parts)]
        if self._torn:
            self._cut()
        try:
            written = self._write(parts)
            if written != num_bytes:
                full = f"{os.strerror(errno.ENOSPC)} (only {written} of {num_bytes} bytes were written)"
                raise OSError(errno.ENOSPC, full, str(self._path(".open")))
        except OSError:
            self._torn = True
            self._recycled.discard()  # the disk may need the room
            self._cut()
            raise
        self._end += written

    def idle(self, low_at: int) -> None:
        """Say that no row received before `low_at` will come; it shows while the segment is empty."""
        if self.is_empty and low_at > self._low_at:
            if self._blocks is not None:
                go_through_cache(self._fd)  # an append may have begun and failed
            os.pwrite(self._fd, packed_low_at(low_at), LOW_AT_AT)
            self._low_at = low_at

    def rotate(self, low_at: int) -> None:
        """Seal the open segment and go on in a new one; an empty one is kept (see `idle`).

        The next file exists before the old one is renamed, so the gateway is never without a visible segment.
        """
        if self.is_empty:
            self._recycled.discard()
            self.idle(low_at)
            return
        fd, name = self._create(low_at)
        try:
            self._seal()
        except (OSError, MemoryError):
            os.close(fd)
            (self._folder / f"{name}.open").unlink()
            raise
        sealed_fd, sealed, num_bytes = self._fd, self._path(".seg"), self._end
        # Before anything else that may fail: what is appended to a sealed segment is lost.
        self._fd, self._low_at, self._end = fd, low_at, FRAMES_AT
        self._name, self._salt = name, salt(name)
        self._leave(sealed_fd, sealed, num_bytes >= _MUCH)
        self._make_spare(num_bytes)

    def close(self) -> None:
        """Seal the open segment and stop; an empty one is removed."""
        if self._fd < 0:
            return
        if self.is_empty:
            self._path(".open").unlink()
        else:
            self._seal()
        os.close(self._fd)
        self._fd = -1
        self._recycled.discard()
        if self._spare is not None:
            self._spare.discard()

    def _path(self, suffix: str) -> Path:
        return self._folder / (self._name + suffix)

    def _write(self, parts: Sequence[Payload]) -> int:
        if self._blocks is not None:
            if self.is_empty:
                self._blocks.begin(self._fd, header(self._low_at))
            return self._blocks.append(parts)
        if len(parts) == 1:
            return os.pwrite(self._fd, parts[0], self._end)
        return os.pwritev(self._fd, parts, self._end)

    def _leave(self, fd: int, sealed: Path, is_much: bool) -> None:
        """Have done with a sealed file, or keep it for a later segment."""
        is_kept = False
        try:
            if not is_much:
                self._recycled.discard()
            is_kept = is_much and self._blocks is None and self._recycled.keep(fd, sealed)
        finally:
            if not is_kept:
                os.close(fd)

    def _cut(self) -> None:
        os.ftruncate(self._fd, self._end)
        self._torn = False

    def _seal(self) -> None:
        # Neither needs a sync: what was written has had one, and after a power cut the file may be as it was before.
        written, sealed = self._path(".open"), self._path(".seg")
        os.ftruncate(self._fd, self._end)  # gives back what was preallocated
        written.rename(sealed)

    def _create(self, low_at: int) -> tuple[int, str]:
        while True:
            # Names are never used twice: a consumed name must not hide a new file.
            name = f"{self._gateway}-{low_at:016d}-{os.urandom(8).hex()}"
            fd, new = self._new()
            try:
                # Locked and headed before it is seen as .open: no compactor can take it for a dead gateway's.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._head(fd, low_at)
                new.rename(self._folder / f"{name}.open")
            except (FileNotFoundError, BlockingIOError):
                os.close(fd)  # a compactor took the file for a leftover before it was locked
                continue
            except OSError:
                os.close(fd)
                new.unlink(missing_ok=True)
                raise
            if self._blocks is not None:
                sync_folder(self._folder)
            return fd, name

    def _new(self) -> tuple[int, Path]:
        """Return a file that no reader looks at yet: one of ours that is free, or the spare one if it is ready."""
        if recycled := self._recycled.take():
            return recycled
        fd = self._spare.take() if self._spare is not None else None
        if self._spare is not None and fd is not None:
            path, self._spare = self._spare.path, None
            return fd, path
        path = self._new_path()
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640), path

    def _head(self, fd: int, low_at: int) -> None:
        head = header(low_at)
        if self._blocks is None:
            os.pwrite(fd, head, 0)
            return
        # For a whole block nothing has to be read before. The first append syncs it.
        os.pwrite(fd, head.ljust(BLOCK, b"\0"), 0)
        reserve(fd, whole(self._max_bytes), least=FRAMES_AT)

    def _make_spare(self, num_bytes: int) -> None:
        """Have a file made ready for as much as the last segment held, where segments hold much."""
        if self._spare is not None and self._spare.is_lost:
            self._spare = None
        is_worth_it = num_bytes >= _MUCH and self._blocks is not None and self._blocks.by_write
        if is_worth_it and self._spare is None:
            most = whole(self._max_bytes)
            num_zeros = min(whole(num_bytes + num_bytes // 4), most)
            self._spare = Spare(self._new_path(), num_zeros=num_zeros, num_bytes=most)

    def _new_path(self) -> Path:
        return self._folder / f"{self._gateway}-{os.urandom(8).hex()}.new"


class Segments:
    """The folder that gateways write to, as the compactor and the log see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def present(self) -> list[Segment]:
        """Return every segment that existed throughout the call, by name."""
        found: dict[str, bool] = {}
        for _ in range(2):  # a listing may miss a file that is renamed meanwhile, but each is renamed only once
            for name, suffix in self._entries():
                if suffix in (".open", ".seg"):
                    found[name] = found.get(name, False) or suffix == ".seg"
        segments = (self._segment(name, sealed) for name, sealed in sorted(found.items()))
        return [segment for segment in segments if segment is not None]

    def seal_dead(self) -> list[str]:
        """Seal what dead gateways left open; return the names of those segments."""
        sealed = []
        for name, suffix in self._entries():
            path = self.folder / (name + suffix)
            if suffix == ".open" and _if_unlocked(path, partial(path.rename, path.with_suffix(".seg"))):
                sealed.append(name)
            elif suffix == ".new" and not _if_unlocked(path, path.unlink):
                drop_unwiped(path)
        return sealed

    def remove(self, names: Iterable[str]) -> None:
        """Delete sealed segments, and make sure that they stay deleted."""
        for name in names:
            delete(self.folder / f"{name}.seg")
        sync_folder(self.folder)

    def _entries(self) -> list[tuple[str, str]]:
        if not self.folder.is_dir():
            return []
        return [(path.stem, path.suffix) for path in self.folder.iterdir()]

    def _segment(self, name: str, sealed: bool) -> Segment | None:
        for suffix in (".seg",) if sealed else (".open", ".seg"):
            path = self.folder / (name + suffix)
            try:
                with path.open("rb") as file:
                    head, num_bytes = file.read(FRAMES_AT), os.fstat(file.fileno()).st_size
            except FileNotFoundError:
                continue
            return Segment(name=name, path=path, sealed=suffix == ".seg", low_at=read_low_at(head), num_bytes=num_bytes)
        return None  # deleted since it was listed, hence consumed


def decode(payload: bytes, *, name: str) -> Batch:
    """Read the batch in a frame of segment `name`.

    Raises:
        Corrupt: the checksum held but the payload is no batch: another program wrote it.
    """
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"segment {name} holds a frame that is no batch: {error}.",
            "update this program, or move that file out of the folder to go on without its rows",
        ) from error


def _if_unlocked(path: Path, act: Callable[[], object]) -> bool:
    """Do `act` to a file whose lock is free; say whether it was done."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        act()
    except (BlockingIOError, FileNotFoundError):
        return False  # its writer lives, or has just sealed it
    finally:
        os.close(fd)
    return True
