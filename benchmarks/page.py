"""What the page costs on a large home: `nice python benchmarks/page.py` builds one and prints tables in some minutes.

    python benchmarks/page.py [HOME]     keeps the home in a folder, and takes the one that is there

The home has 1,000,000 predictions of the last day with 8 inputs, half of them labelled, 500 versions with their runs
and reports, 200 datasets, 300 cycles and 2,000 examples that wait for a label. The page is a process of its own, as
`tidemill page` starts it. CPU is that process's, from /proc; wall times are of a machine that may be busy.

1. every view, 20 times: wall and CPU, the median and the worst;
2. the bytes of the first view, and when it can be used (Chromium, where there is one);
3. 50 open overviews for a minute, each with its live stream, that fetch what changed as page.js does, while 40
   predictions a second arrive and are compacted, and the loop writes down its state every second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from tidemill.app import App
from tidemill.clock import SystemClock, from_micros, micros
from tidemill.loop.first import train_first
from tidemill.records import Example, Outcome, Prediction, Trust, Verdict
from tidemill.runtime.ids import IdMaker
from tidemill.stores.logfiles import LogFiles, add_files
from tidemill.stores.segments import Batch, SegmentWriter

NUM_ROWS, NUM_MODELS, NUM_DATASETS, NUM_CYCLES, NUM_WAITING = 1_000_000, 500, 200, 300, 2_000
BUILT = "built"  # says that a home is whole
CHUNK, ROUNDS, NUM_OPEN, LIVE_S, RATE = 100_000, 20, 50, 60, 40
PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="shop",
    inputs={
        "text": tm.Text(), **{f"x{i}": tm.Number() for i in range(4)}, "kind": tm.Category(),
        "country": tm.Category(tag=True), "age": tm.Number(tag=True),
    },
    output=tm.Classes(["keep", "drop"]),
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x0", "x1", "x2", "x3")]),
    metrics=[tm.metrics.Accuracy(), tm.metrics.F1("drop")],
    cohorts={f"c{i}": f"country = 'C{i}'" for i in range(5)},
    strategy=tm.Strategy(
        label=tm.label.Queue() | tm.label.Feedback(horizon="1m"), trigger=tm.trigger.Degraded("accuracy", drop=0.2)
    ),
)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, nargs="?")
    with home_folder(parser.parse_args().home) as folder:
        if not (folder / BUILT).exists():
            build(folder)
        with served(folder) as (url, pid):
            views(url, pid, folder)
            first_view(url)
            live(url, pid, folder)


@contextmanager
def home_folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.absolute()
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


# --- the home


def build(folder: Path) -> None:
    if (folder / "shop.py").exists():  # one that was not finished
        shutil.rmtree(folder / "home", ignore_errors=True)
    (folder / "shop.py").write_text(PROJECT)
    began = time.perf_counter()
    app = App.open(str(folder / "shop.py"), folder / "home")
    now = app.clock.now()
    train_first(app.world, examples(400, now), clock=SystemClock(), progress=lambda _: None)
    datasets, models = form_datasets(app, now), NUM_MODELS
    add_models(app, datasets, now)
    add_cycles(app, now)
    waiting = [replace(one, id=f"w{i}", label=None, trust=None) for i, one in enumerate(examples(NUM_WAITING, now))]
    with app.db.begin() as conn:
        app.world.reservoir.add(conn, app.name, waiting)
    write_log(app, now)
    app.close()
    (folder / BUILT).touch()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    told = f"{NUM_ROWS:,} predictions, {models} versions, {NUM_DATASETS} datasets"
    print(f"built {told}: {size / 1e6:.0f} MB in {time.perf_counter() - began:.0f} s")


def examples(num: int, now: datetime) -> list[Example]:
    rng = np.random.default_rng(num)
    found = []
    for i in range(num):
        inputs = {
            "text": f"offer {i}", "kind": f"k{i % 50}", "country": f"C{i % 20}", "age": float(i % 70),
            **{f"x{k}": float(v) for k, v in enumerate(rng.normal(size=4))},
        }  # fmt: skip
        label = "drop" if inputs["x0"] > 0 else "keep"
        found.append(Example(
            id=f"e{num}-{i}", request_id=None, unit=f"u{num}-{i}", received_at=now, picked_at=now, reason="import",
            probability=None, split="", inputs=inputs, label=label, trust=Trust.TRUTH, source="import", labelled_at=now,
        ))  # fmt: skip
    return found


def form_datasets(app: App, now: datetime) -> list[str]:
    index = app.world.reservoir.index(app.name)
    train = index.filter(index["split"] == "train")["id"].to_list()
    for i in range(NUM_DATASETS - 1):
        ids = train[: len(train) - i]
        with app.db.begin() as conn:
            app.world.datasets.form(
                conn, app.name, ids=ids, weights=(1.0,) * len(ids), formed_by="Everything()", parent=None,
                schema=app.project.schema, now=now,
            )  # fmt: skip
    return [one.digest for one in app.world.datasets.all(app.name)]


def add_models(app: App, datasets: list[str], now: datetime) -> None:
    catalog = app.catalog
    first, report = catalog.model(app.name, 1), catalog.report(app.name, 1)
    run = catalog.run(app.name, first.run)
    assert report is not None and run is not None
    for i in range(2, NUM_MODELS + 1):
        at = now - timedelta(minutes=NUM_MODELS - i)
        model = replace(first, run=f"r{i}", created_at=at, dataset=datasets[i % len(datasets)], status="rejected")
        with app.db.begin() as conn:
            catalog.start_run(conn, app.name, model.run, None, {}, at)
            catalog.end_run(conn, app.name, model.run, "done", run.body, at)
            version = catalog.add_model(conn, app.name, model)
            catalog.add_report(conn, app.name, version, {**report, "candidate": version, "live": 1}, at)


def add_cycles(app: App, now: datetime) -> None:
    fired = Verdict(outcome=Outcome.FIRE, by="Degraded('accuracy', drop=0.2)", reason="0.61 is below 0.81")
    for i in range(NUM_CYCLES):
        at = now - timedelta(minutes=NUM_CYCLES - i)
        with app.db.begin() as conn:
            number = app.journal.open_cycle(
                conn, app.name, trigger=fired, strategy=app.project.strategy.digest(), step="train", now=at
            )
            app.journal.close_cycle(conn, app.name, number, outcome="rejected", reason="it is no better", now=at)


def write_log(app: App, now: datetime) -> None:
    rng, files, written = np.random.default_rng(1), LogFiles(app.db, app.world.home.log), []
    ids = IdMaker(app.catalog.secret(app.name))
    times = np.sort(micros(now) - rng.integers(60_000_000, 86_400_000_000, NUM_ROWS))
    for at in range(0, NUM_ROWS, CHUNK):
        for kind, frame in zip(("predictions", "feedback"), rows(rng, times[at : at + CHUNK], ids), strict=True):
            column = "received_at"
            days = frame.with_columns(day=pl.from_epoch(column, time_unit="us").dt.date())
            for (day,), of_day in days.group_by("day", maintain_order=True):
                table = plain(of_day.drop("day"))
                written.append(files.write([table], project=app.name, kind=kind, day=str(day), fence=1))
    with app.db.begin() as conn:
        add_files(conn, written, now=micros(now))


def rows(rng: np.random.Generator, times: np.ndarray, ids: IdMaker) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a request for each time, and feedback on half of them."""
    num = len(times)
    spam = rng.beta(2, 3, num).astype(np.float32)
    texts = pl.Series([f"offer {i} of the day" for i in range(1000)])
    frame = pl.DataFrame({
        "request_id": [ids.new(int(at)) for at in times], "received_at": times, "role": "answer",
        "unit": pl.Series(rng.integers(0, 10**9, num)).cast(pl.String), "share": 0.0, "salt": "",
        "route_revision": 1, "assigned_version": 1, "answered_version": 1, "policy_version": 1,
        "scores": np.stack([1 - spam, spam], axis=1), "abstained": False, "cached": False, "latency_ms": 2.0,
        "keep_probability": 1.0, "decision": np.where(spam > 0.5, "drop", "keep"),
        "text": texts.gather(rng.integers(0, 1000, num)), **{f"x{i}": rng.normal(size=num) for i in range(4)},
        "kind": pl.Series([f"k{i}" for i in range(50)]).gather(rng.integers(0, 50, num)),
        "country": pl.Series([f"C{i}" for i in range(20)]).gather(rng.integers(0, 20, num)),
        "age": rng.normal(40, 12, num),
    }).with_columns(pl.col("scores").arr.to_list())  # fmt: skip
    some = frame.filter(pl.Series(rng.random(num) < 0.5))
    right = pl.Series(rng.random(len(some)) < 0.9)
    other = pl.when(pl.col("decision") == "keep").then(pl.lit("drop")).otherwise(pl.lit("keep"))
    told = some.select(
        "request_id", pl.col("received_at") + 1_000_000, kind=pl.lit("label"), source=pl.lit("feedback"),
        text=pl.when(right).then("decision").otherwise(other), number=pl.lit(None, pl.Float64), trust=pl.lit("crowd"),
    )  # fmt: skip
    return frame, told


def plain(frame: pl.DataFrame) -> pa.Table:
    """Return a frame as a table of the types that the compactor writes."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    types = {pa.large_string(): pa.string(), pa.large_list(pa.float32()): pa.list_(pa.float32())}
    return table.cast(pa.schema([(field.name, types.get(field.type, field.type)) for field in table.schema]))


# --- the page


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "tidemill.cli", "page", "--project", str(folder / "shop.py"), "--home",
               str(folder / "home"), "--port", "0"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield re.findall(r"http://\S+", line)[0], process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def views(url: str, pid: int, folder: Path) -> None:
    app = App.open(str(folder / "shop.py"), folder / "home")
    until = app.clock.now() + timedelta(minutes=1)
    newest = app.world.log.predictions(app.name, after=until - timedelta(hours=3), until=until, columns=["request_id"])[
        "request_id"
    ]
    app.close()
    places = [
        "/", "/predictions", "/predictions?country=C3", "/predictions?where=x0+>+2+AND+kind='k7'",
        f"/predictions/{newest[0]}", "/cohorts", "/cohorts/one?name=c1", "/drift", "/label", "/try", "/models",
        "/models?after=300", "/models/250", "/report/250", "/report", "/rollout", "/datasets", "/datasets/150",
        "/backtests", "/strategy", "/strategy/1", "/alerts", "/audit", "/tokens", "/-/standing", "/-/quality",
        "/cohorts/-/slices", "/drift/-/look",
    ]  # fmt: skip
    print(f"{'ms':<48}{'CPU':>8}{'wall p50':>10}{'worst':>8}{'kB':>7}")
    with httpx.Client(base_url=url, timeout=120) as client:
        settle(client, ("/-/quality", "/cohorts/-/slices", "/cohorts/-/close?name=c1", "/drift/-/look"))
        for place in places:
            view(client, place, pid)


def settle(client: httpx.Client, parts: tuple[str, ...]) -> None:
    """Wait until what is measured behind the views is there, and tell how long it took."""
    for part in parts:
        while 'class="measuring"' in (text := client.get(part).text):
            time.sleep(0.2)
        took = re.search(r"measured.*?, in ([^<&]+)", text, re.DOTALL)
        print(f"measured behind the page: {part} took {took[1].strip() if took else '?'}")


def view(client: httpx.Client, place: str, pid: int) -> None:
    answer = client.get(place)
    assert answer.status_code == 200, (place, answer.status_code, answer.text[-2000:])
    walls, before = [], cpu_s(pid)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        client.get(place)
        walls.append((time.perf_counter() - began) * 1000)
    cpu = (cpu_s(pid) - before) / ROUNDS * 1000
    size = int(answer.headers.get("content-length", len(answer.content))) / 1000
    print(f"{place[:47]:<48}{cpu:>8.0f}{statistics.median(walls):>10.0f}{max(walls):>8.0f}{size:>7.1f}", flush=True)


def first_view(url: str) -> None:
    """Tell what the first view of somebody new weighs, and when it can be used."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "dashboard"))
    import chromium

    path = chromium.found()
    if path is None:
        print("no Chromium: when the first view can be used was not measured")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        ready, sizes = [], []
        for _ in range(7):
            tab = browser.new_context().new_page()
            session, got = tab.context.new_cdp_session(tab), list[float]()
            session.send("Network.enable")
            session.on("Network.loadingFinished", lambda event, got=got: got.append(event["encodedDataLength"]))
            tab.goto(url, wait_until="load")
            entry = "performance.getEntriesByType('navigation')[0]"
            ready.append(tab.evaluate(f"{entry}.domContentLoadedEventEnd"))
            tab.wait_for_timeout(1500)
            sizes.append(sum(got))
            tab.context.close()
        browser.close()
    ms = f"{statistics.median(ready):.0f} ms (best {min(ready):.0f}, worst {max(ready):.0f})"
    print(f"first view: {max(sizes) / 1000:.1f} kB over the wire with all its parts, can be used after {ms}")


# --- open pages


def live(url: str, pid: int, folder: Path) -> None:
    stop = threading.Event()
    writer = threading.Thread(target=traffic, args=(folder, stop))
    writer.start()
    time.sleep(5)
    try:
        before, began = cpu_s(pid), time.perf_counter()
        time.sleep(LIVE_S / 2)
        alone = (cpu_s(pid) - before) / (time.perf_counter() - began)
        told, fetched, cpu = asyncio.run(watch(url, pid))
    finally:
        stop.set()
        writer.join()
    print(f"{NUM_OPEN} open pages for {LIVE_S} s, {RATE} predictions/s: {told / NUM_OPEN / LIVE_S:.2f} events and "
          f"{fetched / NUM_OPEN / LIVE_S:.2f} fetches a page and second")  # fmt: skip
    print(f"the page's process took {cpu:.1%} of a core; with nobody looking {alone:.1%}")


async def watch(url: str, pid: int) -> tuple[int, int, float]:
    counts = [0, 0]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        pages = [asyncio.create_task(one_page(client, counts)) for _ in range(NUM_OPEN)]
        await asyncio.sleep(5)
        counts[:] = [0, 0]
        before, began = cpu_s(pid), time.perf_counter()
        await asyncio.sleep(LIVE_S)
        cpu = (cpu_s(pid) - before) / (time.perf_counter() - began)
        for task in pages:
            task.cancel()
        await asyncio.gather(*pages, return_exceptions=True)
    return counts[0], counts[1], cpu


async def one_page(client: httpx.AsyncClient, counts: list[int]) -> None:
    """Open the overview, and fetch its parts when their topics change."""
    text = (await client.get("/")).text
    parts = re.findall(r'class="part" hx-get="([^"]+)"[^>]*data-live="([^"]+)"', text)
    assert len(parts) == 3, parts
    async with client.stream("GET", "/-/live") as stream:
        async for line in stream.aiter_lines():
            if not line.startswith('data: {"topics"'):
                continue
            counts[0] += 1
            topics = set(msgspec.json.decode(line[6:])["topics"])
            due = [part for part, of in parts if topics & set(of.split())]
            counts[1] += len(due)
            await asyncio.gather(*(client.get(part) for part in due))


def traffic(folder: Path, stop: threading.Event) -> None:
    """Let predictions arrive, and compact them every two seconds, as gateways and a loop do."""
    app = App.open(str(folder / "shop.py"), folder / "home")
    ids, home = IdMaker(app.catalog.secret(app.name)), app.world.home
    lease = app.journal.acquire("compactor", "benchmark", now=app.clock.now(), ttl=timedelta(hours=1))
    assert lease is not None
    at = 0
    while not stop.wait(1.0):
        now = micros(app.clock.now())
        writer = SegmentWriter(home.segments, f"users-{now}", low_at=now - 1_000_000)
        batch = Batch(project=app.name, predictions=[request(ids, now, i) for i in range(RATE)], feedback=[])
        writer.append(msgspec.msgpack.encode(batch))
        writer.close()
        with app.db.begin() as conn:  # as a loop that turns
            app.journal.put_state(conn, app.name, "benchmark", {"at": at}, from_micros(now))
        at += 1
        if at % 2 == 0:
            app.world.compactor.compact(lease, now=from_micros(now))
    app.journal.release(lease)
    app.close()


def request(ids: IdMaker, now: int, i: int) -> Prediction:
    at = now - 1_000_000 + i * (1_000_000 // RATE)
    return Prediction(
        request_id=ids.new(at), received_at=at, role="answer", unit=f"u{at}", subject=None, rollout=None, share=0.0,
        salt="", route_revision=1, assigned_version=1, answered_version=1, fallback_reason=None, error=None,
        policy_version=1, tags={"country": f"C{i % 20}", "age": 40.0}, scores=[0.8, 0.2], decision="keep",
        inputs={"text": f"offer {i}", "kind": f"k{i % 50}", **{f"x{k}": 0.5 for k in range(4)}}, abstained=False,
        cached=False, latency_ms=1.0, keep_probability=1.0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
