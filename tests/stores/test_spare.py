"""A segment that is made ready while the one before it is written: never in the way, never in the log."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.stores import segments
from tidemill.stores.frames import Frames, read_frames
from tidemill.stores.segments import Segments, SegmentWriter
from tidemill.stores.spare import Spare

MUCH = b"m" * 40_000


@pytest.fixture(autouse=True)
def little_is_much(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(segments, "_MUCH", 10_000)
    yield
    through()


def through() -> None:
    """Wait until no file is being made ready."""
    for thread in threading.enumerate():
        if thread.name == "log-spare":
            thread.join(30)


def writer(folder: Path, max_bytes: int = 1 << 20) -> SegmentWriter:
    return SegmentWriter(folder, "gw", low_at=1, durability="power", max_bytes=max_bytes)


def suffixes(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


def test_the_segment_after_the_next_one_lies_in_blocks_that_are_written_already(tmp_path: Path) -> None:
    w = writer(tmp_path)
    for number in range(4):
        w.append(MUCH)
        w.rotate(10 + number)
        through()
        assert suffixes(tmp_path) == [".new", ".open", *[".seg"] * (number + 1)]
    (spare,) = tmp_path.glob("*.new")
    (took,) = tmp_path.glob("*.open")
    assert took.read_bytes()[16:] == bytes((1 << 20) - 16)
    with spare.open("rb") as file:
        assert file.read() == bytes(1 << 20)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    w.append(b"last")
    w.close()
    assert suffixes(tmp_path) == [".seg"] * 5
    assert [s.low_at for s in Segments(tmp_path).present()] == [1, 10, 11, 12, 13]
    read = [read_frames(s.path) for s in Segments(tmp_path).present()]
    assert read == [*[Frames([MUCH], 0)] * 4, Frames([b"last"], 0)]


def test_nothing_is_made_ready_where_it_saves_nothing(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.append(b"little")
    w.rotate(2)
    through()
    assert suffixes(tmp_path) == [".open", ".seg"]
    w.close()


def test_what_a_killed_gateway_had_made_ready_is_removed_and_that_of_one_that_lives_is_not(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.append(MUCH)
    w.rotate(2)
    through()
    Segments(tmp_path).seal_dead()
    assert suffixes(tmp_path) == [".new", ".open", ".seg"]
    w._spare._fd = os.close(w._spare._fd)  # type: ignore[union-attr,arg-type,func-returns-value]  # as its death does
    Segments(tmp_path).seal_dead()
    assert suffixes(tmp_path) == [".open", ".seg"]
    w.close()


def test_a_writer_that_is_closed_while_a_file_is_made_ready_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, begun, real = threading.Event(), threading.Event(), fcntl.flock

    def slow(fd: int, how: int) -> None:
        if threading.current_thread().name == "log-spare":
            begun.set()
            assert goes_on.wait(20)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    w = writer(tmp_path)
    w.append(MUCH)
    w.rotate(2)
    assert begun.wait(20)
    w.append(MUCH)
    w.rotate(3)  # it is not ready: another is made at once
    assert suffixes(tmp_path) == [".new", ".open", ".seg", ".seg"]
    w.close()
    goes_on.set()
    through()
    assert suffixes(tmp_path) == [".seg", ".seg"]


@pytest.mark.parametrize("why", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_no_write_is_synced_in_itself_a_file_is_made_ready_by_syncs_and_no_other_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: int
) -> None:
    def refused(*_: object) -> int:
        raise OSError(why, "not here")

    monkeypatch.setattr(os, "pwritev", refused)
    spare = Spare(tmp_path / "a.new", num_zeros=600_000, num_bytes=1 << 20)
    through()
    fd = spare.take()
    assert fd is not None
    os.close(fd)
    (tmp_path / "a.new").unlink()
    w = writer(tmp_path)
    for number in range(3):
        w.append(MUCH)
        w.rotate(number)
        through()
    assert suffixes(tmp_path) == [".open", ".seg", ".seg", ".seg"], "there it would save less"
    w.close()


def test_a_disk_that_writes_nothing_and_says_nothing_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    spare = Spare(tmp_path / "a.new", num_zeros=600_000, num_bytes=1 << 20)
    through()
    assert (spare.is_lost, spare.take(), suffixes(tmp_path)) == (True, None, [])


@pytest.mark.parametrize("call", ["open", "posix_fallocate", "pwritev"])
def test_a_disk_that_has_no_room_for_it_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def full(*given: object) -> object:
        if threading.current_thread().name == "log-spare":
            raise OSError(28, "full")
        return real(*given)

    monkeypatch.setattr(os, call, full)
    w = writer(tmp_path)
    for number in range(3):
        w.append(MUCH)
        w.rotate(number)
        through()
        assert suffixes(tmp_path) == [".open", *[".seg"] * (number + 1)]
    monkeypatch.undo()
    monkeypatch.setattr(segments, "_MUCH", 10_000)
    w.append(MUCH)
    w.rotate(9)
    through()
    assert ".new" in suffixes(tmp_path), "once there is room it is tried again"
    w.close()


def test_a_file_is_taken_once_and_not_removed_then(tmp_path: Path) -> None:
    spare = Spare(tmp_path / "a.new", num_zeros=600_000, num_bytes=1 << 20)
    through()
    fd = spare.take()
    assert fd is not None
    assert spare.take() is None
    spare.discard()
    assert os.fstat(fd).st_size == 1 << 20
    assert (tmp_path / "a.new").exists()
    os.close(fd)


def test_a_machine_that_has_no_thread_for_it_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    w = writer(tmp_path)
    for number in range(3):
        w.append(MUCH)
        w.rotate(number)
    w.append(b"last")
    w.close()
    assert suffixes(tmp_path) == [".seg"] * 4
