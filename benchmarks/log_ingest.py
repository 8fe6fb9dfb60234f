"""The way into the log: two gateways' recorders at 10,000 predictions/s of 5 kB, and the compactor behind them."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np

from tidemill.clock import SystemClock, micros
from tidemill.records import Prediction
from tidemill.serving.metrics import Metrics
from tidemill.serving.recorder import Recorder
from tidemill.stores.compactor import Compacted, Compactor
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.segments import Batch, Segments, SegmentWriter

PROCESS = multiprocessing.get_context("forkserver")
ROWS_A_BATCH = 10
_CLOCK = SystemClock()


def row(number: int, gateway: int, received_at: int, text: str, image: bytes) -> Prediction:
    return Prediction(
        request_id=f"{received_at // 1000:012x}-7{gateway:03x}-8000-{number:012x}", received_at=received_at,
        role="answer", unit=f"user-{number % 9973}", subject=None, rollout=None, share=0.0, salt="", route_revision=1,
        assigned_version=1, answered_version=1, fallback_reason=None, error=None, policy_version=1,
        tags={"country": "NL", "app": "v1"}, inputs={"text": text, "image": image}, scores=[0.25, 0.75],
        decision="ok", abstained=False, cached=False, latency_ms=1.5, keep_probability=1.0,
    )  # fmt: skip


class Inputs:
    """Texts of 800 characters and images of 4,000 bytes, of which every second bit is noise."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        words = [rng.bytes(4).hex()[: int(n)] for n in rng.integers(2, 9, 4000)]
        self._texts = [" ".join(rng.choice(words, 200))[:800] for _ in range(64)]
        self._images = [rng.integers(0, 16, 4000, dtype=np.uint8).tobytes() for _ in range(257)]

    def __call__(self, number: int) -> tuple[str, bytes]:
        return f"{number} {self._texts[number % 64]}", self._images[number % 257]


def gateway(number: int, folder: str, rate: int, seconds: float, durability: str, pipe: Connection) -> None:
    """One gateway's recorder: batches come at their times, whether the disk keeps up or not."""
    pipe.send(asyncio.run(_feed(number, Path(folder), rate, seconds, durability)))


async def _feed(number: int, folder: Path, rate: int, seconds: float, durability: str) -> dict[str, Any]:
    def now() -> int:
        return micros(_CLOCK.now())

    def open_writer(low_at: int) -> SegmentWriter:
        return SegmentWriter(folder, f"gw{number}", low_at=low_at, durability=durability, max_bytes=32 << 20)  # type: ignore[arg-type]

    wait_below_s = 0.001 if durability == "power" else float("inf")
    recorder = Recorder(open_writer, Metrics(), now=now, wait_below_s=wait_below_s)
    inputs, latencies, failed = Inputs(number), [], [0]
    gc.collect()
    gc.freeze()
    made = ticked = 0
    begun, cpu = time.perf_counter(), time.process_time()

    def release_of(due: float, num: int) -> Callable[[str | None], None]:
        def release(problem: str | None) -> None:
            latencies.append(time.perf_counter() - due)
            failed[0] += num if problem else 0

        return release

    while made < rate * seconds:
        due = begun + made / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        at = now()
        batch = [row(made + i, number, at, *inputs(made + i)) for i in range(ROWS_A_BATCH)]
        recorder.add(Batch(project="p", predictions=batch), release_of(time.perf_counter(), ROWS_A_BATCH))
        made += ROWS_A_BATCH
        if time.perf_counter() - begun > ticked * 0.125:
            ticked += 1
            recorder.tick(now() - 1_000_000)
        if wait <= 0:
            await asyncio.sleep(0)  # behind: let the loop write
    took, used = time.perf_counter() - begun, time.process_time() - cpu
    await recorder.close()
    return {"made": made, "failed": failed[0], "ms": [1e3 * s for s in latencies], "took": took, "cpu": used}


def compactor(home: str, stop: Any, pipe: Connection) -> None:
    """Compact until told to stop, then until nothing is left."""
    with Database.open(f"sqlite:///{home}/tidemill.db") as db:
        journal = Journal(db)
        made = Compactor(db, journal, Segments(Path(home) / "segments"), Path(home) / "log")
        lease = journal.acquire("compactor", "bench", now=_CLOCK.now(), ttl=timedelta(days=1))
        assert lease is not None
        moved, merged_at, cpu, last = Compacted(), time.monotonic(), time.process_time(), False
        while True:
            done = made.compact(lease, now=_CLOCK.now())
            moved += done
            if time.monotonic() - merged_at > 30:
                made.merge_small(lease, now=_CLOCK.now())
                merged_at = time.monotonic()
            if last and not done.segments:
                break
            last = stop.is_set()
            if not last:
                time.sleep(0.3)
        pipe.send({"rows": moved.rows, "cpu": time.process_time() - cpu, "torn": moved.num_torn})


def ingest(*, rate: int = 10_000, seconds: float = 60.0, durability: str = "process", base: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir=base) as home:
        for name in ("segments", "log"):
            (Path(home) / name).mkdir()
        sync = fdatasync_ms(Path(home))
        Database.open(f"sqlite:///{home}/tidemill.db").close()
        stop, pipes, started = PROCESS.Event(), [], []
        for target, *arguments in [
            (compactor, home, stop),
            *((gateway, i, f"{home}/segments", rate // 2, seconds, durability) for i in range(2)),
        ]:
            mine, theirs = PROCESS.Pipe()
            process = PROCESS.Process(target=target, args=(*arguments, theirs))
            process.start()
            pipes.append(mine)
            started.append(process)
        fed = [pipe.recv() for pipe in pipes[1:]]
        stop.set()
        moved = pipes[0].recv()
        for process in started:
            process.join()
        _report_ingest(home, fed, moved, sync, rate, durability)


def _report_ingest(home: str, fed: list[dict[str, Any]], moved: dict[str, Any], sync: tuple[float, float], rate: int,
                   durability: str) -> None:  # fmt: skip
    made, failed = sum(f["made"] for f in fed), sum(f["failed"] for f in fed)
    rows, ids = rows_and_ids(Path(home))
    took, latencies = max(f["took"] for f in fed), np.concatenate([f["ms"] for f in fed])
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
    wanted = 5.0 if durability == "process" else 15.0 + 2 * sync[0]
    print(f"ingest, durability {durability}: {made:,} predictions of 5 kB at {rate:,}/s by 2 processes, {took:.1f} s")
    print(f"  disk                fdatasync of 50 kB p50 {sync[0]:.2f}, p99 {sync[1]:.2f} ms")
    print(f"  acknowledged        {made - failed:,}, in the log {rows:,} rows of {ids:,} ids "
          f"({'each once' if rows == ids == made - failed else 'NOT each once'})")  # fmt: skip
    print(f"  acknowledgement     p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f} ms (wanted: p99 at most {wanted:.1f})")
    print(f"  CPU us a row        {1e6 * sum(f['cpu'] for f in fed) / made:.1f} gateways (most of it to make rows),"
          f" compactor {1e6 * moved['cpu'] / made:.1f}")  # fmt: skip


def compact_alone(*, num: int = 150_000, base: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir=base) as home:
        for name in ("segments", "log"):
            (Path(home) / name).mkdir()
        inputs, encode = Inputs(1), msgspec.msgpack.Encoder().encode
        writer = SegmentWriter(Path(home) / "segments", "gw", low_at=0, max_bytes=32 << 20)
        start = micros(datetime(2026, 3, 1, tzinfo=UTC))
        for first in range(0, num, 50):
            rows = [row(i, 0, start + 100 * i, *inputs(i)) for i in range(first, first + 50)]
            writer.append(encode(Batch(project="p", predictions=rows)))
            if writer.is_full:
                writer.rotate(0)
        writer.close()
        with Database.open(f"sqlite:///{home}/tidemill.db") as db:
            journal, now = Journal(db), _CLOCK.now()
            made = Compactor(db, journal, Segments(Path(home) / "segments"), Path(home) / "log")
            lease = journal.acquire("compactor", "bench", now=now, ttl=timedelta(days=1))
            assert lease is not None
            wall, cpu = time.perf_counter(), time.process_time()
            moved = made.compact(lease, now=now)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"compactor alone, {moved.rows:,} rows of 5 kB in {moved.segments} segments, one process")
        print(f"  {moved.rows / wall:,.0f} rows/s wall, {moved.rows / cpu:,.0f} rows a CPU s (wanted: 20,000); "
              f"peak memory {peak} MB")  # fmt: skip


def rows_and_ids(home: Path) -> tuple[int, int]:
    """Count the rows of the log's files as they are, and their distinct ids."""
    with Database.open(f"sqlite:///{home}/tidemill.db") as db:
        paths = [str(home / "log" / f.path) for f in LogFiles(db, home / "log").find(kind="predictions")]
    if not paths:
        return 0, 0
    found = duckdb.sql(f"SELECT count(*), count(DISTINCT request_id) FROM read_parquet({paths}, union_by_name = true)")
    rows, ids = found.fetchall()[0]
    return rows, ids


def fdatasync_ms(folder: Path, num: int = 200) -> tuple[float, float]:
    """Return p50 and p99 of a synced append of 50 kB, in ms."""
    times, data = [], os.urandom(50_000)
    fd = os.open(folder / "synced", os.O_RDWR | os.O_CREAT)
    for _ in range(num):
        start = time.perf_counter()
        os.write(fd, data)
        os.fdatasync(fd)
        times.append(1e3 * (time.perf_counter() - start))
    os.close(fd)
    (folder / "synced").unlink()
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


if __name__ == "__main__":
    print("load average", os.getloadavg())
    if sys.argv[1] == "compact":
        compact_alone()
    else:
        ingest(durability=sys.argv[1], seconds=float(sys.argv[2]))
    print("load average", os.getloadavg())
