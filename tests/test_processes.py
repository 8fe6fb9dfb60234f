"""The product as its users run it: gateway, loop and trainer as processes, killed under load, stopped, and kept up."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

import waiting
from tidemill.app import App
from tidemill.clock import SystemClock
from tidemill.loop.first import train_first
from tidemill.records import Route, Trust
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.segments import Segments
from tidemill.stores.tabular import examples_from
from tidemill.training import runner

PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="waves",
    inputs={"x": tm.Number(), "y": tm.Number()},
    output=tm.Classes(["low", "high"]),
    unit="user",
    trainer=tm.trainers.Sklearn(LogisticRegression()),
    strategy=tm.Strategy(
        curate_every="1s",
        label=tm.label.Feedback(trust="crowd", horizon="1s", daily_budget=86_400),
        trigger=tm.trigger.Manual(),
        offline=[tm.offline.AtLeast("accuracy", 0.5)],
        online=tm.online.Shadow(requests=30)
        >> tm.online.Gradual((0.25, 1.0), guards=[tm.guard.Errors()], min_requests=40),
    ),
)
"""
PATIENCE_S = 30.0


def truth(x: float, y: float) -> str:
    return "high" if x + y > 0 else "low"


until = partial(waiting.until, seconds=PATIENCE_S)


@dataclass
class Deployed:
    """A home folder with version 1, and the processes that run on it."""

    folder: Path
    port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.app = App.open(str(self.folder / "waves_project.py"), self.folder / "home")

    def start(self, command: str) -> subprocess.Popen[bytes]:
        home, project = str(self.folder / "home"), str(self.folder / "waves_project.py")
        options = {
            "serve": ["--port", str(self.port)],
            "loop": ["--project", project, "--poll", "100ms"],
            "up": ["--project", project, "--port", str(self.port)],
        }[command]
        with (self.folder / f"{command}.log").open("ab") as log:
            self.processes[command] = subprocess.Popen(
                [sys.executable, "-m", "tidemill.cli", command, "--home", home, *options],
                stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        return self.processes[command]

    def kill(self, command: str) -> None:
        self.processes[command].kill()
        self.processes[command].wait()

    def stop(self, command: str) -> int:
        """End it as an operator does; return its exit code."""
        self.processes[command].terminate()
        return self.processes[command].wait(PATIENCE_S)

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()
        for job in (self.folder / "home" / "runs").rglob(runner.PROCESS):
            runner.kill(job.parent)
        self.app.close()

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def is_ready(self) -> bool:
        return self.request("GET", "/v2/health/ready")[0] == 200

    @property
    def route(self) -> Route:
        found = self.app.world.catalog.route("waves")
        assert found is not None
        return found

    # --- what is in the log

    def drained(self) -> None:
        """Have everything that was acknowledged in the log. Nobody may be serving."""
        self.app.engine().drain()
        assert Segments(self.app.world.home.segments).present() == []

    def raw(self, kind: str) -> pl.DataFrame:
        """Return every row of the committed files, without what the log's readers do about duplicates."""
        files = LogFiles(self.app.world.db, self.app.world.home.log)
        found = [pl.read_parquet(files.folder / f.path) for f in files.find("waves", kind, first=None, last=None)]
        return pl.concat(found, how="diagonal_relaxed")


class Users:
    """Ask and tell over real HTTP until stopped; remember what was acknowledged."""

    def __init__(self, deployed: Deployed, *, num_threads: int = 3, pause_s: float = 0.02) -> None:
        self._deployed, self._pause_s = deployed, pause_s
        self.answers: dict[str, Any] = {}
        self.told: dict[str, str] = {}
        self.statuses: Counter[int] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(num_threads)]

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, seed: int) -> None:
        rng = np.random.default_rng([seed, len(self.told)])
        connection = http.client.HTTPConnection("127.0.0.1", self._deployed.port, timeout=10)
        while not self._stop.wait(self._pause_s):
            x, y = (float(v) for v in rng.normal(size=2))
            body = {"inputs": {"x": x, "y": y}, "unit": f"user-{rng.integers(10**9)}"}
            status, answer = self._post(connection, "/v1/predict", body)
            if status != 200:
                continue
            self.answers[answer["request_id"]] = answer
            if rng.random() < 0.6:
                said = {"request_id": answer["request_id"], "label": truth(x, y)}
                if self._post(connection, "/v1/feedback", said)[0] == 202:
                    self.told[answer["request_id"]] = said["label"]
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, found = response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            status, found = 0, None
        self.statuses[status] += 1
        return status, found


def check_log(deployed: Deployed, users: Users) -> None:
    """Check that everything acknowledged is in the log once, as it was answered, and joined once."""
    answers = deployed.raw("predictions").filter(pl.col("role") == "answer")
    times = Counter(answers["request_id"].to_list())
    assert {id_: times[id_] for id_ in users.answers if times[id_] != 1} == {}
    logged = {r["request_id"]: r for r in answers.to_dicts()}
    for id_, answer in users.answers.items():
        assert (logged[id_]["decision"], logged[id_]["answered_version"]) == (answer["decision"], answer["version"])
    times = Counter(deployed.raw("feedback")["request_id"].to_list())
    assert {id_: times[id_] for id_ in users.told if times[id_] != 1} == {}
    joined = deployed.app.world.log.outcomes(
        "waves", after=None, until=deployed.app.clock.now(), horizon=timedelta(days=1), trust=Trust.CROWD
    )
    assert joined["request_id"].is_unique().all()
    labels = dict(joined.select("request_id", "label").rows())
    assert {id_: labels.get(id_) for id_ in users.told} == users.told


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose home serves version 1, made once."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "waves_project.py").write_text(PROJECT)
    app, rng = App.open(str(folder / "waves_project.py"), folder / "home"), np.random.default_rng(1)
    x, y = rng.normal(size=(2, 300))
    rows = pl.DataFrame({"x": x, "y": y, "label": [truth(a, b) for a, b in zip(x, y, strict=True)]})
    examples = examples_from(rows, app.project.schema, now=app.clock.now())
    train_first(app.world, examples, clock=app.clock, progress=lambda _: None)
    app.close()
    return folder


@pytest.fixture
def deployed(first: Path, tmp_path: Path) -> Iterator[Deployed]:
    """The same, with nothing running yet."""
    shutil.copytree(first, tmp_path / "here")
    made = Deployed(tmp_path / "here")
    yield made
    made.end()


def training(deployed: Deployed, attempt: int) -> int | None:
    """Return the pid of that attempt's training process once it is there."""
    file = deployed.app.world.workdir(f"cycle-1-attempt-{attempt}") / runner.PROCESS
    return json.loads(file.read_text())["pid"] if file.exists() else None


def kill_all_in_turn(deployed: Deployed) -> None:
    """Ask for a cycle, and kill the gateway, two trainers, and the loop: in training, and in the rollout."""
    deployed.app.ask("retrain", by="test")
    for attempt in (1, 2):
        os.kill(until(lambda n=attempt: training(deployed, n)), signal.SIGKILL)
        time.sleep(0.3)
        restart(deployed, "serve")
    until(lambda: training(deployed, 3))
    restart(deployed, "loop")  # it takes over when the lease of the dead one has run out
    time.sleep(1.0)
    restart(deployed, "serve")
    until(lambda: deployed.route.rollout)
    restart(deployed, "loop")
    restart(deployed, "serve")


def restart(deployed: Deployed, command: str) -> None:
    deployed.kill(command)
    deployed.start(command)


def test_nothing_acknowledged_is_lost_or_doubled_when_everything_is_killed_under_load(deployed: Deployed) -> None:
    begun = time.monotonic()
    deployed.start("serve")
    deployed.start("loop")
    until(deployed.is_ready)
    with Users(deployed) as users:
        kill_all_in_turn(deployed)
        until(lambda: deployed.app.world.journal.cycles("waves")[0].outcome)
    deployed.kill("serve")
    assert deployed.stop("loop") == 0
    deployed.drained()

    assert len(users.answers) > 200 and len(users.told) > 100 and set(users.statuses) == {0, 200, 202}
    check_log(deployed, users)
    assert [c.outcome for c in deployed.app.world.journal.cycles("waves")] == ["promoted"]
    check_routes(deployed)
    assert time.monotonic() - begun < 60


def check_routes(deployed: Deployed) -> None:
    """Check that the route went the way of the strategy, and that every row was routed by the route it names."""
    changes = [c.route for c in deployed.app.world.catalog.history("waves")]
    seen = [(r.stable, r.candidate, r.share, r.shadows) for r in changes]
    assert seen == [(1, None, 0.0, ()), (1, None, 0.0, (2,)), (1, 2, 0.25, ()), (2, None, 0.0, ())]
    by_revision = {r.revision: r for r in changes}
    for row in deployed.raw("predictions").iter_rows(named=True):
        route = by_revision[row["route_revision"]]
        allowed = route.shadows if row["role"] == "shadow" else (route.stable, route.candidate)
        assert row["assigned_version"] in allowed and row["rollout"] == route.rollout


def test_a_gateway_that_is_told_to_stop_seals_all_it_answered_and_a_loop_lets_go_at_once(deployed: Deployed) -> None:
    deployed.start("serve")
    deployed.start("loop")
    until(deployed.is_ready)
    with Users(deployed, num_threads=4, pause_s=0.0) as users:
        until(lambda: len(users.answers) > 200 and deployed.app.world.journal.lease("loop/waves"))
        assert deployed.stop("serve") == 0
    assert all(s.sealed for s in Segments(deployed.app.world.home.segments).present())
    assert set(users.statuses) <= {0, 200, 202}
    assert deployed.stop("loop") == 0
    assert deployed.app.world.journal.lease("loop/waves") is None
    deployed.drained()
    check_log(deployed, users)


def test_up_starts_a_killed_gateway_again_and_takes_all_down_with_it(deployed: Deployed) -> None:
    up = psutil.Process(deployed.start("up").pid)
    until(deployed.is_ready)

    def child(command: str) -> psutil.Process | None:
        return next((p for p in up.children() if command in p.cmdline()), None)

    first = until(lambda: child("serve"))
    with Users(deployed) as users:
        until(lambda: users.answers)
        first.kill()
        until(lambda: users.statuses[0])
        num = len(users.answers)
        until(lambda: len(users.answers) > num + 20)
    assert child("serve") != first and child("loop") is not None
    below = up.children(recursive=True)
    assert deployed.stop("up") == 0
    assert not any(process.is_running() for process in below)
    assert "tidemill serve ended with code -9" in (deployed.folder / "up.log").read_text()
    deployed.drained()
    check_log(deployed, users)


def test_a_rollback_reaches_users_within_a_second_and_needs_no_loop(deployed: Deployed) -> None:
    world, now = deployed.app.world, SystemClock().now()
    with world.db.begin() as conn:
        version = world.catalog.add_model(
            conn, "waves", replace(world.catalog.model("waves", 1), version=0, run="again")
        )
        route = Route(
            revision=deployed.route.revision, stable=1, candidate=version, share=0.5, salt="s", rollout="waves-1",
            lapses_at=now + timedelta(hours=1),
        )  # fmt: skip
        world.catalog.set_route(conn, "waves", route, now=now, by="test", reason="")
    deployed.start("serve")
    until(deployed.is_ready)
    seen: list[tuple[float, int]] = []
    with Users(deployed) as users:
        until(lambda: {a["version"] for a in list(users.answers.values())} == {1, version})
        deployed.app.rollback(by="ann", reason="a customer called")
        at = time.monotonic()
        while time.monotonic() - at < 2.0:
            asked = time.monotonic()
            _, answer = deployed.request("POST", "/v1/predict", {"inputs": {"x": 0, "y": 0}, "unit": f"u{len(seen)}"})
            seen.append((asked - at, answer["version"]))
    late = max((second for second, by in seen if by == version), default=0.0)
    assert late < 1.0, f"the candidate still answered {late:.2f} s after the rollback"
    assert sum(second > 1.0 for second, _ in seen) > 20
