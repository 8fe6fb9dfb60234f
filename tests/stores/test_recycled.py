"""A sealed segment's file is written again once the segment is in the log: nothing comes back, and nothing is lost."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.stores import recycled, segments
from tidemill.stores.frames import FRAMES_AT, read_frames
from tidemill.stores.recycled import is_on_disk
from tidemill.stores.segments import Segments, SegmentWriter

MUCH = b"m" * 20_000
TIMES = itertools.count(2)  # segments are read in the order of their times


@pytest.fixture(autouse=True)
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little is much, and the tests' folder counts as one on a disk wherever it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_MUCH", 10_000)
        patch.setattr(recycled, "is_on_disk", lambda _: True)
        yield


def writer(folder: Path) -> SegmentWriter:
    return SegmentWriter(folder, "gw", low_at=1)


def names(folder: Path, suffix: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(f"*{suffix}"))


def take_all(folder: Path) -> list[bytes]:
    """Read what is sealed and delete it, as a compactor does."""
    sealed = [segment for segment in Segments(folder).present() if segment.sealed]
    found = [payload for segment in sealed for payload in read_frames(segment.path).payloads]
    Segments(folder).remove(segment.name for segment in sealed)
    return found


def fill(w: SegmentWriter, *payloads: bytes) -> None:
    for payload in payloads:
        w.append(payload)
    w.rotate(next(TIMES))


def in_use(folder: Path) -> int:
    (path,) = folder.glob("*.open")
    return path.stat().st_ino


def test_a_file_is_written_again_once_its_segment_is_in_the_log(tmp_path: Path) -> None:
    w = writer(tmp_path)
    first = in_use(tmp_path)
    fill(w, MUCH, b"old")
    assert names(tmp_path, ".new") == names(tmp_path, ".seg"), "the file has two names"
    fill(w, MUCH, b"older")
    assert in_use(tmp_path) != first, "what is not in the log is not touched"
    assert take_all(tmp_path) == [MUCH, b"old", MUCH, b"older"]
    fill(w, b"new", MUCH)
    assert in_use(tmp_path) == first
    w.append(b"newest")
    (taken,) = tmp_path.glob("*.open")
    assert read_frames(taken) == ([b"newest"], 0)
    w.close()
    assert take_all(tmp_path) == [b"new", MUCH, b"newest"]
    assert list(tmp_path.iterdir()) == []


def test_no_more_files_are_kept_than_are_needed(tmp_path: Path) -> None:
    w = writer(tmp_path)
    for _ in range(40):
        fill(w, MUCH)
        take_all(tmp_path)
    assert len(names(tmp_path, ".new")) <= 2
    for _ in range(40):
        fill(w, MUCH)
    assert len(names(tmp_path, ".new")) == recycled._MOST_FILES
    assert take_all(tmp_path) == [MUCH] * 40
    for _ in range(40):
        fill(w, MUCH)
        take_all(tmp_path)
    assert len(names(tmp_path, ".new")) <= 2, "those of the burst are used up"
    w.close()
    assert names(tmp_path, ".new") == []


def test_what_was_in_a_deleted_segment_is_gone_at_once(tmp_path: Path) -> None:
    """Erasure reaches a file that is kept, though its writer may stand still."""
    w = writer(tmp_path)
    fill(w, MUCH, b"about a person")
    take_all(tmp_path)
    (kept,) = tmp_path.glob("*.new")
    assert kept.read_bytes()[16:].strip(b"\0") == b""
    w.close()


def test_with_power_none_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments.Spare, "_make", lambda _: None)
    w = SegmentWriter(tmp_path, "gw", low_at=1, durability="power")
    fill(w, MUCH)
    assert names(tmp_path, ".new") == []
    w.close()


@pytest.mark.parametrize("quietly", ["nothing", "little"])
def test_nothing_is_kept_once_little_is_written(tmp_path: Path, quietly: str) -> None:
    w = writer(tmp_path)
    for _ in range(3):
        fill(w, MUCH)
    take_all(tmp_path)
    assert len(names(tmp_path, ".new")) == 3
    fill(w, *[b"a row"] * (quietly == "little"))
    assert names(tmp_path, ".new") == []
    w.close()


def test_a_file_that_was_not_wiped_is_let_go(tmp_path: Path) -> None:
    """Whoever deleted the segment was killed before the end."""
    w = writer(tmp_path)
    fill(w, MUCH)
    (sealed,) = tmp_path.glob("*.seg")
    with sealed.open("rb") as file:
        sealed.unlink()
        for num_names in (1, 0):  # it may be being wiped when it is seen first
            fill(w, MUCH)
            assert os.fstat(file.fileno()).st_nlink == num_names
            assert in_use(tmp_path) != os.fstat(file.fileno()).st_ino
    w.close()
    assert take_all(tmp_path) == [MUCH, MUCH]


def test_what_nobody_wiped_loses_its_name_though_its_writer_stands_still(tmp_path: Path) -> None:
    w = writer(tmp_path)
    for _ in range(3):
        fill(w, MUCH)
    unwiped, wiped, waits = (tmp_path / f"{name}.seg" for name in names(tmp_path, ".seg"))
    unwiped.unlink()
    Segments(tmp_path).remove([wiped.stem])
    Segments(tmp_path).seal_dead()
    assert names(tmp_path, ".new") == [wiped.stem, waits.stem]
    fill(w, MUCH)
    w.close()
    assert take_all(tmp_path) == [MUCH, MUCH]


@pytest.mark.parametrize("late", ["before", "within"])
def test_a_late_deletion_does_not_wipe_what_is_in_use_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """A compactor stands still while it deletes; its heir deletes the segment, and the writer goes on."""
    w = writer(tmp_path)
    fill(w, MUCH)
    (sealed,) = tmp_path.glob("*.seg")
    first = sealed.stat().st_ino
    holder, name = (Path, "unlink") if late == "before" else (recycled, "_wipe")
    real, told = getattr(holder, name), []

    def meanwhile(*given: object, **named: object) -> None:
        if not told:
            told.append(given)
            Segments(tmp_path).remove([sealed.stem])
            fill(w, MUCH)
            assert (in_use(tmp_path) == first) == (late == "before"), "what is not yet wiped is not used"
            w.append(b"acknowledged")
        real(*given, **named)

    monkeypatch.setattr(holder, name, meanwhile)
    Segments(tmp_path).remove([sealed.stem])
    assert told
    w.close()
    assert take_all(tmp_path) == [MUCH, b"acknowledged"]


def test_a_file_that_is_kept_while_its_segment_is_deleted_is_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may stand still from then on."""
    w, unlink = writer(tmp_path), Path.unlink
    w.append(MUCH)
    keep = w._recycled.keep

    def first_link(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".seg" and not names(tmp_path, ".new"):
            keep(os.dup(w._fd), path)
        unlink(path, missing_ok)

    monkeypatch.setattr(w._recycled, "keep", lambda *_: False)
    fill(w, MUCH)
    monkeypatch.setattr(Path, "unlink", first_link)
    Segments(tmp_path).remove(names(tmp_path, ".seg"))
    (kept,) = tmp_path.glob("*.new")
    assert kept.read_bytes()[16:].strip(b"\0") == b""
    w.close()


def test_a_writer_without_memory_appends_to_nothing_that_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = writer(tmp_path)
    w.append(MUCH)

    def none_left(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", none_left)
        with pytest.raises(MemoryError):
            w.rotate(next(TIMES))
    assert take_all(tmp_path) == [MUCH]
    w.append(b"acknowledged")
    w.close()
    assert take_all(tmp_path) == [b"acknowledged"]


def test_who_reads_a_segment_that_is_wiped_meanwhile_is_told_that_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = writer(tmp_path)
    fill(w, MUCH)
    (sealed,) = tmp_path.glob("*.seg")
    read = Path.read_bytes

    def slowly(path: Path) -> bytes:
        Segments(tmp_path).remove([sealed.stem])
        return read(path.with_suffix(".new"))  # as whoever had opened it before

    monkeypatch.setattr(Path, "read_bytes", slowly)
    with pytest.raises(FileNotFoundError):
        read_frames(sealed)
    w.close()


def test_a_copy_of_the_folder_that_is_made_of_names_stays_as_it_is(tmp_path: Path) -> None:
    home, copy = tmp_path / "segments", tmp_path / "copy"
    home.mkdir()
    w = writer(home)
    fill(w, MUCH, b"kept")
    shutil.copytree(home, copy, copy_function=os.link)
    take_all(home)
    for _ in range(3):
        fill(w, MUCH)
        take_all(home)
    assert take_all(copy) == [MUCH, b"kept"]
    assert not {path.stat().st_ino for path in home.iterdir()} & {path.stat().st_ino for path in copy.iterdir()}
    w.close()


def test_a_copy_that_is_made_of_names_while_a_segment_is_deleted_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, copy = tmp_path / "segments", tmp_path / "copy"
    home.mkdir()
    w, unlink = writer(home), Path.unlink
    fill(w, MUCH, b"kept")

    def copied(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".seg" and not copy.exists():
            shutil.copytree(home, copy, copy_function=os.link)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", copied)
        take_all(home)
    assert take_all(copy) == [MUCH, b"kept"]
    w.close()


def test_a_killed_writers_files_are_removed_and_its_segments_stay(tmp_path: Path) -> None:
    dying = f"""
import os
from pathlib import Path
from tidemill.stores import recycled, segments
segments._MUCH, recycled.is_on_disk = 10_000, lambda _: True
folder = Path({str(tmp_path)!r})
w = segments.SegmentWriter(folder, "gw", low_at=1)
for number in range(3):
    w.append(b"m" * 20_000)
    w.rotate(2 + number)
segments.Segments(folder).remove([min(path.stem for path in folder.glob("*.seg"))])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", dying], check=False, timeout=60).returncode == -9
    assert len(names(tmp_path, ".new")) == 3
    Segments(tmp_path).seal_dead()
    assert names(tmp_path, ".new") == []
    assert take_all(tmp_path) == [MUCH, MUCH]


def test_a_full_disk_gets_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = writer(tmp_path)
    fill(w, MUCH)
    take_all(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            w.append(b"a row")
    assert names(tmp_path, ".new") == []
    w.append(b"after")
    w.close()
    assert take_all(tmp_path) == [b"after"]


@pytest.mark.parametrize("broken", ["link", "open", "pwrite"])
def test_without_second_names_or_the_right_to_wipe_it_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    w = writer(tmp_path)
    real = getattr(os, broken)

    def refused(target: object, *rest: object) -> object:
        if str(target).endswith(".seg") or (broken == "pwrite" and rest[-1] == FRAMES_AT and not rest[0].strip(b"\0")):  # type: ignore[attr-defined]
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(target, *rest)

    monkeypatch.setattr(os, broken, refused)
    for number in range(5):
        fill(w, MUCH, b"%d" % number)
        sealed = names(tmp_path, ".seg")
        Segments(tmp_path).remove(sealed)
        assert len(names(tmp_path, ".new")) <= 3
    w.append(b"last")
    (open_,) = tmp_path.glob("*.open")
    assert read_frames(open_).payloads == [b"last"]
    w.close()
    assert names(tmp_path, ".new") == []


def test_a_file_that_cannot_be_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = writer(tmp_path)
    fill(w, MUCH)
    take_all(tmp_path)

    def bad(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", bad)
    fill(w, b"a row")
    assert names(tmp_path, ".new") == []
    w.close()
    assert take_all(tmp_path) == [b"a row"]


def test_files_that_were_used_are_closed(tmp_path: Path) -> None:
    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the system does not tell which files are open")
    before = num_open()
    w = writer(tmp_path)
    for number in range(60):
        fill(w, *[MUCH] * (number % 7 != 0))
        if number % 5 == 0:
            for path in tmp_path.glob("*.seg"):
                path.unlink()
        elif number % 3:
            take_all(tmp_path)
    w.close()
    take_all(tmp_path)
    assert num_open() == before


def test_a_folder_in_memory_is_not_on_a_disk() -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir():
        pytest.skip("there is no folder in memory")
    assert not is_on_disk(memory)


ACTS = ["much", "row", "rotate", "take", "lose"]


@given(acts=st.lists(st.sampled_from(ACTS), max_size=40))
@settings(deadline=None)
def test_every_row_is_taken_once_whatever_comes_when(acts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("segments")
    w, written, taken = writer(folder), [], []
    for number, act in enumerate([*acts, "rotate", "take"]):
        if act in ("much", "row"):
            written.append(b"%04d" % number + MUCH * (act == "much"))
            w.append(written[-1])
        elif act == "rotate":
            w.rotate(2 + number)
        elif act == "take":
            taken += take_all(folder)
        else:  # a compactor that is killed between deleting and wiping
            for name in names(folder, ".seg"):
                taken += read_frames(folder / f"{name}.seg").payloads
                (folder / f"{name}.seg").unlink()
    w.close()
    assert taken == written
    assert list(folder.iterdir()) == []
