"""A monitoring pass over a day of requests: metrics by cohort, and drift with projections.

    python benchmarks/monitor_day.py [ROWS]     10,000,000 by default; needs about 3 GB of disk and 8 GB of memory

One day of ROWS requests with 8 inputs, half of them labelled, lies in a log as the compactor writes it, after a week of
a tenth as many a day. A pass is: 5 metrics of all requests and of 10 cohorts over the day, and a look at drift of all
inputs, 5 projections, scores, decisions and outliers beside the week. Seconds are CPU of the process, and wall.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

import tidemill as tm
from tidemill.clock import micros
from tidemill.monitor.drift import look
from tidemill.monitor.outcomes import Window
from tidemill.monitor.quality import quality
from tidemill.stores.database import Database
from tidemill.stores.log import Log
from tidemill.stores.logfiles import LogFiles, add_files
from tidemill.stores.segments import Segments
from tidemill.strategy.drift_needs import DriftNeeds
from tidemill.testing.fakes import MajorityTrainer

DAY = datetime(2026, 3, 2, tzinfo=UTC)
CHUNK = 500_000

project = tm.Project(
    name="shop",
    inputs={
        "text": tm.Text(), **{f"x{i}": tm.Number() for i in range(4)}, "kind": tm.Category(),
        "country": tm.Category(tag=True), "age": tm.Number(tag=True),
    },
    output=tm.Classes(["keep", "drop"]),
    trainer=MajorityTrainer(),
    metrics=[
        tm.metrics.Accuracy(), tm.metrics.F1("drop"), tm.metrics.LogLoss(), tm.metrics.EventRate("undo", False),
        tm.metrics.EventRate("buy", True),
    ],
    cohorts={f"c{i}": f"country = 'C{i}'" for i in range(5)} | {f"a{i}": f"age > {20 + 10 * i}" for i in range(5)},
    projections={
        "words": lambda row: len(row["text"].split()), "shouts": lambda row: row["text"].isupper(),
        "sum": lambda row: row["x0"] + row["x1"], "large": lambda row: row["x2"] > 1,
        "first": lambda row: row["text"][:1],
    },
    strategy=tm.Strategy(label=tm.label.Feedback(horizon="1h")),
)  # fmt: skip


def rows(rng, at, num):
    """Return `num` requests of the day that begins at `at`, and their feedback."""
    times = np.sort(micros(at) + rng.integers(0, 86_400_000_000, num))
    spam = rng.beta(2, 3, num).astype(np.float32)
    texts = pl.Series([f"offer {i} of the day" for i in range(1000)])
    ids = pl.Series(times).cast(pl.String) + "-" + pl.Series(rng.integers(0, 2**62, num)).cast(pl.String)
    frame = pl.DataFrame({
        "request_id": ids, "received_at": times, "role": "answer", "unit": ids, "share": 0.0, "salt": "",
        "route_revision": 1, "assigned_version": 1, "answered_version": 1, "policy_version": 1,
        "scores": np.stack([1 - spam, spam], axis=1), "abstained": False, "cached": False, "latency_ms": 2.0,
        "keep_probability": 1.0, "decision": np.where(spam > 0.5, "drop", "keep"),
        "text": texts.gather(rng.integers(0, 1000, num)), **{f"x{i}": rng.normal(size=num) for i in range(4)},
        "kind": pl.Series([f"k{i}" for i in range(50)]).gather(rng.integers(0, 50, num)),
        "country": pl.Series([f"C{i}" for i in range(20)]).gather(rng.integers(0, 20, num)),
        "age": rng.normal(40, 12, num),
    }).with_columns(pl.col("scores").arr.to_list())  # fmt: skip
    some = frame.filter(pl.Series(rng.random(num) < 0.5))
    right = rng.random(len(some)) < 0.9
    told = some.select(
        "request_id", pl.col("received_at") + 1_000_000, kind=pl.lit("label"), source=pl.lit("http"),
        text=pl.when(pl.Series(right)).then("decision").otherwise(pl.lit("keep")), number=pl.lit(None, pl.Float64),
        trust=pl.lit("crowd"),
    )  # fmt: skip
    return frame, told


def plain(frame):
    """Return a frame as a table of the types that the compactor writes."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    types = {pa.large_string(): pa.string(), pa.large_list(pa.float32()): pa.list_(pa.float32())}
    return table.cast(pa.schema([(field.name, types.get(field.type, field.type)) for field in table.schema]))


def write(folder, db, num):
    files, rng, written = LogFiles(db, folder), np.random.default_rng(1), []
    for day in range(-7, 1):
        at = DAY + day * timedelta(days=1)
        left = num if day == 0 else num // 10
        while left > 0:
            both = rows(rng, at, min(CHUNK, left))
            for kind, frame in zip(("predictions", "feedback"), both, strict=True):
                place = {"project": "shop", "kind": kind, "day": at.date().isoformat()}
                written.append(files.write([plain(frame)], **place, fence=1))
            left -= CHUNK
    with db.begin() as conn:
        add_files(conn, written, now=micros(DAY))


def timed(what, act):
    cpu, wall = time.process_time(), time.perf_counter()
    found = act()
    print(f"{what}: {time.process_time() - cpu:.1f} CPU s, {time.perf_counter() - wall:.1f} s", flush=True)
    return found


def main():
    num = int(sys.argv[1]) if sys.argv[1:] else 10_000_000
    with tempfile.TemporaryDirectory() as name, Database.open(f"sqlite:///{name}/tidemill.db") as db:
        folder = Path(name)
        for one in ("segments", "log"):
            (folder / one).mkdir()
        timed("writing the log", lambda: write(folder / "log", db, num))
        log = Log(db, Segments(folder / "segments"), folder / "log")
        end = DAY + timedelta(days=1)
        needs = DriftNeeds(columns=None, window=timedelta(days=1), past=timedelta(days=7), alpha=0.01, min_rows=500)
        report = timed("drift", lambda: look(project, log, pl.DataFrame, needs, end, np.random.default_rng(0)))
        print(f"  {report.num_rows:,} rows beside {report.num_reference:,}, rank {report.rank}")
        cells = timed("metrics", lambda: quality(log, project, Window(after=DAY, until=end)))
        print(f"  {len(cells)} cells, {cells[0].num:,} labels, accuracy {cells[0].value:.4f}")
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(f"  {int(peak.split()[1]) / 1e6:.1f} GB at most")


if __name__ == "__main__":
    main()
