"""What a reader finds in a segment: whole frames, of this segment alone, whatever became of the file."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import NewerStore
from tidemill.stores.frames import Frames, read_frames
from tidemill.stores.segments import Segments, SegmentWriter

HEADER, FRAME = 16, 8


def writer(folder: Path) -> SegmentWriter:
    return SegmentWriter(folder, "gw", low_at=1000)


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_file_cut_at_any_byte_gives_the_whole_frames_before_the_cut(tmp_path: Path) -> None:
    frames = [b"first", b"2" * 300, b"", b"third \x00\x00"]
    w = writer(tmp_path)
    w.append([f for f in frames if f])
    w.close()
    path = only(tmp_path)
    data = path.read_bytes()
    ends = [HEADER]
    for frame in frames:
        ends += [ends[-1] + FRAME + len(frame)] if frame else []
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        found = read_frames(path)
        assert found.payloads == [f for f in frames if f][:whole], cut
        assert (found.num_torn > 0) == (
            cut not in ends and data[max(e for e in [0, *ends] if e <= cut) : cut].strip(b"\0") != b""
        ), cut


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), flip=st.integers(1, 255))
def test_a_changed_byte_never_gives_a_frame_that_was_not_written(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    frames = [b"a" * 100, b"b" * 120, b"c" * 90]
    w = writer(folder)
    w.append(frames)
    w.close()
    data = bytearray(only(folder).read_bytes())
    data[at % len(data)] ^= flip
    only(folder).write_bytes(data)
    try:
        found = read_frames(only(folder)).payloads
    except NewerStore:
        assert at % len(data) == 7
        return
    assert found == frames[: len(found)]


def test_a_segment_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.append(b"x")
    w.close()
    data = bytearray(only(tmp_path).read_bytes())
    data[7] = 9
    only(tmp_path).write_bytes(data)
    with pytest.raises(NewerStore, match="format 9"):
        read_frames(only(tmp_path))


def test_a_header_lost_in_a_power_cut_may_hold_any_time(tmp_path: Path) -> None:
    (tmp_path / "gw-1.seg").write_bytes(b"\0" * 4096)
    (tmp_path / "gw-2.seg").write_bytes(b"")
    assert [s.low_at for s in Segments(tmp_path).present()] == [0, 0]
    assert read_frames(tmp_path / "gw-1.seg") == Frames([], 0)


def test_a_segment_of_an_earlier_program_is_read(tmp_path: Path) -> None:
    frames = [b"first", b"2" * 300]
    data = struct.pack("<7sBq", b"TIDESEG", 1, 77)
    for frame in frames:
        data += struct.pack("<II", len(frame), zlib.crc32(frame)) + frame
    (tmp_path / "gw-1.seg").write_bytes(data)
    assert read_frames(tmp_path / "gw-1.seg") == Frames(frames, 0)
    assert [s.low_at for s in Segments(tmp_path).present()] == [77]


def test_frames_are_no_good_in_another_segment(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.append(b"old")
    w.rotate(2)
    (sealed,) = tmp_path.glob("*.seg")
    shutil.copyfile(sealed, tmp_path / "gw-2.seg")
    assert read_frames(tmp_path / "gw-2.seg").payloads == []
    assert read_frames(sealed).payloads == [b"old"]
    w.close()


def test_a_segment_that_is_sealed_while_it_is_read_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = writer(tmp_path)
    w.append(b"a row")
    (path,) = tmp_path.glob("*.open")
    read = Path.read_bytes

    def slowly(path: Path) -> bytes:
        data = read(path)
        w.rotate(2)
        return data

    monkeypatch.setattr(Path, "read_bytes", slowly)
    assert read_frames(path).payloads == [b"a row"]
    w.close()
