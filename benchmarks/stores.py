"""What the stores cost: `nice python benchmarks/stores.py` prints a table in under a minute.

Times are CPU µs of this process unless they say s; a loaded machine makes them larger, so compare runs of one hour.
Beside it: `log_ingest.py` (10,000 rows/s through two recorders, the compactor alone), `log_kills.py` (200 injected and
20 real kills), `log_queries.py` (group-by, label join, idle turn), `datasets.py` (forming, loading, similarity) and
`catalog.py`.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "stores"))
from log_rows import Mill, feedback, payload, prediction

from tidemill.records import Example, Prediction, Trust
from tidemill.schema import Classes, Schema, Text
from tidemill.stores.conditions import evaluate
from tidemill.stores.database import Database
from tidemill.stores.datasets import Datasets
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.segments import Batch, SegmentWriter

START = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = {"300 B": {"text": "x" * 180}, "5 kB": {"text": "x" * 800, "image": bytes(4000)}}


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Database.open(f"sqlite:///{name}/db") as db:
        folder = Path(name)
        append(folder)
        compact(folder, db)
        join(folder, db)
        conditions()
        reservoir(folder, db)


def append(folder: Path) -> None:
    """The gateway's part of a row: encode a batch, frame it, write it."""
    print("append, CPU us per row       batch      encode   append: process     power")
    for size, inputs in ROWS.items():
        for num in (1, 8, 64):
            batch = Batch(project="p", predictions=[prediction(i, 0, inputs=inputs) for i in range(num)])
            encode = msgspec.msgpack.Encoder().encode
            frame = encode(batch)
            modes = []
            for durability in ("process", "power"):
                writer = SegmentWriter(folder, "gw", low_at=0, durability=durability, max_bytes=64 << 20)
                repeat = max(20, min(1500, (24 << 20) // len(frame)) // (4 if durability == "power" else 1))
                modes.append(cpu(lambda w=writer, f=frame: w.append(f), repeat) / num)
                writer.close()
            modes.insert(0, cpu(lambda e=encode, b=batch: e(b), 400) / num)
            print(f"  {size:>6} {num:>24} {modes[0]:>11.2f} {modes[1]:>17.2f} {modes[2]:>9.2f}")
    for path in folder.glob("*.seg"):
        path.unlink()


def compact(folder: Path, db: Database) -> None:
    print("compactor, rows per s (wall)")
    for size, inputs in ROWS.items():
        mill = Mill(folder, db, START)
        texts = ({**inputs, "text": f"{i} {inputs['text']}"} for i in range(20_000))
        rows = [prediction(i, mill.at(i / 100), inputs=each) for i, each in enumerate(texts)]
        seal(mill, rows, project=size)
        start, lease = time.perf_counter(), mill.heir()
        moved = mill.compactor.compact(lease, now=mill.now)
        took = time.perf_counter() - start
        print(f"  {size:>6} {moved.rows / took:>12,.0f}   ({moved.segments} segments)")


def seal(mill: Mill, rows: list[Prediction], *, project: str) -> None:
    writer = mill.writer()
    for at in range(0, len(rows), 64):
        writer.append(payload(*rows[at : at + 64], project=project))
        if writer.num_bytes > 8 << 20:
            writer.rotate(mill.at(0))
    writer.close()


def join(folder: Path, db: Database) -> None:
    """100,000 predictions with 30,000 labels."""
    mill = Mill(folder, db, START)
    rows = [prediction(i, mill.at(i / 10), inputs={"text": f"text {i}", "age": float(i % 90)}) for i in range(100_000)]
    seal(mill, rows, project="join")
    facts = [feedback(i, mill.at(i / 10 + 60), "ok") for i in random.Random(1).sample(range(100_000), 30_000)]
    mill.seal(*facts, project="join")
    mill.compactor.compact(mill.heir(), now=mill.now)
    window = {"after": None, "until": START + timedelta(days=1)}
    labels = {"horizon": timedelta(hours=1), "trust": Trust.CROWD}
    thin, ids = ["unit", "decision", "share", "age"], [row.request_id for row in rows[::1000]]
    questions = {
        "predictions, 4 columns": lambda: mill.log.predictions("join", **window, columns=thin),
        "predictions, all": lambda: mill.log.predictions("join", **window),
        "outcomes, 4 columns": lambda: mill.log.outcomes("join", **window, **labels, columns=thin),
        "lookup of 100 ids": lambda: mill.log.lookup("join", ids),
        "complete_until": lambda: mill.log.complete_until(START),
    }
    print("log of 100,000 rows and 30,000 labels, s (wall, median of 3)")
    for name, ask in questions.items():
        print(f"  {name:<23} {wall(ask):>8.4f}")


def conditions() -> None:
    rows = np.random.default_rng(1)
    frame = pl.DataFrame({"age": rows.uniform(0, 90, 100_000), "app": rows.choice(["v1", "v2"], 100_000)})
    asked = {"new": "age < 30", "v2": "app = 'v2'", "both": "age < 30 AND app = 'v2'"}
    print(f"three conditions on 100,000 rows, s (wall) {wall(lambda: evaluate(asked, frame)):>8.3f}")


def reservoir(folder: Path, db: Database) -> None:
    held = Reservoir(db, folder / "reservoir")
    datasets = Datasets(db, folder / "datasets", held)
    schema = Schema({"text": Text()}, Classes(["ok", "toxic"]))
    labelled = {"label": "ok", "trust": Trust.TRUTH, "source": "import", "labelled_at": START}
    known = {
        "request_id": None,
        "received_at": START,
        "picked_at": START,
        "reason": "",
        "split": "",
        "probability": 0.1,
    }
    examples = [
        Example(id=f"e{i:06d}", unit=f"u{i}", inputs={"text": f"text {i} {'x' * 500}"}, **known, **labelled)
        for i in range(20_000)
    ]
    print("reservoir and datasets, 20,000 examples of 500 B, s (wall)")
    start = time.perf_counter()
    with db.begin() as conn:
        held.add(conn, "p", examples)
    print(f"  add                    {time.perf_counter() - start:>8.3f}")
    print(f"  index                  {wall(lambda: held.index('p')):>8.3f}")
    index = held.index("p")
    train = index.filter(index["split"] == "train")["id"].to_list()
    print(f"  inputs of 1,000        {wall(lambda: held.inputs('p', train[::16])):>8.3f}")
    start = time.perf_counter()
    with db.begin() as conn:
        version = datasets.form(
            conn, "p", ids=train, weights=(1.0,) * len(train), formed_by="x", parent=None, schema=schema, now=START
        )
    print(f"  form                   {time.perf_counter() - start:>8.3f}")
    print(f"  training_data          {wall(lambda: datasets.training_data('p', version.digest, schema)):>8.3f}")


def cpu(act: Callable[[], object], repeat: int) -> float:
    """CPU microseconds of a call, system time included: the best of three rounds."""
    rounds = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(repeat):
            act()
        rounds.append((time.process_time() - start) / repeat)
    return 1e6 * min(rounds)


def wall(act: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
