"""The demo's job on a recorded stream: the first rows train version 1, the rest comes in its order over HTTP."""

from __future__ import annotations

import base64
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from tidemill.app import App
from tidemill.cli.live import Live
from tidemill.cli.processes import Processes
from tidemill.cli.summary import verdicts_of, versions_of
from tidemill.clock import from_micros
from tidemill.loop.first import train_first
from tidemill.monitor.outcomes import Window
from tidemill.monitor.quality import quality
from tidemill.schema import Schema
from tidemill.stores.tabular import examples_from, parse_label, read_table
from tidemill.testing.traffic import Ask, Users

RATE, LABEL_DELAY_S = 120.0, 1.0
TRAIN_SHARE, NUM_WINDOWS = 0.2, 10


def replay(stream: Path, project: str, folder: Path, console: Console, *, max_rows: int) -> dict[str, Any]:
    """Serve a stream with columns for the inputs, `label` and, if there is one, `time`; return the summary."""
    app = App.open(project, folder)
    first, rest = _split(read_table(stream, app.project.schema), max_rows)
    console.print(f"Training version 1 on the first {len(first)} of {len(first) + len(rest)} rows ...")
    train_first(app.world, examples_from(first, app.project.schema, now=app.clock.now()), clock=app.clock,
                progress=lambda _: None)  # fmt: skip
    asks = _Asks(rest, app.project.schema)
    users = Users(
        "127.0.0.1", 0, draw=asks.draw, say=lambda ask, _: ask.truth, rate=RATE, delay_s=LABEL_DELAY_S, seed=1
    )
    with Processes(folder, project) as processes:
        users.port = processes.port
        stop = threading.Event()
        live = Live(app, users, console, stop)
        live.start()
        try:
            users.start()
            users.join()
        finally:
            stop.set()
            live.join()
    app.engine().drain()
    result = _summary(app, users.counts["answered"])
    app.close()
    return result


def _split(frame: pl.DataFrame, max_rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows for version 1 and those to serve, thinned evenly to `max_rows` and in order of time."""
    if "time" in frame.columns:
        frame = frame.sort("time", maintain_order=True)
    if len(frame) > max_rows:
        frame = frame[np.linspace(0, len(frame) - 1, max_rows).astype(np.int64)]
    num_first = int(len(frame) * TRAIN_SHARE)
    return frame[:num_first], frame[num_first:]


class _Asks:
    """Hands out the rows of a stream, in order, to several threads."""

    def __init__(self, frame: pl.DataFrame, schema: Schema) -> None:
        self._schema, self._lock = schema, threading.Lock()
        self._rows: Iterator[tuple[int, dict[str, Any]]] = zip(itertools.count(), frame.iter_rows(named=True))

    def draw(self, _: np.random.Generator) -> Ask | None:
        """Return the next row as a request."""
        with self._lock:
            number, row = next(self._rows, (0, None))
        if row is None:
            return None
        inputs = {name: _wire(row[name]) for name in self._schema.inputs}
        return Ask(inputs=inputs, unit=f"row-{number}", truth=parse_label(row["label"], self._schema))


def _wire(value: object) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _summary(app: App, num_answered: int) -> dict[str, Any]:
    columns = ["received_at", "answered_version"]
    log = app.world.log.predictions(app.name, after=None, until=app.clock.now(), columns=columns)
    edges = np.linspace(log["received_at"].min(), log["received_at"].max(), NUM_WINDOWS + 1)  # type: ignore[arg-type]
    windows = enumerate(itertools.pairwise(edges), start=1)
    return {
        "quality": {f"window {i}": _quality(app, int(begin), int(end)) for i, (begin, end) in windows},
        "requests": {"answered": num_answered, "logged": int((log["answered_version"] > 0).sum())},
        "retrainings": sum(c.step != "form" for c in app.world.journal.cycles(app.name)),
        "verdicts": verdicts_of(app),
        "versions": versions_of(app),
    }


def _quality(app: App, after: int, until: int) -> dict[str, float]:
    found = quality(app.world.log, app.project, Window(after=from_micros(after), until=from_micros(until)))
    first = app.project.metrics[0].name
    return {q.cohort: round(q.value, 4) for q in found if q.metric == first and q.value is not None}
