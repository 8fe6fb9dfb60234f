"""The power is cut: what was synced is there, on a real file system whose unwritten memory is thrown away.

The file system lies in a file. A copy of that file is what a disk holds at that moment: what the kernel had not yet
written to it is not in the copy, and mounting the copy replays its journal, as after a power cut.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from disks import image_disk, mounted
from tidemill.stores.frames import read_frames
from tidemill.stores.segments import Segments, SegmentWriter

FRAMES = [bytes([65 + i % 26]) * 700 for i in range(40)]


def after_power_cut(tmp_path: Path, durability: str, *, rotate_at: int = 16, max_bytes: int = 1 << 20) -> list[bytes]:
    """Append all frames, cut the power, and return what a compactor would find."""
    disk, later = tmp_path / "disk", tmp_path / "later"
    disk.mkdir()
    later.mkdir()
    with image_disk(disk, tmp_path / "disk.img"):
        writer = SegmentWriter(disk, "gw", low_at=1, durability=durability, max_bytes=max_bytes)  # type: ignore[arg-type]
        for number, frame in enumerate(FRAMES):
            writer.append(frame)
            if number % rotate_at == rotate_at - 1:
                writer.rotate(number)
        shutil.copyfile(tmp_path / "disk.img", tmp_path / "cut.img")
        writer.close()
    with mounted(later, tmp_path / "cut.img"):
        (later / "lost+found").rmdir()
        segments = Segments(later)
        segments.seal_dead()
        return [payload for s in segments.present() for payload in read_frames(s.path).payloads]


@pytest.mark.parametrize("max_bytes", [1 << 20, 8000, 1 << 30], ids=["preallocated", "beyond it", "more than there is"])
def test_what_a_power_append_wrote_survives_a_power_cut(tmp_path: Path, max_bytes: int) -> None:
    assert after_power_cut(tmp_path, "power", max_bytes=max_bytes) == FRAMES


def test_what_was_written_into_a_file_made_ready_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.stores.segments._MUCH", 1)
    assert after_power_cut(tmp_path, "power", rotate_at=9) == FRAMES


def test_where_writes_cannot_be_synced_the_sync_after_each_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.stores.blocks._DSYNC", 0)
    assert after_power_cut(tmp_path, "power") == FRAMES


def test_without_power_durability_a_power_cut_does_lose_rows(tmp_path: Path) -> None:
    """So the tests above can fail."""
    assert after_power_cut(tmp_path, "process") != FRAMES


def test_what_was_in_a_file_that_is_written_again_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has the old rows yet, under the name of a new segment, and not the zeros that went over them."""
    monkeypatch.setattr("tidemill.stores.segments._MUCH", 1)
    disk, later = tmp_path / "disk", tmp_path / "later"
    disk.mkdir()
    later.mkdir()
    with image_disk(disk, tmp_path / "disk.img"):
        writer, segments = SegmentWriter(disk, "gw", low_at=1), Segments(disk)
        for frame in FRAMES:
            writer.append(frame)
        writer.rotate(2)
        os.sync()
        segments.remove([segment.name for segment in segments.present() if segment.sealed])
        writer.append(b"another")
        writer.rotate(3)
        os.fsync(folder := os.open(disk, os.O_RDONLY))  # names are on the disk
        os.close(folder)
        shutil.copyfile(tmp_path / "disk.img", tmp_path / "cut.img")
        writer.close()
    with mounted(later, tmp_path / "cut.img"):
        (later / "lost+found").rmdir()
        (taken,) = later.glob("*.open")
        assert FRAMES[-1] in taken.read_bytes(), "or this shows nothing"
        segments = Segments(later)
        segments.seal_dead()
        found = [payload for s in segments.present() for payload in read_frames(s.path).payloads]
        assert not set(found) & set(FRAMES)
