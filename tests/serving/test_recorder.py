"""What the recorder promises about any disk, however long it takes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from tidemill.clock import SystemClock
from tidemill.records import Feedback
from tidemill.serving.gateway import Gateway
from tidemill.serving.metrics import Metrics
from tidemill.serving.recorder import Recorder
from tidemill.stores.frames import read_frames
from tidemill.stores.segments import Batch, Segments, SegmentWriter, decode


class Gate:
    """A real writer whose writes wait until the gate is open: a disk that hangs, without needing root."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.settings = folder, settings
        self.open = threading.Event()
        self.open.set()
        self.writes = 0

    def __call__(self, low_at: int) -> SegmentWriter:
        writer = SegmentWriter(self.folder, "gw", low_at=low_at, **self.settings)  # type: ignore[arg-type]
        append = writer.append

        def slow(frames: list[bytes]) -> None:
            assert self.open.wait(20)
            self.writes += 1
            append(frames)

        writer.append = slow  # type: ignore[method-assign,assignment]
        return writer


def feedback(number: int, at: int) -> Batch:
    row = Feedback(request_id=f"r{number}", received_at=at, kind="label", value="ok", source="http", trust="crowd")
    return Batch(project="p", feedback=[row])


def written(folder: Path) -> list[str]:
    found = []
    for segment in Segments(folder).present():
        for payload in read_frames(segment.path).payloads:
            batch = decode(payload, name=segment.name)
            assert all(row.received_at >= segment.low_at for row in batch.feedback)
            found += [row.request_id for row in batch.feedback]
    return found


def recorder(gate: Gate, **settings: object) -> tuple[Recorder, Metrics]:
    metrics = Metrics()
    return Recorder(gate, metrics, now=lambda: 0, **settings), metrics  # type: ignore[arg-type]


async def settle(condition: object, seconds: float = 5.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends
        await asyncio.sleep(0.005)


def test_what_comes_in_while_a_thread_writes_goes_into_the_next_write_together(tmp_path: Path) -> None:
    async def act() -> None:
        gate = Gate(tmp_path)
        made, _ = recorder(gate, wait_below_s=0.0)
        told: list[str | None] = []
        gate.open.clear()
        for number in range(10):
            made.add(feedback(number, number), told.append)
            await asyncio.sleep(0.002)
        assert told == [], "nobody is told before it is written"
        gate.open.set()
        await settle(lambda: len(told) == 10)
        assert (told, gate.writes) == ([None] * 10, 2)
        await made.close()

    asyncio.run(act())
    assert written(tmp_path) == [f"r{number}" for number in range(10)]


def test_a_segment_is_sealed_while_a_thread_writes_and_holds_no_row_older_than_it_says(tmp_path: Path) -> None:
    async def act() -> None:
        made, _ = recorder(Gate(tmp_path), wait_below_s=0.0, max_age_s=0.0)
        told: list[str | None] = []
        for number in range(200):
            made.add(feedback(number, number), told.append)
            made.tick(number)  # as when no prediction is under way
            if number % 5 == 0:
                await asyncio.sleep(0.002)
        await settle(lambda: len(told) == 200)
        await made.close()
        assert told == [None] * 200

    asyncio.run(act())
    assert len(Segments(tmp_path).present()) > 3
    assert sorted(written(tmp_path), key=lambda id_: int(id_[1:])) == [f"r{number}" for number in range(200)]


def test_who_waited_too_long_is_told_and_nobody_waits_again_until_that_write_returns(tmp_path: Path) -> None:
    async def act() -> None:
        gate = Gate(tmp_path)
        made, metrics = recorder(gate, wait_below_s=0.0, patience_s=0.1)
        told: list[str | None] = []
        gate.open.clear()
        made.add(feedback(1, 1), told.append)
        await asyncio.sleep(0.15)
        made.add(feedback(2, 2), told.append)
        made.tick(1)
        assert len(told) == 2
        made.add(feedback(3, 3), told.append)
        assert len(told) == 3, "at once"
        assert all(problem is not None and "at one write for 0." in problem for problem in told)
        assert (made.failure, metrics.log_failures[()]) == (told[0], 1)
        gate.open.set()
        await settle(lambda: made.failure is None)
        made.add(feedback(4, 4), told.append)
        await settle(lambda: len(told) == 4)
        assert told[3] is None
        await made.close()

    asyncio.run(act())
    assert written(tmp_path) == ["r1", "r4"], "the write that was slow is made in the end, and once"


def test_after_a_slow_write_a_thread_writes_until_the_disk_is_quick_again(tmp_path: Path) -> None:
    async def act() -> None:
        gate = Gate(tmp_path)
        made, _ = recorder(gate)
        names: list[str] = []
        told: list[str | None] = []
        real = os.pwrite

        def slow(fd: int, data: bytes, at: int) -> int:
            names.append(threading.current_thread().name.partition("_")[0])
            if len(names) < 3:
                time.sleep(0.05)
            return real(fd, data, at)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", slow)
            for number in range(5):
                made.add(feedback(number, number), told.append)
                await settle(lambda number=number: len(told) == number + 1)
        assert names == ["MainThread", "log-writer", "log-writer", "MainThread", "MainThread"]
        await made.close()

    asyncio.run(act())


def test_a_quick_disk_is_waited_for_and_one_that_hangs_does_not_stop_the_loop(tmp_path: Path) -> None:
    async def act() -> None:
        gate = Gate(tmp_path)
        made, _ = recorder(gate, wait_below_s=10.0)
        told: list[str | None] = []
        at_once = 0
        for number in range(100):
            made.add(feedback(number, number), told.append)
            await asyncio.sleep(0)
            at_once += len(told) == number + 1
            await settle(lambda number=number: len(told) == number + 1)
        assert at_once > 0, "in the same turn, though a thread writes"
        gate.open.clear()
        made.add(feedback(100, 100), told.append)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert len(told) == 100, "nobody is told before it is written, but the loop goes on"
        gate.open.set()
        await settle(lambda: len(told) == 101)
        await made.close()

    asyncio.run(act())
    assert written(tmp_path) == [f"r{number}" for number in range(101)]


def test_no_write_is_waited_for_while_the_loop_has_more_to_do(tmp_path: Path) -> None:
    async def act() -> None:
        made, _ = recorder(Gate(tmp_path), wait_below_s=10.0)
        told: list[str | None] = []
        more: list[int] = []
        for number in range(50):
            made.add(feedback(number, number), told.append)
            made.turn.later(lambda number=number: more.append(len(told) - number))  # the next batch
            await asyncio.sleep(0)
            await settle(lambda number=number: len(told) == number + 1)
        assert more == [0] * 50, "what is next is begun before the write is over"
        await made.close()

    asyncio.run(act())
    assert written(tmp_path) == [f"r{number}" for number in range(50)]


def test_what_is_told_is_made_while_a_thread_writes_and_told_once_it_is_written(tmp_path: Path) -> None:
    async def act() -> None:
        gate = Gate(tmp_path)
        made, _ = recorder(gate, wait_below_s=10.0)
        seen: list[str] = []

        def prepare() -> None:
            seen.append("made")
            gate.open.set()  # the thread waits for it: both are at work at once

        for number in range(20):
            gate.open.clear()
            made.add(feedback(2 * number, number), lambda _: seen.append("told"), prepare)
            made.add(feedback(2 * number + 1, number), lambda _: seen.append("told"), lambda: 1 // 0)
            if number == 0:
                gate.open.set()  # the first write is not waited for
            await settle(lambda number=number: seen.count("told") == 2 * number + 2)
        assert seen[:2] == ["told", "told"]
        assert seen[2:] == ["made", "told", "told"] * 19
        await made.close()

    asyncio.run(act())
    assert written(tmp_path) == [f"r{number}" for number in range(40)]


def test_a_log_that_could_not_be_opened_is_opened_later_and_refuses_what_came_before(tmp_path: Path) -> None:
    folder = tmp_path / "not yet"

    async def act() -> None:
        now = [100]
        metrics = Metrics()
        made = Recorder(Gate(folder), metrics, now=lambda: now[0])
        told: list[str | None] = []
        made.add(feedback(1, 100), told.append)
        assert told[0] is not None and "No such file" in told[0]
        folder.mkdir()
        now[0] = 300
        made._probed = 0.0  # a second later
        made.tick(200)
        assert made.failure is None
        assert Segments(folder).present()[0].low_at == 300
        made.add(feedback(2, 300), told.append)
        await settle(lambda: len(told) == 2)
        assert told[1] is None
        await made.close()

    asyncio.run(act())
    assert written(folder) == ["r2"]


def test_a_batch_that_no_log_could_hold_is_refused_and_the_next_one_is_written(tmp_path: Path) -> None:
    async def act() -> None:
        made, _ = recorder(Gate(tmp_path))
        told: list[str | None] = []
        made.add(Batch(project="p", feedback=[object()]), told.append)  # type: ignore[list-item]
        await settle(lambda: len(told) == 1)
        made.add(feedback(1, 1), told.append)
        await settle(lambda: len(told) == 2)
        assert (told[0] is not None, told[1]) == (True, None)
        await made.close()
        made.add(feedback(2, 2), told.append)
        assert told[2] == "the log is closed"

    asyncio.run(act())
    assert written(tmp_path) == ["r1"]


def test_one_who_cannot_be_told_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    async def run() -> None:
        made, _ = recorder(Gate(tmp_path))
        told: list[str | None] = []

        def fails(problem: str | None) -> None:
            raise RuntimeError("gone")

        made.add(feedback(1, 10), fails)
        made.add(feedback(2, 10), told.append)
        await asyncio.sleep(0.01)
        assert told == [None]
        await made.close()

    asyncio.run(run())
    assert written(tmp_path) == ["r1", "r2"]


def test_a_process_that_stood_still_takes_its_own_delay_for_no_slow_disk(tmp_path: Path) -> None:
    async def act() -> None:
        gate = Gate(tmp_path)
        made, metrics = recorder(gate, wait_below_s=0.0, patience_s=0.5)
        time_kept = asyncio.create_task(Gateway(made, metrics, SystemClock()).keep_time())
        told: list[str | None] = []
        gate.open.clear()
        made.add(feedback(1, 10), told.append)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(time.sleep, 0.8)  # as when the machine runs something else
        asyncio.get_running_loop().call_later(0.5, gate.open.set)  # the disk goes on when the process does
        while not told:
            await asyncio.sleep(0.01)
        assert told == [None]
        time_kept.cancel()
        await made.close()

    asyncio.run(act())
