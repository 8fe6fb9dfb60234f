"""Gateways and compactors that are killed again and again, and a count of what they acknowledged against the log.

A gateway here is its recorder, and a caller beside it that notes an id once the recorder has said that it is written.
An injected kill ends a process at one of its operations on the disk or the database, chosen by chance, half way through
a write where it is one; a real kill is SIGKILL from outside. Each dead process has a successor at once.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from log_rows import prediction
from sqlalchemy import event

from tidemill.clock import SystemClock, micros
from tidemill.errors import Fenced
from tidemill.serving.metrics import Metrics
from tidemill.serving.recorder import Recorder
from tidemill.stores import compactor as compaction
from tidemill.stores import recycled, segments
from tidemill.stores.blocks import go_through_cache
from tidemill.stores.compactor import Compactor
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal, Lease
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.segments import Batch, Segments, SegmentWriter

CLOCK = SystemClock()
TTL = timedelta(milliseconds=500)
_KILLED = 9
_PROCESS = multiprocessing.get_context("forkserver")

Words = dict[str, Any]


class Fate:
    """Ends this process at one of its operations; a negative number means never."""

    def __init__(self, at: int) -> None:
        self.left = at

    def comes(self) -> bool:
        self.left -= 1
        return self.left == 0

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """Return `act`, with the end perhaps just before it, perhaps just after."""

        def doing(*given: Any, **named: Any) -> Any:
            ends = self.comes()
            if ends and random.random() < 0.5:
                os._exit(_KILLED)
            try:
                return act(*given, **named)
            finally:
                if ends:
                    os._exit(_KILLED)

        return doing

    def around_write(self, write: Callable[..., int]) -> Callable[..., int]:
        """Return a write that the end cuts short at any byte."""

        def writing(fd: int, data: Any, at: int, *flags: int) -> int:
            if not self.comes():
                return write(fd, data, at, *flags)
            whole = data if isinstance(data, bytes | memoryview) else b"".join(data)
            go_through_cache(fd)  # past the page cache whole blocks are written
            os.pwrite(fd, whole[: random.randint(0, len(whole))], at)
            os._exit(_KILLED)

        return writing


def run_gateway(folder: str, acknowledged: str, rate: int, durability: str, fate: int) -> None:
    """Log predictions at a rate until killed, noting the ids that were acknowledged."""
    end, real = Fate(fate), os.pwrite
    Path.rename, os.ftruncate = end.around(Path.rename), end.around(os.ftruncate)  # type: ignore[method-assign]
    os.posix_fallocate, os.link = end.around(os.posix_fallocate), end.around(os.link)
    os.pwrite, os.pwritev = end.around_write(real), end.around_write(os.pwritev)
    segments._MUCH, recycled.is_on_disk = 1 << 12, lambda _: True  # so that these, too, are killed
    asyncio.run(_log(Path(folder), acknowledged, rate, durability))


async def _log(folder: Path, acknowledged: str, rate: int, durability: str) -> None:
    notes = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    me, number, begun = os.urandom(6).hex(), 0, time.monotonic()

    def now() -> int:
        return micros(CLOCK.now())

    def open_writer(low_at: int) -> SegmentWriter:
        return SegmentWriter(folder, f"gw-{me}", low_at=low_at, durability=durability, max_bytes=1 << 18)  # type: ignore[arg-type]

    quick = 0.001 if durability == "power" else float("inf")
    recorder = Recorder(open_writer, Metrics(), now=now, wait_below_s=quick, max_age_s=0.2)
    under_way: dict[int, int] = {}
    while True:
        at, ids = now(), [f"{me}-{number + i:09d}" for i in range(10)]
        rows = [prediction(0, at, request_id=id_, inputs={"text": id_ * 20}) for id_ in ids]
        under_way[number] = at

        def release(problem: str | None, ids: list[str] = ids, number: int = number) -> None:
            if problem is None:
                os.write(notes, "".join(f"{id_}\n" for id_ in ids).encode())
            del under_way[number]

        recorder.add(Batch(project="p", predictions=rows), release)
        number += len(ids)
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        recorder.tick(min([now(), *under_way.values()]))


def run_compactor(home: str, fate: int) -> None:
    """Compact whenever the lease can be had, until killed."""
    end = Fate(fate)
    with Database.open(f"sqlite:///{home}/tidemill.db") as db:
        for name in ("commit", "begin"):
            event.listen(db._writer, name, end.around(lambda *_: None))
        for name in ("replace", "unlink", "open"):
            setattr(Path, name, end.around(getattr(Path, name)))
        os.fsync, os.pwrite = end.around(os.fsync), end.around_write(os.pwrite)  # the latter wipes
        compaction._FAN_IN = 4  # so that merges, too, are killed
        journal = Journal(db)
        made = Compactor(db, journal, Segments(Path(home) / "segments"), Path(home) / "log")
        lease: Lease | None = None
        while True:
            try:
                lease = _held(journal, lease)
                if lease is not None:
                    made.compact(lease, now=CLOCK.now())
                    made.merge_small(lease, now=CLOCK.now())
            except Fenced:
                lease = None
            time.sleep(0.05)


def _held(journal: Journal, lease: Lease | None) -> Lease | None:
    now = CLOCK.now()
    if lease is None:
        return journal.acquire("compactor", f"compactor-{os.getpid()}", now=now, ttl=TTL)
    return journal.renew(lease, now=now, ttl=TTL) if lease.expires_at - now < TTL * 2 / 3 else lease


@dataclass
class Tally:
    """What came of it."""

    injected: int
    real: int
    acknowledged: int
    rows: int
    missing: int
    doubled: int
    extra: int  # written, but the kill came before the caller heard
    torn: int  # bytes
    seconds: float
    takeovers_s: list[float]


@dataclass
class Killing:
    """A home with two gateways and two compactors, of which one works and the other waits to take over."""

    home: Path
    rate: int = 2_000
    durability: str = "process"
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        for name in ("segments", "log", "acknowledged"):
            (self.home / name).mkdir()
        Database.open(self._url).close()
        self._num = 0

    @property
    def _url(self) -> str:
        return f"sqlite:///{self.home}/tidemill.db"

    def run(self, *, injected: int, real: int, limit_s: float) -> Tally:
        """Let them work until so many kills have happened; then compact what is left, and count."""
        begun, killed, killed_real, takeovers = time.monotonic(), 0, 0, _Takeovers(self._url)
        running = {
            place: self._start(place, injected > 0)
            for place in ("gateway 1", "gateway 2", "compactor 1", "compactor 2")
        }
        next_real = begun + 0.5
        try:
            while killed < injected or killed_real < real:
                assert time.monotonic() - begun < limit_s, f"only {killed} and {killed_real} kills in {limit_s} s"
                time.sleep(0.01)
                takeovers.look()
                for place, process in running.items():
                    if process.exitcode is not None:
                        assert process.exitcode == _KILLED, f"{place} ended by itself: {process.exitcode}"
                        killed += 1
                        running[place] = self._start(place, killed < injected)
                if killed_real < real and time.monotonic() > next_real:
                    place = self.rng.choice(sorted(running))
                    self._kill(running[place])
                    running[place] = self._start(place, killed < injected)
                    killed_real += 1
                    next_real = time.monotonic() + self.rng.uniform(0.2, 0.6)
        finally:
            for process in running.values():
                self._kill(process)
            takeovers.close()
        return self._count(killed, killed_real, time.monotonic() - begun, takeovers.seconds)

    def _start(self, place: str, doomed: bool) -> BaseProcess:
        self._num += 1
        kind = place.partition(" ")[0]
        if kind == "gateway":
            fate = self.rng.randint(1, 300) if doomed else -1
            notes = self.home / "acknowledged" / f"{self._num:05d}"
            arguments = (str(self.home / "segments"), str(notes), self.rate // 2, self.durability, fate)
            process = _PROCESS.Process(target=run_gateway, args=arguments)
        else:
            fate = self.rng.randint(1, 80) if doomed else -1
            process = _PROCESS.Process(target=run_compactor, args=(str(self.home), fate))
        process.start()
        return process

    def _kill(self, process: BaseProcess) -> None:
        if process.pid is not None and process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()

    def _count(self, injected: int, real: int, seconds: float, takeovers: list[float]) -> Tally:
        with Database.open(self._url) as db:
            journal = Journal(db)
            made = Compactor(db, journal, Segments(self.home / "segments"), self.home / "log")
            while (lease := journal.acquire("compactor", "last", now=CLOCK.now(), ttl=timedelta(days=1))) is None:
                time.sleep(0.05)
            moved = made.compact(lease, now=CLOCK.now())
            folder, files = self.home / "log", LogFiles(db, self.home / "log").find(kind="predictions")
            left = {str(path.relative_to(folder)) for path in folder.rglob("*.parquet*")} - {f.path for f in files}
        assert not left, f"files that nobody names: {left}"
        assert not list((self.home / "segments").iterdir())
        logged = Counter[str]()
        for file in files:
            logged.update(pq.read_table(folder / file.path, columns=["request_id"])["request_id"].to_pylist())
        heard = [id_ for path in (self.home / "acknowledged").iterdir() for id_ in path.read_text().split()]
        return Tally(
            injected=injected, real=real, acknowledged=len(heard), rows=logged.total(),
            missing=sum(id_ not in logged for id_ in heard), doubled=sum(n > 1 for n in logged.values()),
            extra=len(logged) - len(heard), torn=moved.num_torn, seconds=seconds, takeovers_s=takeovers,
        )  # fmt: skip


class _Takeovers:
    """Watches how long the lease lies with a compactor that is dead until another one has it."""

    def __init__(self, url: str) -> None:
        self._db = Database.open(url)
        self._journal = Journal(self._db)
        self._lease: Lease | None = None
        self._died: float | None = None
        self.seconds: list[float] = []

    def look(self) -> None:
        lease = self._journal.lease("compactor")
        if (
            self._lease is not None
            and lease is not None
            and lease.token != self._lease.token
            and self._died is not None
        ):
            self.seconds.append(time.monotonic() - self._died)
            self._died = None
        self._lease = lease
        if lease is not None and self._died is None and not _lives(int(lease.holder.rpartition("-")[2])):
            self._died = time.monotonic()

    def close(self) -> None:
        self._db.close()


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
