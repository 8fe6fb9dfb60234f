"""What is written in whole blocks reads as if it had been written as it came, on whatever file system."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.stores import blocks as module
from tidemill.stores.blocks import BLOCK, Blocks

HEAD = b"the head of it"
DIRECT: int = getattr(os, "O_DIRECT", 0)
LARGE = 5 << 20  # beyond what is kept of memory in between
SIZES = st.sampled_from([1, 17, BLOCK - len(HEAD), BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 300_000])
APPENDS = st.lists(st.lists(SIZES | st.integers(1, 2 * BLOCK), min_size=1, max_size=4), max_size=8)


class File:
    """A file as a segment is: with a head, and room behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.pwrite(self.fd, HEAD.ljust(BLOCK, b"\0"), 0)
        self.written = bytearray(HEAD)

    def append(self, blocks: Blocks, sizes: list[int]) -> None:
        parts = [os.urandom(size) for size in sizes]
        assert blocks.append(parts) == sum(sizes)
        self.written += b"".join(parts)

    def check(self) -> None:
        read = self.path.read_bytes()
        assert read[: len(self.written)] == self.written
        assert not read[len(self.written) :].strip(b"\0"), "what follows is zeros"

    @property
    def is_direct(self) -> bool:
        return bool(fcntl.fcntl(self.fd, fcntl.F_GETFL) & DIRECT)


@settings(max_examples=40, deadline=None)
@given(appends=st.lists(APPENDS, min_size=1, max_size=3))
def test_parts_of_any_size_follow_one_another_in_one_file_after_another(
    tmp_path_factory: pytest.TempPathFactory, appends: list[list[list[int]]]
) -> None:
    folder, blocks = tmp_path_factory.mktemp("blocks"), Blocks()
    for number, of_file in enumerate(appends):
        file = File(folder / f"{number}")
        blocks.begin(file.fd, HEAD)
        for sizes in of_file:
            file.append(blocks, sizes)
            file.check()
        os.close(file.fd)


def has_only_a_cache(folder: Path) -> bool:
    """Tell whether this file system takes no writes past its cache, asked without what is tested."""
    try:
        os.close(os.open(folder / "probe", os.O_RDWR | os.O_CREAT | DIRECT, 0o600))
    except OSError:
        return True
    return not DIRECT


def test_they_go_past_the_page_cache(tmp_path: Path) -> None:
    if has_only_a_cache(tmp_path):
        pytest.skip("this file system has nothing but its cache")
    file, blocks = File(tmp_path / "a"), Blocks()
    blocks.begin(file.fd, HEAD)
    file.append(blocks, [100])
    assert file.is_direct
    os.close(file.fd)


def refuses_direct(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no write go past the page cache, as on a disk whose blocks are larger, or a file system without that."""
    for call in ("pwrite", "pwritev"):
        real = getattr(os, call)

        def refused(fd: int, *given: object, real: object = real) -> int:
            if file.is_direct:
                raise OSError(errno.EINVAL, "not so")
            return int(real(fd, *given))  # type: ignore[operator]

        monkeypatch.setattr(os, call, refused)


@pytest.mark.parametrize("has_dsync", [True, False])
def test_where_the_file_system_cannot_do_that_the_cache_is_used_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_dsync: bool
) -> None:
    if not has_dsync:
        monkeypatch.setattr("tidemill.stores.blocks._DSYNC", 0)
    file, blocks = File(tmp_path / "a"), Blocks()
    blocks.begin(file.fd, HEAD)
    refuses_direct(file, monkeypatch)
    for sizes in ([10], [5000, 3], [BLOCK]):
        file.append(blocks, sizes)
    file.check()
    assert not file.is_direct
    blocks.begin(file.fd, HEAD)
    assert not file.is_direct, "nor is it tried with the next file"
    os.close(file.fd)


def test_a_disk_that_fails_is_told_of_and_not_taken_for_one_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, blocks = File(tmp_path / "a"), Blocks()
    blocks.begin(file.fd, HEAD)
    file.append(blocks, [10])
    was_direct = file.is_direct

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        patch.setattr(os, "pwritev", broken)
        with pytest.raises(OSError, match="broken"):
            blocks.append([b"x" * 9000])
    assert file.is_direct == was_direct
    file.append(blocks, [20])
    file.check()
    os.close(file.fd)


def test_what_a_short_write_left_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, blocks = File(tmp_path / "a"), Blocks()
    blocks.begin(file.fd, HEAD)
    file.append(blocks, [100])
    with monkeypatch.context() as patch:
        for call in ("pwrite", "pwritev"):
            real = getattr(os, call)

            def short(fd: int, data: Any, *given: int, real: Any = real) -> int:
                """Write one block."""
                return int(real(fd, [data[0][:BLOCK]] if isinstance(data, list) else data[:BLOCK], *given))

            patch.setattr(os, call, short)
        assert blocks.append([b"y" * 9000]) == BLOCK - len(HEAD) - 100
        assert blocks.append([b"z" * 50]) == 50, "it fits into what was written of the blocks"
    file.written += b"z" * 50
    os.ftruncate(file.fd, len(file.written))  # as whoever is refused does
    file.append(blocks, [6000])
    file.check()
    os.close(file.fd)


def test_large_parts_leave_no_memory_behind_and_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ROOM", 1 << 20)
    file, blocks = File(tmp_path / "a"), Blocks()
    blocks.begin(file.fd, HEAD)
    for size in (100, LARGE, 10, 2 * LARGE, 3 * BLOCK, LARGE):
        file.append(blocks, [size, 7])
        file.check()
    assert len(blocks._buffer) >= LARGE
    file.append(blocks, [1])
    assert len(blocks._buffer) < 1 << 20
    file.check()
    os.close(file.fd)


def test_what_there_is_no_memory_for_is_refused_and_what_comes_after_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_ROOM", 1 << 20)
    file, blocks = File(tmp_path / "a"), Blocks()
    blocks.begin(file.fd, HEAD)
    file.append(blocks, [100])

    def none_left() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used, before[1]))

    before = resource.getrlimit(resource.RLIMIT_AS)
    large, little = [b"l" * LARGE], [b"s" * 300]
    try:
        none_left()
        with pytest.raises(OSError, match="Cannot allocate memory"):
            blocks.append(large)
        assert blocks.append(little) == 300
        resource.setrlimit(resource.RLIMIT_AS, before)
        assert blocks.append(large) == LARGE
        none_left()
        assert blocks.append(little) == 300, "not even for a smaller buffer"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    file.written += little[0] + large[0] + little[0]
    file.check()
    os.close(file.fd)
