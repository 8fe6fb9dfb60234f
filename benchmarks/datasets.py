"""What dataset versions cost: `nice python benchmarks/datasets.py` prints each figure beside what it should be.

Wall seconds on a shared machine mean little: CPU seconds of this process (all its threads) and ratios stand beside
them. Everything is warm: files were just written, and each question is asked once before it is timed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.records import DatasetVersion, Example, Trust
from tidemill.schema import Category, Classes, Image, Number, Schema, Text
from tidemill.stores.database import Database
from tidemill.stores.datasets import Datasets
from tidemill.stores.duplicates import Sameness
from tidemill.stores.export import export
from tidemill.stores.loader import Rows
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.similar import nearest

START = datetime(2026, 3, 1, tzinfo=UTC)
NARROW = Schema({"text": Text(), "age": Number(), "country": Category(tag=True)}, Classes(["ok", "toxic"]))
WIDE = Schema({"text": Text(), "image": Image((64, 64)), "country": Category(tag=True)}, Classes(["ok", "toxic"]))
NUM_ROWS = 100_000
BATCH = 256
NOT_IN_A_BATCH = ("split", "trust", "unit", "received_at", "probability")


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"wall {self.wall:8.4f} s   CPU {self.cpu:8.4f} s"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        print(
            f"fdatasync p50 {fdatasync_ms(Path(name)):.2f} ms, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        for title, schema, num in (("narrow rows", NARROW, NUM_ROWS), ("rows with images of 4 kB", WIDE, 30_000)):
            folder = Path(name) / title.replace(" ", "-")
            folder.mkdir()
            with Database.open(f"sqlite:///{folder / 'db'}") as db:
                versions(title, db, folder, schema, num)
        search(Path(name))


def versions(title: str, db: Database, folder: Path, schema: Schema, num: int) -> None:
    reservoir = Reservoir(db, folder / "reservoir")
    datasets = Datasets(db, folder / "datasets", reservoir)
    print(f"\n{num:,} {title}")
    for near in (False, True):
        cost = insert(reservoir, schema, num if near else num // 10, "p" if near else "q", near=near)
        print(f"  insert, {'near-duplicates too' if near else 'equal ones only':<28} CPU {cost:7.1f} us per example")
    ids, weights = selection(reservoir)
    formed: list[DatasetVersion] = []

    def form() -> None:
        with db.begin() as conn:
            formed.append(
                datasets.form(conn, "p", ids=ids, weights=weights, formed_by="", parent=None, schema=schema, now=START)
            )

    print(f"  form                               {measure(form, repeat=1)}   (<= 3 s of narrow rows)")
    print(f"  form again: nothing changed        {measure(form)}")
    version = formed[0]
    print(
        f"  training_data                      {measure(lambda: datasets.training_data('p', version.digest, schema))}"
    )
    print(f"  diff with itself                   {measure(lambda: datasets.diff('p', version.digest, version.digest))}")
    fetch(datasets, folder, schema)


def insert(reservoir: Reservoir, schema: Schema, num: int, project: str, *, near: bool) -> float:
    """Insert examples ten thousand at a time, as an import does; return CPU us per example."""
    rng, sameness, spent = np.random.default_rng(0), Sameness.of(schema, near_duplicates=near), 0.0
    for at in range(0, num, 10_000):
        new = [example(i, schema, rng) for i in range(at, min(at + 10_000, num))]
        begun = time.process_time()
        with reservoir._db.begin() as conn:
            reservoir.add(conn, project, new, sameness=sameness)
        spent += time.process_time() - begun
    return 1e6 * spent / num


def example(number: int, schema: Schema, rng: np.random.Generator) -> Example:
    values: dict[str, Any] = {"text": f"comment {number} says {rng.integers(1e9)} things", "country": "NL"}
    values |= {"image": rng.bytes(4096)} if "image" in schema.inputs else {"age": float(number % 90)}
    return Example(
        id=f"e{number:06d}", request_id=None, unit=f"u{number}", received_at=START + timedelta(seconds=number),
        picked_at=START, reason="import", probability=1.0, split="", inputs=values, trust=Trust.TRUTH, source="import",
        label="toxic" if number % 7 == 0 else "ok", labelled_at=START,
    )  # fmt: skip


def selection(reservoir: Reservoir) -> tuple[list[str], list[float]]:
    index = reservoir.index("p")
    ids = index.filter(index["split"] == "train")["id"].to_list()
    return ids, [1.0] * len(ids)


# --- random rows


def fetch(datasets: Datasets, folder: Path, schema: Schema) -> None:
    """256 random rows from a version, and from a Parquet file of the same rows, in turns."""
    export(datasets, "p", 1, folder / "rows.parquet")
    rows, rng = datasets.rows("p", 1, schema), np.random.default_rng(1)
    parquet = {"pyarrow": by_row_group(folder / "rows.parquet"), "DuckDB": by_id(folder / "rows.parquet", rows)}
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in parquet}
    for _ in range(15):
        index = rng.integers(0, len(rows), BATCH)
        ours += [1000 * measure(lambda i=index: rows.take(i), repeat=1).wall for _ in range(5)]
        for name, ask in parquet.items():
            theirs[name].append(1000 * measure(lambda i=index, a=ask: a(i), repeat=1).wall)
    p50, p95 = np.percentile(ours, [50, 95])
    print(f"  {BATCH} random rows from the version  p50 {p50:8.2f} ms   p95 {p95:.2f} ms   (p50 <= 5 ms)")
    for name, times in theirs.items():
        median = statistics.median(times)
        print(f"  the same from Parquet, {name:<12} p50 {median:8.2f} ms   {median / p50:6.0f} x   (>= 20 x)")


def by_row_group(path: Path) -> Callable[[np.ndarray], Any]:
    """Read the row groups that have any of the rows, of the columns that a batch has, and take them."""
    file = pq.ParquetFile(path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    firsts = np.cumsum([0, *sizes])
    columns = [name for name in file.schema_arrow.names if name not in NOT_IN_A_BATCH]

    def ask(index: np.ndarray) -> Any:
        groups, which = np.unique(np.searchsorted(firsts, index, side="right") - 1, return_inverse=True)
        starts = np.cumsum([0, *(sizes[group] for group in groups)])
        read = file.read_row_groups(groups.tolist(), columns)
        return read.take(pa.array(starts[which] + index - firsts[groups[which]]))

    return ask


def by_id(path: Path, rows: Rows) -> Callable[[np.ndarray], Any]:
    """Ask DuckDB for the rows by their ids."""
    db, ids = duckdb.connect(), np.array(rows.all().ids, dtype=object)
    db.execute(f"CREATE VIEW version AS SELECT * EXCLUDE ({', '.join(NOT_IN_A_BATCH)}) FROM '{path}'")
    query = "SELECT * FROM version WHERE id IN (SELECT unnest(?))"
    return lambda index: db.sql(query, params=[list(ids[index])]).to_arrow_table()


# --- similarity


def search(folder: Path) -> None:
    """The 100 nearest of a million vectors of 256 numbers."""
    rng, path = np.random.default_rng(0), folder / "vectors.f32"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(rng.standard_normal((10_000, 256), dtype=np.float32))
    column = np.memmap(path, np.float32, mode="r", shape=(1_000_000, 256))
    one, many = rng.standard_normal(256).astype(np.float32), rng.standard_normal((50, 256)).astype(np.float32)
    print("\nexact top 100 of 1,000,000 x 256, from a memory-mapped file")
    print(f"  one query                          {measure(lambda: nearest(one, column, 100), repeat=7)}   (<= 0.5 s)")
    print(f"  50 queries together                {measure(lambda: nearest(many, column, 100), repeat=1)}")


# --- measuring


def measure(do: Callable[[], object], *, repeat: int = 3, warm: bool = False) -> Cost:
    """Return the median cost of a few runs."""
    costs = []
    for _ in range(repeat + warm):
        wall, cpu = time.perf_counter(), time.process_time()
        do()
        costs.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return sorted(costs[warm:], key=lambda cost: cost.wall)[repeat // 2]


def fdatasync_ms(folder: Path) -> float:
    times = []
    with (folder / "sync").open("wb") as file:
        for _ in range(30):
            file.write(bytes(4096))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


if __name__ == "__main__":
    main()
