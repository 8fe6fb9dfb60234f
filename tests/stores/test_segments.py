"""What a gateway may rely on when it has appended, and what a reader may rely on when it has listed."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from log_rows import feedback, payload, prediction

from tidemill.errors import Corrupt, ProjectError
from tidemill.stores.frames import Frames, read_frames
from tidemill.stores.segments import Segments, SegmentWriter, decode

HEADER, FRAME = 16, 8
MODES = ("process", "power")


def writer(folder: Path, low_at: int = 1000, **changes: object) -> SegmentWriter:
    return SegmentWriter(folder, "gw", low_at=low_at, **changes)  # type: ignore[arg-type]


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def python(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as another process; `folder` and the writer's names are there."""
    start = f"""
import os, resource, signal, sys
from pathlib import Path
from tidemill.stores.frames import read_frames
from tidemill.stores.segments import Segments, SegmentWriter
folder = Path({str(folder)!r})
"""
    command = [sys.executable, "-c", start + script]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("durability", MODES)
def test_what_was_appended_is_read_back_in_order(tmp_path: Path, durability: str) -> None:
    w = writer(tmp_path, durability=durability)
    w.append(b"one")
    w.append([b"two", b"three"])
    w.close()
    assert read_frames(only(tmp_path)) == Frames([b"one", b"two", b"three"], 0)


@pytest.mark.parametrize("durability", MODES)
def test_what_was_appended_survives_kill_9_at_once(tmp_path: Path, durability: str) -> None:
    done = python(
        tmp_path,
        f"w = SegmentWriter(folder, 'gw', low_at=5, durability={durability!r})\n"
        "w.append([b'a' * 5000, b'b']); os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert done.returncode == -signal.SIGKILL
    assert read_frames(only(tmp_path)) == Frames([b"a" * 5000, b"b"], 0)
    assert Segments(tmp_path).seal_dead() == [only(tmp_path).stem]
    assert [s.sealed for s in Segments(tmp_path).present()] == [True]


def test_one_append_is_one_write_however_many_frames(tmp_path: Path) -> None:
    w = writer(tmp_path)
    calls = []
    real = os.pwrite

    def counted(fd: int, data: bytes, at: int) -> int:
        calls.append(len(data))
        return real(fd, data, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", counted)
        w.append([b"x" * 10] * 64)
    assert calls == [64 * (FRAME + 10)]
    w.close()


def test_a_batch_of_rows_comes_back_as_it_was(tmp_path: Path) -> None:
    row = prediction(1, 1000, inputs={"image": b"\x00\xff", "text": "é", "age": 3.5}, decision=2.5)
    fact = feedback(1, 1001, True, kind="thumbs")
    w = writer(tmp_path)
    w.append(payload(row, fact))
    w.close()
    batch = decode(read_frames(only(tmp_path)).payloads[0], name="it")
    assert (batch.project, batch.predictions, batch.feedback) == ("p", [row], [fact])


def test_a_payload_that_is_no_batch_is_corrupt_and_names_the_segment() -> None:
    with pytest.raises(Corrupt, match="gw-7"):
        decode(b"\x93\x01\x02\x03", name="gw-7")


def test_the_lowest_time_lies_at_a_fixed_place_in_the_header(tmp_path: Path) -> None:
    w = writer(tmp_path, low_at=123_456_789)
    assert struct.unpack_from("<q", only(tmp_path).read_bytes(), 8) == (123_456_789,)
    w.close()


def test_an_idle_gateway_moves_its_lowest_time_on_only_while_its_segment_is_empty(tmp_path: Path) -> None:
    w, folder = writer(tmp_path, low_at=1000), Segments(tmp_path)
    w.idle(2000)
    assert [s.low_at for s in folder.present()] == [2000]
    w.idle(1500)
    assert [s.low_at for s in folder.present()] == [2000], "it never goes back"
    w.append(b"row received at 2000")
    w.idle(3000)
    assert [s.low_at for s in folder.present()] == [2000], "the row might be that old"
    w.rotate(2500)
    assert [(s.sealed, s.low_at) for s in folder.present()] == [(True, 2000), (False, 2500)]
    w.close()


def test_rotating_an_empty_segment_makes_no_file(tmp_path: Path) -> None:
    w = writer(tmp_path, low_at=1000)
    w.rotate(2000)
    assert [(s.sealed, s.low_at) for s in Segments(tmp_path).present()] == [(False, 2000)]
    w.close()
    assert list(tmp_path.iterdir()) == [], "and closing leaves none"


def test_a_segment_says_when_it_is_full_and_takes_more_all_the_same(tmp_path: Path) -> None:
    w = writer(tmp_path, max_bytes=100)
    w.append(b"x" * 40)
    assert not w.is_full
    w.append(b"y" * 40)
    assert w.is_full
    w.append(b"z" * 40)
    w.rotate(2000)
    assert not w.is_full
    assert w.is_empty
    w.close()
    assert len(read_frames(only(tmp_path)).payloads) == 3


def test_a_power_segment_is_preallocated_while_open_and_exact_when_sealed(tmp_path: Path) -> None:
    w = writer(tmp_path, durability="power", max_bytes=1 << 16)
    w.append(b"x" * 40)
    assert only(tmp_path).stat().st_size == 1 << 16
    assert read_frames(only(tmp_path)) == Frames([b"x" * 40], 0), "what was preallocated is not torn"
    w.close()
    assert only(tmp_path).stat().st_size == HEADER + FRAME + 40


def test_a_power_segment_is_written_by_synced_writes(tmp_path: Path) -> None:
    if not hasattr(os, "RWF_DSYNC"):
        pytest.skip("this system has no synced write")
    flags = []
    real = os.pwritev

    def seen(fd: int, data: list[bytes], at: int, flag: int) -> int:
        flags.append(flag)
        return real(fd, data, at, flag)

    w = writer(tmp_path, durability="power")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", seen)
        w.append(b"x")
    assert flags == [os.RWF_DSYNC]
    w.close()


def test_where_the_file_system_has_no_synced_write_a_sync_follows(tmp_path: Path) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not here")

    synced = []
    w = writer(tmp_path, durability="power")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", refused)
        patch.setattr("tidemill.stores.blocks._sync_data", synced.append)
        w.append(b"x")
        w.append(b"y")
    assert len(synced) == 2
    w.close()
    assert read_frames(only(tmp_path)) == Frames([b"x", b"y"], 0)


@pytest.mark.parametrize("durability", MODES)
def test_a_full_disk_refuses_the_append_and_leaves_nothing_torn(tmp_path: Path, durability: str) -> None:
    """A file size limit cuts a write short just as a full disk does; a power segment was preallocated up to it."""
    done = python(
        tmp_path,
        f"""
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
w = SegmentWriter(folder, 'gw', low_at=5, durability={durability!r}, max_bytes=1000)
w.append(b'a' * 500)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        w.append([b'b' * 100, b'c' * 100, b'd' * 700])
    except OSError as error:
        print('refused', file=sys.stderr)
w.append(b'e' * 100)  # as long as b: where nothing is cut off, c follows it
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert done.stderr == "refused\nrefused\n"
    assert read_frames(only(tmp_path)) == Frames([b"a" * 500, b"e" * 100], 0)


def test_a_refused_append_is_cut_off_before_the_next_one_even_if_cutting_failed_at_first(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.append(b"good")
    real = os.pwrite

    def short(fd: int, data: bytes, at: int) -> int:
        return real(fd, data[: len(data) // 2], at)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(OSError, match="broken"):
            w.append([b"ghost", b"ghost", b"ghost"])
        with pytest.raises(OSError, match="broken"):
            w.append(b"refused too")
    w.append(b"later")
    w.close()
    assert read_frames(only(tmp_path)) == Frames([b"good", b"later"], 0)


def test_a_rotation_that_fails_leaves_the_gateway_with_its_open_segment(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.append(b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    for broken in ("open", "rename"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*((os, "open", full) if broken == "open" else (Path, "rename", full)))
            with pytest.raises(OSError, match="full"):
                w.rotate(2000)
        assert len(list(tmp_path.iterdir())) == 1
    w.append(b"after")
    w.close()
    assert read_frames(only(tmp_path)).payloads == [b"before", b"after"]


def test_only_a_dead_gateways_segment_is_sealed_by_others(tmp_path: Path) -> None:
    mine = writer(tmp_path)
    assert Segments(tmp_path).seal_dead() == []
    python(tmp_path, "w = SegmentWriter(folder, 'dead', low_at=7); w.append(b'x'); os._exit(1)")
    (name,) = Segments(tmp_path).seal_dead()
    assert name.startswith("dead-")
    assert sorted((s.name.split("-")[0], s.sealed) for s in Segments(tmp_path).present()) == [
        ("dead", True),
        ("gw", False),
    ]
    mine.close()


def test_a_file_that_a_gateway_was_making_when_it_died_is_removed(tmp_path: Path) -> None:
    (tmp_path / "gw-1.new").write_bytes(b"")
    Segments(tmp_path).seal_dead()
    assert list(tmp_path.iterdir()) == []


def test_a_gateway_whose_new_file_was_taken_for_a_leftover_makes_another(tmp_path: Path) -> None:
    taken = []
    real = os.open

    def swept(path: Path, flags: int, mode: int = 0o777) -> int:
        fd = real(path, flags, mode)
        if str(path).endswith(".new") and len(taken) < 3:
            taken.append(path)
            Path(path).unlink()
        return fd

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", swept)
        w = writer(tmp_path)
    assert len(taken) == 3
    w.append(b"x")
    w.close()
    assert read_frames(only(tmp_path)).payloads == [b"x"]


def test_a_listing_never_misses_a_segment_that_is_sealed_meanwhile(tmp_path: Path) -> None:
    """A reader that missed one would believe that the log is complete when it is not."""
    for number in range(1500):  # a folder that the system cannot list in one piece
        (tmp_path / f"{number:04d}-{'x' * 60}.other").touch()
    w, folder = writer(tmp_path, low_at=0), Segments(tmp_path)
    stop, sealed = threading.Event(), []

    def seal() -> None:
        while not stop.is_set():
            w.append(b"x")
            sealed.append(w._name)
            w.rotate(0)

    gateway = threading.Thread(target=seal)
    gateway.start()
    missed = []
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        before = sealed[-5:]
        names = {s.name for s in folder.present()}
        missed += [name for name in before if name not in names]
        folder.remove(sealed[:-50][-200:])
    stop.set()
    gateway.join()
    w.close()
    assert len(sealed) > 50
    assert missed == []


def test_two_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    a, b = writer(tmp_path), writer(tmp_path)
    a.append(b"a")
    b.append(b"b")
    a.close()
    b.close()
    assert sorted(read_frames(p).payloads[0] for p in tmp_path.iterdir()) == [b"a", b"b"]


def test_removed_segments_are_gone_and_removing_again_is_free(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.append(b"x")
    w.close()
    folder = Segments(tmp_path)
    for names in ([only(tmp_path).stem], ["missing"], []):
        folder.remove(names)
    assert folder.present() == []


def test_a_folder_that_is_not_there_has_no_segments(tmp_path: Path) -> None:
    assert Segments(tmp_path / "nowhere").present() == []


@pytest.mark.parametrize("gateway", ["", "a/b", "a b", "x" * 101])
def test_a_gateway_name_must_do_as_a_file_name(tmp_path: Path, gateway: str) -> None:
    with pytest.raises(ProjectError):
        SegmentWriter(tmp_path, gateway, low_at=0)
    with pytest.raises(ProjectError):
        SegmentWriter(tmp_path, "gw", low_at=0, durability="maybe")  # type: ignore[arg-type]


def test_a_gateway_loads_no_frame_library(tmp_path: Path) -> None:
    heavy = "{'polars', 'pyarrow', 'duckdb', 'sqlalchemy', 'numpy'}"
    done = python(tmp_path, f"print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.strip() == "[]"
