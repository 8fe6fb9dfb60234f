"""Rows reach the log exactly once, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_rows import LEASE, Mill, feedback, keys, payload, prediction
from sqlalchemy import select

from tidemill.clock import SystemClock
from tidemill.errors import Corrupt, Fenced
from tidemill.stores.compactor import Compacted
from tidemill.stores.database import Database
from tidemill.stores.tables import consumed, log_files

HOUR = timedelta(hours=1)
NUMBERS = count()  # for projects of their own: one log serves all examples of a property


@pytest.fixture
def mill(tmp_path: Path, database: Database, noon: datetime) -> Mill:
    return Mill(tmp_path, database, noon)


def consumed_names(mill: Mill) -> set[str]:
    with mill.db.read() as conn:
        return set(conn.execute(select(consumed.c.segment)).scalars())


def named(mill: Mill) -> list[Path]:
    with mill.db.read() as conn:
        return sorted(mill.folder / "log" / path for path in conn.execute(select(log_files.c.path)).scalars())


def assert_tidy(mill: Mill) -> None:
    """Every file is named, every named file is there, and no sealed segment is left."""
    assert mill.files() == named(mill)
    assert [s for s in mill.segments.present() if s.sealed] == []


def test_sealed_rows_are_in_the_log_after_a_compaction_and_open_ones_are_not(mill: Mill) -> None:
    rows = [prediction(i, mill.at(i)) for i in range(6)]
    mill.seal(*rows[:3], feedback(0, mill.at(9), "toxic"))
    open_one = mill.writer()
    open_one.append(payload(*rows[3:]))
    assert mill.compact() == Compacted(rows=3, feedback=1, segments=1)
    assert mill.ids() == keys(rows[:3])
    open_one.close()
    assert mill.compact() == Compacted(rows=3, segments=1)
    assert mill.ids() == keys(rows)
    assert mill.compact() == Compacted()
    assert_tidy(mill)


def test_what_a_killed_gateway_left_open_is_taken_too_up_to_its_last_whole_write(mill: Mill) -> None:
    frame = payload(prediction(1, mill.at(1)))
    script = f"""
import os
from pathlib import Path
from tidemill.stores.segments import SegmentWriter
w = SegmentWriter(Path({str(mill.segments.folder)!r}), "dead", low_at=0)
w.append({frame!r})
os.pwrite(w._fd, {frame[:50]!r}, w.num_bytes)  # the write that the kill interrupts
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert mill.compact() == Compacted(rows=1, segments=1, num_torn=50)
    assert mill.ids() == ["request-000001"]


def test_each_project_kind_and_utc_day_has_files_of_its_own(mill: Mill) -> None:
    day = 24 * 3600
    mill.seal(prediction(1, mill.at(0)), prediction(2, mill.at(day / 2 - 1e-6)), prediction(3, mill.at(day / 2)))
    mill.seal(prediction(4, mill.at(0)), feedback(4, mill.at(1), "ok"), project="other/../p.q")
    mill.compact()
    places = sorted({str(path.parent.relative_to(mill.folder / "log")) for path in mill.files()})
    assert places == [
        "other%2F%2E%2E%2Fp%2Eq/feedback/2026-03-01",
        "other%2F%2E%2E%2Fp%2Eq/predictions/2026-03-01",
        "p/predictions/2026-03-01",
        "p/predictions/2026-03-02",
    ]
    assert mill.ids() == ["request-000001", "request-000002", "request-000003"]
    assert mill.ids("other/../p.q") == ["request-000004"]


def test_columns_are_typed_by_the_values_logged(mill: Mill) -> None:
    inputs = {"text": "é", "age": 3, "image": b"\x00\xff"}
    mill.put(prediction(1, mill.at(1), inputs=inputs, tags={"country": "NL", "paid": 1.5}))
    (path,) = mill.files()
    schema = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert {"text": "string", "country": "string", "age": "double", "paid": "double"}.items() <= schema.items()
    assert schema["image"] == "binary"
    assert schema["scores"] == "list<element: float>"
    assert schema["received_at"] == "int64"


def test_a_retyped_input_goes_into_a_file_of_its_own(mill: Mill) -> None:
    mill.put(
        prediction(1, mill.at(1), inputs={"age": "old"}), prediction(2, mill.at(2), inputs={"age": 7.0}, decision=1.5)
    )
    types = {str(pq.read_schema(path).field("age").type) for path in mill.files()}
    assert types == {"string", "double"}


KILL_POINTS = [
    "first file written", "before commit", "inside commit", "after commit", "first segment gone", "all segments gone"
]  # fmt: skip
KILLED = """
import os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
sys.path.insert(0, {tests!r})
from log_rows import Mill
from tidemill.stores.database import Database
from contextlib import contextmanager

point, counts = {point!r}, dict(file=0, segment=0)
mill = Mill(Path({folder!r}), Database.open({url!r}), datetime(2026, 3, 1, 12, tzinfo=UTC))
lease = mill.lease()

replace, unlink, write = Path.replace, Path.unlink, mill.journal.write

def replaced(self, target):
    done = replace(self, target)
    counts["file"] += 1
    if point == "first file written":
        os._exit(9)
    return done

def unlinked(self, missing_ok=False):
    done = unlink(self, missing_ok=missing_ok)
    counts["segment"] += self.suffix == ".seg"
    if point == "first segment gone" and counts["segment"]:
        os._exit(9)
    return done

@contextmanager
def written(lease, *, now):
    if point == "before commit":
        os._exit(9)
    with write(lease, now=now) as conn:
        yield conn
        if point == "inside commit":
            os._exit(9)
    if point == "after commit":
        os._exit(9)

Path.replace, Path.unlink, mill.journal.write = replaced, unlinked, written
getattr(mill.compactor, {work!r})(lease, now=mill.now + timedelta(days=2 * ({work!r} == "merge_small")))
os._exit(9 if point == "all segments gone" and counts == dict(file=3, segment=3) else 1)
"""


def killed(mill: Mill, database_url: str, work: str, point: str) -> None:
    """Run `work` in another process that ends itself at `point`."""
    names = {"tests": str(Path(__file__).parent), "folder": str(mill.folder), "url": database_url}
    script = KILLED.format(**names, point=point, work=work)
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 9, done.stderr
    mill.heir()


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_compactor_killed_anywhere_loses_nothing_and_doubles_nothing(
    mill: Mill, database_url: str, point: str
) -> None:
    rows = [prediction(i, mill.at(i * 4 * 3600)) for i in range(6)]  # of two days
    for some in (rows[:2], rows[2:4], rows[4:]):
        mill.seal(*some, feedback(1, mill.at(1), "ok", source=some[0].request_id))
    killed(mill, database_url, "compact", point)
    committed = point in ("after commit", "first segment gone", "all segments gone")
    assert (mill.files() != named(mill)) == (not committed), "else the kill came too early to test anything"
    assert len(consumed_names(mill)) == (3 if committed else 0)
    mill.compact()
    assert mill.ids() == keys(rows)
    assert len(mill.log.feedback("p", after=None, until=mill.now + HOUR)) == 3
    assert_tidy(mill)
    assert mill.log.complete_until(mill.now) == mill.now


@pytest.mark.parametrize("point", ["first file written", "before commit", "inside commit", "after commit"])
def test_a_merge_killed_anywhere_loses_nothing_and_doubles_nothing(mill: Mill, database_url: str, point: str) -> None:
    rows = [prediction(i, mill.at(i)) for i in range(3)]
    for row in rows:
        mill.put(row)
    mill.journal.release(mill.lease())
    killed(mill, database_url, "merge_small", point)
    assert mill.files() != named(mill), "else the kill came too early to test anything"
    mill.compact()
    assert mill.ids() == keys(rows)
    assert_tidy(mill)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_partition_into_segments_and_compactions_gives_the_same_log(mill: Mill, data: st.DataObject) -> None:
    number = next(NUMBERS)
    kinds = [{}, {"age": 1.0}, {"age": "old"}, {}, {"image": b"x"}, {"age": 2.0}]
    rows = [
        prediction(i, mill.at(data.draw(st.sampled_from([0, 1, 13])) * 3600), inputs={"text": str(i), **extra})
        for i, extra in enumerate(kinds)
    ]
    facts = [feedback(i % 3, mill.at(i * 3600), value) for i, value in enumerate(["ok", "toxic", 1.0, None])]
    mill.put(*rows, *facts, project=f"{number} at once")
    order = data.draw(st.permutations([*rows, *facts, rows[2], facts[1]]))
    while order:
        size = data.draw(st.integers(3, 9))
        mill.seal(*order[:size], project=f"{number} in parts")
        order = order[size:]
        if not order or data.draw(st.booleans()):
            mill.compact()
    if data.draw(st.booleans()):
        mill.compactor.merge_small(mill.lease(), now=mill.now + 100 * HOUR)
    for read in (mill.log.predictions, mill.log.feedback):
        asked = {"after": None, "until": mill.now + 100 * HOUR}
        one, many = read(f"{number} at once", **asked), read(f"{number} in parts", **asked)
        assert one.schema == many.schema
        assert one.equals(many, null_equal=True)


def test_a_compactor_that_lost_its_lease_while_it_wrote_changes_nothing(mill: Mill) -> None:
    mill.seal(prediction(1, mill.at(1)))
    slow = mill.another_compactor()
    lease = mill.lease()
    write = mill.journal.write

    def taken_over(*_: object, **__: object) -> object:
        mill.journal.write = write  # type: ignore[method-assign]
        assert mill.compactor.compact(mill.heir(), now=mill.now).rows == 1
        return write(lease, now=mill.now)

    mill.journal.write = taken_over  # type: ignore[method-assign,assignment]
    with pytest.raises(Fenced):
        slow.compact(lease, now=mill.now)
    assert mill.ids() == ["request-000001"]
    assert_tidy(mill)


STOPPED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from log_rows import LEASE, Mill
from tidemill.clock import SystemClock
from tidemill.errors import Fenced
from tidemill.stores.database import Database

where, now = sys.argv[4], SystemClock().now
mill = Mill(Path(sys.argv[2]), Database.open(sys.argv[3]), now())

def stopping(act, before):
    def stop(*given, **named):
        if before:
            print("stops", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        done = act(*given, **named)
        if not before:
            print("stops", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return done
    return stop

if where == "it has listed the segments":
    mill.compactor._segments.present = stopping(mill.compactor._segments.present, False)
elif where == "it has written the files":
    mill.journal.write = stopping(mill.journal.write, True)
else:
    removed = mill.compactor._segments.remove
    def remove(names):
        names = list(names)
        (stopping(removed, True) if names else removed)(names)
    mill.compactor._segments.remove = remove
lease = mill.journal.acquire(LEASE, "old", now=now(), ttl=timedelta(seconds=0.5))
try:
    print("moved", mill.compactor.compact(lease, now=now()).rows)
except Fenced:
    print("fenced")
"""


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("it has listed the segments", "fenced"),
        ("it has written the files", "fenced"),
        ("it has committed", "moved 5"),
    ],
)
def test_a_compactor_stopped_and_revived_after_its_heir_worked_changes_nothing(
    mill: Mill, database_url: str, start_child: Callable[..., Any], where: str, expected: str
) -> None:
    rows = [prediction(i, mill.at(i)) for i in range(5)]
    mill.seal(*rows, feedback(1, mill.at(9), "ok"))
    old = start_child(STOPPED, str(Path(__file__).parent), str(mill.folder), database_url, where)
    assert old.hear() == "stops"
    now = SystemClock().now
    while (lease := mill.journal.acquire(LEASE, "heir", now=now(), ttl=HOUR)) is None:
        time.sleep(0.05)
    mill.compactor.compact(lease, now=now())
    mill.seal(prediction(7, mill.at(7)))
    mill.compactor.compact(lease, now=now())
    old.signal(signal.SIGCONT)
    assert old.hear() == expected
    assert mill.ids() == keys([*rows, prediction(7, mill.at(7))])
    assert_tidy(mill)


def test_a_compactor_without_the_lease_never_deletes_what_its_heir_is_writing(mill: Mill) -> None:
    old, heir = mill.lease(), mill.heir()
    mill.seal(prediction(1, mill.at(1)))
    write, late = mill.journal.write, mill.another_compactor()

    def meanwhile(*_: object, **__: object) -> object:
        mill.journal.write = write  # type: ignore[method-assign]
        with pytest.raises(Fenced):
            late.compact(old, now=mill.now)  # it deletes leftovers before it finds that it is fenced
        return write(heir, now=mill.now)

    mill.journal.write = meanwhile  # type: ignore[method-assign,assignment]
    mill.compactor.compact(heir, now=mill.now)
    assert mill.ids() == ["request-000001"]
    assert_tidy(mill)


def test_names_of_consumed_segments_are_kept_only_until_the_next_commit(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)))
    (first,) = consumed_names(mill)
    mill.compact()
    assert consumed_names(mill) == {first}
    mill.put(prediction(2, mill.at(2)))
    assert len(consumed_names(mill)) == 1
    assert first not in consumed_names(mill)


def test_a_frame_that_is_no_batch_stops_the_compaction_and_names_the_file_to_move(mill: Mill) -> None:
    writer = mill.writer()
    writer.append(b"\x01")
    writer.close()
    mill.seal(prediction(1, mill.at(1)))
    with pytest.raises(Corrupt, match="gw-") as refusal:
        mill.compact()
    (bad,) = [s.path for s in mill.segments.present() if s.name in refusal.value.message]
    assert mill.log.complete_until(mill.now) < mill.now
    bad.rename(mill.folder / bad.name)
    assert mill.compact().rows == 1


def test_what_a_failed_compaction_wrote_is_deleted_by_the_next(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    mill.put(prediction(0, mill.at(0)))
    mill.seal(prediction(1, mill.at(1)), feedback(1, mill.at(2), "ok"))
    with monkeypatch.context() as patch:
        real, calls = os.fsync, []

        def full(fd: int) -> None:
            calls.append(fd)
            if len(calls) > 3:
                raise OSError(28, "No space left on device")
            real(fd)

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            mill.compact()
    assert mill.files() != named(mill)
    mill.compact()
    assert mill.ids() == ["request-000000", "request-000001"]
    assert_tidy(mill)


def test_many_small_files_of_today_and_all_of_a_past_day_become_one(mill: Mill) -> None:
    rows = [prediction(i, mill.at(i), inputs={"text": "x", **({"age": 1.0} if i % 2 else {})}) for i in range(20)]
    for row in rows[:16]:
        mill.put(row)
    assert mill.compactor.merge_small(mill.lease(), now=mill.now) == 0
    mill.put(rows[16])
    before = mill.log.predictions("p", after=None, until=mill.now + HOUR)
    assert mill.compactor.merge_small(mill.lease(), now=mill.now) == 17
    assert len(mill.files()) == 1
    assert mill.log.predictions("p", after=None, until=mill.now + HOUR).equals(before, null_equal=True)
    mill.put(rows[17])
    assert mill.compactor.merge_small(mill.lease(), now=mill.now) == 0
    assert mill.compactor.merge_small(mill.lease(), now=mill.now + 12 * HOUR) == 2
    assert mill.compactor.merge_small(mill.lease(), now=mill.now + 12 * HOUR) == 0
    assert mill.ids() == keys(rows[:18])
    assert_tidy(mill)


def test_files_whose_columns_have_different_types_are_merged_apart(mill: Mill) -> None:
    for i, age in enumerate(["old", 1.0, "young", 2.0, None]):
        mill.put(prediction(i, mill.at(i), inputs=None if age is None else {"age": age}))
    before = mill.log.predictions("p", after=None, until=mill.now + HOUR)
    mill.compactor.merge_small(mill.lease(), now=mill.now + 24 * HOUR)
    types = sorted(str(pq.read_schema(path).field("age").type) for path in mill.files())
    assert types == ["double", "string"]
    assert mill.log.predictions("p", after=None, until=mill.now + HOUR).equals(before, null_equal=True)


def test_a_reader_is_not_disturbed_by_a_merge(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [prediction(i, mill.at(i)) for i in range(3)]
    for row in rows:
        mill.put(row)
    find, found = mill.log._files.find, []

    def then_merged(*args: object, **asked: object) -> object:
        found.append(find(*args, **asked))  # type: ignore[arg-type]
        if len(found) == 1:
            mill.compactor.merge_small(mill.lease(), now=mill.now + 24 * HOUR)
        return found[-1]

    monkeypatch.setattr(mill.log._files, "find", then_merged)
    assert mill.ids() == keys(rows)
    assert len(found) == 2


def test_a_named_file_that_is_gone_is_said_by_name(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1)))
    mill.files()[0].unlink()
    with pytest.raises(Corrupt, match="parquet"):
        mill.ids()


def test_a_backlog_larger_than_memory_is_moved_in_parts(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.stores.compactor._GROUP_BYTES", 3000)
    rows = [prediction(i, mill.at(i), inputs={"text": "x" * 700}) for i in range(20)]
    random.Random(1).shuffle(rows)
    for row in rows:
        mill.seal(row)
    moved = mill.compact()
    assert (moved.rows, moved.segments) == (20, 20)
    assert len(mill.files()) > 4
    assert mill.ids() == keys(rows)
