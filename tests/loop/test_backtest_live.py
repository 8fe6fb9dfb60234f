"""The live loop, driven by HTTP on a short stream, takes the decisions that its backtest foretold."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn

from tidemill.app import App
from tidemill.clock import ManualClock, from_micros, micros
from tidemill.loop.backtest.memo import Memo
from tidemill.loop.backtest.run import Run, Setting, replay
from tidemill.loop.backtest.stream import Stream
from tidemill.loop.backtest.windows import Window, windows
from tidemill.loop.first import train_first
from tidemill.project import Project, load_project
from tidemill.serving.serve import Service, config
from tidemill.stores.tabular import examples_from

START = datetime(2026, 1, 1, tzinfo=UTC)
STEP, DELAY = timedelta(seconds=50), timedelta(seconds=2)

PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="waves",
    inputs={"x": tm.Number(), "y": tm.Number(), "app": tm.Category(tag=True)},
    output=tm.Classes(["low", "high"]),
    unit="user",
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x", "y")]),
    cohorts={"new_app": "app = 'v2'"},
    strategy=tm.Strategy(
        curate=tm.curate.Uncertain(0.5) + tm.curate.Random(0.5),
        curate_every="10s",
        label=tm.label.Feedback(trust="people", horizon="5s", daily_budget=200_000),
        trigger=tm.trigger.Degraded("accuracy", drop=0.05, reference=60) | tm.trigger.Amount(150),
        dataset=tm.dataset.Window("2m") + tm.dataset.Replay(80),
        offline=tm.offline.NoWorse("accuracy"),
        online=tm.online.Shadow(requests=50) >> tm.online.Gradual(
            (0.25, 1.0), guards=[tm.guard.Errors(), tm.guard.NoWorse("accuracy", trust="people")], min_requests=20
        ),
    ),
)
"""


def recorded(num: int) -> pl.DataFrame:
    """Three requests a second; what is high turns round in the middle."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, num))
    turned = np.arange(num) > num * 0.6
    high = np.where(turned, x - y > 0, x + y > 0)
    return pl.DataFrame({
        "time": [START + i * timedelta(milliseconds=340) for i in range(num)],
        "user": [f"user-{i}" for i in range(num)],
        "x": x, "y": y, "app": np.where(rng.random(num) < 0.3, "v2", "v1"), "label": np.where(high, "high", "low"),
    })  # fmt: skip


@pytest.fixture
def project_file(tmp_path: Path) -> Path:
    file = tmp_path / "short_waves.py"
    file.write_text(PROJECT)
    return file


def test_the_live_loop_decides_as_its_backtest(tmp_path: Path, project_file: Path) -> None:
    project, table = load_project(str(project_file)), recorded(1_200)
    stream = Stream.read(table, project, unit="user")
    setting = Setting(start=micros(START + timedelta(seconds=100)), step=STEP, label_delay=DELAY)
    memo = Memo(stream, project)
    foretold = replay(project.strategy, "own", memo, setting, seed=None, metric=project.metrics[0])
    spans = windows(stream.received_at, setting.start, setting.step)
    happened, quality = live(tmp_path, project_file, project, table, stream, setting, spans)
    assert happened == [(e["at"], e["cycle"], e["step"], e["outcome"], e["reason"]) for e in foretold.events]
    assert {step for _, _, step, _, _ in happened} == {"watch", "test", "release"}
    assert "pass" in {outcome for _, _, step, outcome, _ in happened if step == "release"}
    assert quality == pytest.approx(_users_got(foretold))


def _users_got(run: Run) -> float:
    return float(np.nanmean(run.quality))


def live(
    folder: Path, project_file: Path, project: Project, table: pl.DataFrame, stream: Stream, setting: Setting,
    spans: list[Window],
) -> tuple[list[tuple[Any, ...]], float]:  # fmt: skip
    """Serve the stream over HTTP on a manual clock; return the verdicts, and how often the answers were right."""
    clock = ManualClock(from_micros(setting.start - 1))
    app = App.open(str(project_file), folder / "home", clock=clock)
    first = spans[0].first
    history = examples_from(table[:first], project.schema, now=clock.now(), time="time", unit="user")
    train_first(app.world, history, clock=_Waiting(clock), progress=lambda _: None, smoke=False)
    engine = app.engine(lapse=timedelta(days=1), lease_ttl=timedelta(days=1))
    rows, answers, told = table.to_dicts(), _Answers(), 0

    def turn() -> None:
        while engine.turn() or _is_training(app):
            if _is_training(app):
                time.sleep(0.02)

    turn()
    for span in spans:
        with serving(app, clock) as client:
            for row in rows[span.first : span.last]:
                told = answers.tell(client, clock, told, until=micros(row["time"]))
                clock.set(row["time"])
                answers.ask(client, project, row)
            told = answers.tell(client, clock, told, until=span.now)
        clock.set(from_micros(span.now))
        turn()
    given = app.world.journal.verdicts(app.name, limit=1_000)[::-1]
    assert_log_is_a_stream(app, stream, first)
    app.close()
    happened = [(v.at.isoformat(), v.cycle, v.step, str(v.verdict.outcome), v.verdict.reason) for v in given]
    return happened, float(np.mean(answers.rights))


def assert_log_is_a_stream(app: App, stream: Stream, first: int) -> None:
    """What the project's own log gives to a backtest is what was recorded, with the labels that arrived."""
    own = Stream.read(app.world, app.project)
    columns = ["unit", *app.project.inputs]
    assert own.frame.select(columns).equals(stream.frame[first : first + len(own)].select(columns))
    known = ~np.isnan(own.truth)
    assert own.coverage > 0.95
    np.testing.assert_array_equal(own.truth[known], stream.truth[first : first + len(own)][known])


class _Answers:
    """What was answered, in order, and what is to be said about it later."""

    def __init__(self) -> None:
        self.rights: list[bool] = []
        self._said: list[tuple[int, str, str]] = []

    def ask(self, client: httpx.Client, project: Project, row: dict[str, Any]) -> None:
        body = {"inputs": {name: row[name] for name in project.inputs}, "unit": row["user"]}
        answer = client.post("/v1/predict", json=body).json()
        self.rights.append(answer["decision"] == row["label"])
        self._said.append((micros(row["time"] + DELAY), answer["request_id"], row["label"]))

    def tell(self, client: httpx.Client, clock: ManualClock, told: int, *, until: int) -> int:
        """Report the labels that are due; return how many were reported in all."""
        for at, request_id, label in self._said[told:]:
            if at > until:
                break
            clock.set(from_micros(at))
            body = {"request_id": request_id, "label": label}
            assert client.post("/v1/feedback", json=body).status_code == 202
            told += 1
        return told


def _is_training(app: App) -> bool:
    cycle = app.world.journal.cycle(app.name)
    return cycle is not None and cycle.step == "train"


class _Waiting(ManualClock):
    """A manual clock for code that waits for a real process."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock.now())

    def sleep(self, seconds: float) -> None:
        time.sleep(0.02)


@contextlib.contextmanager
def serving(app: App, clock: ManualClock) -> Iterator[httpx.Client]:
    """A gateway in a thread, on the manual clock; what it wrote is sealed when it ends."""
    service = Service(app.world.home, poll_s=0.05, clock=clock)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    started = threading.Event()
    service.on_start = started.set
    server = uvicorn.Server(config(service, grace_s=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert started.wait(30), "the gateway does not start"
        sock.listen()
        with httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
        assert not thread.is_alive()
