"""What questions of a large log cost: a group-by, the label join, conditions, and an idle turn of the loop."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from tidemill.app import App
from tidemill.clock import ManualClock, micros
from tidemill.records import Trust
from tidemill.schema import Category, Classes, Number, Schema
from tidemill.stores.columns import FEEDBACK_FIELDS, PREDICTION_FIELDS
from tidemill.stores.database import Database
from tidemill.stores.log import Log
from tidemill.stores.logfiles import LogFile, LogFiles, add_files
from tidemill.stores.segments import Segments
from tidemill.stores.sql import Sql

START = datetime(2026, 3, 1, tzinfo=UTC)
SCHEMA = Schema({"age": Number(), "country": Category(tag=True)}, Classes(["ok", "toxic"]))
GROUP_BY = """SELECT country, count(*), avg(latency_ms), avg(age), max(received_at) FROM {}
              WHERE answered_version < 3 GROUP BY country ORDER BY country"""
_PROJECT = """
import tidemill as tm
from sklearn.linear_model import LogisticRegression

project = tm.Project(
    name="p",
    inputs={"age": tm.Number(), "country": tm.Category(tag=True)},
    output=tm.Classes(["ok", "toxic"]),
    trainer=tm.trainers.Sklearn(LogisticRegression()),
    cohorts={"young": "age < 30"},
)
"""


def predictions(first: int, num: int, rng: np.random.Generator, *, per_s: int = 10_000) -> pa.Table:
    """Narrow rows, as the compactor writes them."""
    numbers = np.arange(first, first + num)
    at = micros(START) + numbers * (1_000_000 // per_s)
    own = {
        "request_id": [f"{n:012x}-7000-8000-{n * 2654435761 % 2**48:012x}" for n in numbers.tolist()],
        "received_at": at,
        "role": ["answer"] * num,
        "unit": [f"user-{n}" for n in rng.integers(0, 100_000, num).tolist()],
        "share": np.zeros(num),
        "salt": [""] * num,
        "route_revision": np.ones(num, np.int64),
        "assigned_version": rng.integers(1, 6, num),
        "answered_version": rng.integers(1, 6, num),
        "policy_version": np.ones(num, np.int64),
        "scores": pa.ListArray.from_arrays(
            np.arange(0, 2 * num + 1, 2, dtype=np.int32), rng.random(2 * num, np.float32)
        ),
        "abstained": np.zeros(num, bool),
        "cached": np.zeros(num, bool),
        "latency_ms": rng.exponential(2.0, num),
        "keep_probability": np.ones(num),
    }
    columns = {name: pa.array(own.get(name, [None] * num), kind) for name, kind in PREDICTION_FIELDS.items()}
    columns["age"] = pa.array(rng.integers(0, 90, num).astype(float))
    columns["country"] = pa.array(rng.choice(["NL", "DE", "FR", "US"], num).tolist())
    columns["decision"] = pa.array(rng.choice(["ok", "toxic"], num).tolist())
    return pa.table(dict(sorted(columns.items(), key=lambda item: item[0] not in PREDICTION_FIELDS)))


def labels(of: pa.Table, num: int, rng: np.random.Generator) -> pa.Table:
    """Labels for rows drawn at random, a minute after them."""
    rows = np.sort(rng.choice(of.num_rows, num, replace=False))
    asked = of.select(["request_id", "received_at"]).take(rows)
    values = {
        "request_id": asked["request_id"],
        "received_at": pa.array(asked["received_at"].to_numpy() + 60_000_000),
        "kind": ["label"] * num, "text": rng.choice(["ok", "toxic"], num).tolist(), "number": [None] * num,
        "source": ["queue"] * num, "trust": ["people"] * num,
    }  # fmt: skip
    return pa.table({name: pa.array(values[name], kind) if isinstance(values[name], list) else values[name]
                     for name, kind in FEEDBACK_FIELDS.items()})  # fmt: skip


@dataclass
class Place:
    """A log that is written without a gateway."""

    folder: Path
    db: Database

    def __post_init__(self) -> None:
        (self.folder / "log").mkdir(exist_ok=True)
        self.files = LogFiles(self.db, self.folder / "log")
        self.log = Log(self.db, Segments(self.folder / "segments"), self.folder / "log")
        self.sql = Sql(files=self.files, project="p", schema=SCHEMA, horizon=timedelta(hours=1))

    def put(self, table: pa.Table, kind: str = "predictions") -> LogFile:
        day = START.date().isoformat()
        file = self.files.write([table], project="p", kind=kind, day=day, fence=1)
        with self.db.begin() as conn:
            add_files(conn, [file], now=0)
        return file


@contextmanager
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as name, Database.open(f"sqlite:///{name}/tidemill.db") as db:
        yield Place(Path(name), db)


def group_by(num: int = 10_000_000) -> None:
    """`tidemill sql` over the log's files against DuckDB over one plain Parquet file of the same rows, in turns."""
    rng = np.random.default_rng(1)
    with place() as at:
        for part in range(10):
            at.put(predictions(part * num // 10, num // 10, rng))
        plain = at.folder / "plain.parquet"
        paths = [str(path) for path in at.files.folder.rglob("*.parquet")]
        base = duckdb.connect(config={"threads": "2"})
        base.execute(f"COPY (SELECT * FROM read_parquet({paths})) TO '{plain}' (FORMAT parquet, COMPRESSION zstd)")
        query = GROUP_BY.format(f"read_parquet('{plain}')")
        ours, theirs = in_turns(
            lambda: at.sql.ask(GROUP_BY.format("predictions"), memory="4GB"), lambda: base.execute(query).fetchall(), 9
        )
        print(f"group-by over {num:,} narrow rows in {len(paths)} files, best (median) of 9 in turns")
        print(f"  tidemill sql            wall {ours[0]:.3f} ({ours[1]:.3f}) s   CPU {ours[2]:.3f} s")
        print(f"  DuckDB over one file    wall {theirs[0]:.3f} ({theirs[1]:.3f}) s   CPU {theirs[2]:.3f} s")
        print(f"  ratio                   wall {ours[0] / theirs[0]:.2f} ({ours[1] / theirs[1]:.2f})   "
              f"CPU {ours[2] / theirs[2]:.2f}   (wanted: at most 1.5)")  # fmt: skip


def label_join(num: int = 1_000_000, num_labels: int = 100_000) -> None:
    rng = np.random.default_rng(1)
    with place() as at:
        rows = predictions(0, num, rng)
        for part in range(4):
            at.put(rows.slice(part * num // 4, num // 4))
        at.put(labels(rows, num_labels, rng), "feedback")
        window = {"after": None, "until": START + timedelta(days=2)}
        asked = {"horizon": timedelta(hours=1), "trust": Trust.CROWD, "columns": ["decision", "age"]}
        whole = "SELECT count(*), count(label), avg((label = decision)::INT) FROM outcomes"
        print(
            f"label join, {num:,} predictions with {num_labels:,} labels, best (median) of 5, s (wanted: at most 0.5)"
        )
        for name, ask in {
            "Log.outcomes, 2 columns": lambda: at.log.outcomes("p", **window, **asked),
            "Log.predictions, 2 columns": lambda: at.log.predictions("p", **window, columns=["decision", "age"]),
            "tidemill sql, outcomes": lambda: at.sql.ask(whole, memory="4GB"),
        }.items():
            best, median, cpu = timed(ask, 5)
            print(f"  {name:<27} wall {best:.3f} ({median:.3f})   CPU {cpu:.3f}")
        found = at.log.outcomes("p", **window, **asked)
        assert (len(found), found["label"].count()) == (num, num_labels)


def idle_tick(sizes: tuple[int, ...] = (1_000_000, 100_000_000), per_file: int = 250_000) -> None:
    """The loop's turn when nothing is new, over real Parquet files; those of the larger log share their bytes."""
    print("idle turn of the loop, CPU ms (median of 200)")
    found = {}
    for num in sizes:
        found[num] = _idle_tick(num, per_file)
        print(f"  {num:>12,} rows in {num // per_file:>5,} files   {found[num] * 1e3:.2f}")
    print(f"  ratio {found[sizes[-1]] / found[sizes[0]]:.2f}")


def _idle_tick(num: int, per_file: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_project.py").write_text(_PROJECT)
        num_files = num // per_file
        now = START + timedelta(days=400)
        app = App.open(str(folder / "bench_project.py"), folder / "home", clock=ManualClock(now))
        files, rng = LogFiles(app.world.db, app.world.home.log), np.random.default_rng(1)
        one = files.write([predictions(0, per_file, rng)], project="p", kind="predictions", day="2026-03-01", fence=0)
        _spread(app, files, one, num_files)
        engine = app.engine()
        for _ in range(20):
            engine.turn()
        times = []
        for _ in range(200):
            app.clock.sleep(0.5)  # a turn's rest
            start = time.process_time()
            engine.turn()
            times.append(time.process_time() - start)
        app.close()
        return sorted(times)[len(times) // 2]


def _spread(app: App, files: LogFiles, one: LogFile, num: int) -> None:
    """Name a file `num` times, over the days of a year."""
    named, source = [], files.folder / one.path
    for number in range(num):
        at = START + timedelta(days=365) * number / num
        path = files.folder / "p" / "predictions" / at.date().isoformat() / f"{0:012d}-{number:016x}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path)
        named.append(LogFile(
            path=str(path.relative_to(files.folder)), project="p", kind="predictions", day=at.date().isoformat(),
            num_rows=one.num_rows, num_bytes=one.num_bytes, first_at=micros(at), last_at=micros(at) + 25_000_000,
        ))  # fmt: skip
    with app.world.db.begin() as conn:
        add_files(conn, named, now=0)


def timed(act: Callable[[], object], num: int) -> tuple[float, float, float]:
    """Return best and median wall time and best CPU time, in seconds."""
    walls, cpus = [], []
    for _ in range(num):
        cpu, wall = time.process_time(), time.perf_counter()
        act()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), sorted(walls)[num // 2], min(cpus)


def in_turns(one: Callable[[], object], other: Callable[[], object], num: int) -> list[tuple[float, float, float]]:
    """Time two things by turns, so that what else the machine does falls on both."""
    each: list[list[tuple[float, float, float]]] = [[], []]
    for _ in range(num):
        for times, act in zip(each, (one, other), strict=True):
            times.append(timed(act, 1))
    return [(min(t[0] for t in x), sorted(t[0] for t in x)[num // 2], min(t[2] for t in x)) for x in each]


if __name__ == "__main__":
    {"group": group_by, "join": label_join, "tick": idle_tick}[sys.argv[1]]()
