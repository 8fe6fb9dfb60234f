"""CPU and wall time of what gateways and loops ask of the catalog and the journal all day.

python benchmarks/catalog.py [URL]      # a SQLite file in a temporary folder unless a URL is given; about 5 s
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tidemill.records import ModelVersion, Route
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TTL = timedelta(days=1)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(what: str, act: Callable[[], object], *, num: int) -> None:
    for _ in range(max(1, num // 20)):
        act()
    walls, before = [], cpu_s()
    for _ in range(num):
        start = time.perf_counter()
        act()
        walls.append((time.perf_counter() - start) * 1e6)
    used = (cpu_s() - before) / num * 1e6
    p50, p99 = statistics.median(walls), statistics.quantiles(walls, n=100)[98]
    print(f"{what:<42}{used:>10.0f}{p50:>12.0f}{p99:>12.0f}{num:>8}")


def fill(database: Database, catalog: Catalog) -> None:
    with database.begin() as conn:
        catalog.publish(conn, {"project": "shop"}, {}, file="bench", now=NOW)
        model = ModelVersion(
            version=0, artefact="a", created_at=NOW, dataset=None, strategy="s", parent=None, cycle=None, run="r"
        )
        catalog.add_model(conn, "shop", model)
        for revision in range(100):
            catalog.set_route(conn, "shop", Route(revision=revision, stable=1), now=NOW, by="bench", reason="")


def run(url: str, folder: Path) -> None:
    opened = time.perf_counter()
    database = Database.open(url)
    made_ms = (time.perf_counter() - opened) * 1e3
    catalog, journal = Catalog(database), Journal(database)
    fill(database, catalog)
    lease = journal.acquire("loop", "bench", now=NOW, ttl=TTL)
    assert lease is not None
    state = {"windows": [{"n": i, "errors": i / 7} for i in range(50)]}

    def reopen() -> None:
        Database.open(url).close()

    def write_state() -> None:
        with journal.write(lease, now=NOW) as conn:
            journal.put_state(conn, "shop", "trigger", state, NOW)

    def empty_write() -> None:
        with database.begin():
            pass

    print(f"made the database in {made_ms:.0f} ms")
    print(f"{'':<42}{'CPU us':>10}{'wall p50':>12}{'wall p99':>12}{'times':>8}")
    measure("open, up to date, and close", reopen, num=100)
    measure("route read", lambda: catalog.route("shop"), num=3000)
    measure("commands waiting (none)", lambda: journal.waiting("shop"), num=3000)
    measure("empty write transaction", empty_write, num=1000)
    measure("journal write of a 2 kB state", write_state, num=1000)
    measure("lease renewal", lambda: journal.renew(lease, now=NOW, ttl=TTL), num=1000)
    measure("lease asked for while it is held", lambda: journal.acquire("loop", "b", now=NOW, ttl=TTL), num=3000)
    database.close()

    artefact = folder / "artefact"
    artefact.mkdir()
    (artefact / "model.onnx").write_bytes(bytes(20_000_000))
    (artefact / "artefact.json").write_text("{}")
    digest = Blobs(folder / "blobs").put_folder(artefact)
    measure("store a 20 MB artefact that is there", lambda: Blobs(folder / "blobs").put_folder(artefact), num=5)
    measure("open and verify a 20 MB artefact", lambda: Blobs(folder / "blobs").folder(digest), num=10)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        given = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{temporary}/tidemill.db"
        run(given, Path(temporary))
