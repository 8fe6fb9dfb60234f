"""Two gateways and two loops on one PostgreSQL and one folder: all happens once, whoever is killed or stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest

import waiting
from tidemill.app import App
from tidemill.loop.first import train_first
from tidemill.stores.journal import Lease
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.segments import Segments
from tidemill.stores.tables import examples
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
TTL_S = 2.0
PATIENCE_S = 30.0

LOOP = """
import os, signal, sys, threading
from datetime import timedelta
from pathlib import Path
from tidemill.app import App
from tidemill.loop.world import Turn
from tidemill.stores.leases import Leases

acquire = Leases.acquire

def acquire_and_tell(self, name, holder, *, now, ttl):
    lease = acquire(self, name, holder, now=now, ttl=ttl)
    if name == "loop/waves":
        print("tried", now.isoformat(), "in vain" if lease is None else "and got", flush=True)
    return lease

Leases.acquire = acquire_and_tell
write, mark = Turn.write, Path(sys.argv[3])

def write_or_stop(self):
    # The worst moment for a pause: the facts are read, the strategy has decided, nothing is written yet.
    if mark.exists() and self.world.journal.cycle(self.name) is not None:
        mark.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
    return write(self)

Turn.write = write_or_stop
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
app = App.open(sys.argv[1], sys.argv[2], database=os.environ["TIDEMILL_DATABASE"])
app.engine(poll_s=0.1, lease_ttl=timedelta(seconds=float(sys.argv[4]))).run(stop)
app.close()
"""


until = partial(waiting.until, seconds=PATIENCE_S)


def pid_of(lease: Lease) -> int:
    return int(lease.holder.rpartition("/")[2])


def truth(x: float, y: float) -> str:
    return "high" if x + y > 0 else "low"


@dataclass
class Deployed:
    """A folder and a database with version 1, and the processes that share them."""

    folder: Path
    database: str
    ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file = self.folder / "waves_project.py"
        self.file.write_text(PROJECT)
        self.app = App.open(str(self.file), self.folder / "home", database=self.database)
        x, y = np.random.default_rng(1).normal(size=(2, 300))
        rows = pl.DataFrame({"x": x, "y": y, "label": [truth(a, b) for a, b in zip(x, y, strict=True)]})
        first = examples_from(rows, self.app.project.schema, now=self.app.clock.now())
        train_first(self.app.world, first, clock=self.app.clock, progress=lambda _: None, smoke=False)

    def start(self, *command: str) -> int:
        """Start a Python process; return its pid. What it says goes to `<pid>.log`."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TIDEMILL_DATABASE": self.database}
        with (self.folder / f"{len(self.processes)}.log").open("ab") as log:
            self.processes.append(subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, env=env))
        pid = self.processes[-1].pid
        (self.folder / f"{len(self.processes) - 1}.log").rename(self.folder / f"{pid}.log")
        return pid

    def start_gateway(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.ports.append(port)
        self.start("-m", "tidemill.cli", "serve", "--home", str(self.folder / "home"), "--port", str(port))

    def start_loop(self) -> int:
        return self.start("-c", LOOP, str(self.file), str(self.folder / "home"), str(self.mark), str(TTL_S))

    @property
    def mark(self) -> Path:
        """While it is there, the next loop that is about to write in an open cycle stops instead."""
        return self.folder / "stop-here"

    def said(self, pid: int) -> str:
        return (self.folder / f"{pid}.log").read_text()

    def is_ready(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    # --- who works

    def lease(self) -> Lease | None:
        return self.app.world.journal.lease("loop/waves")

    def holder(self) -> int | None:
        """Return the pid of the loop that holds the lease."""
        lease = self.lease()
        return None if lease is None else pid_of(lease)

    def taken_over_from(self, pid: int) -> float:
        """Wait until another loop holds the lease, which it got when it first asked after its end.

        Return how many seconds that took.
        """
        began = time.monotonic()
        seen: list[Lease] = []  # it may have been renewed at the last moment

        def is_taken() -> bool:
            lease = self.lease()
            seen.extend([lease] if lease is not None and pid_of(lease) == pid else [])
            return lease is not None and pid_of(lease) != pid

        until(is_taken)
        took_s = time.monotonic() - began
        ended, holder = seen[-1], self.holder()
        assert holder is not None
        # It says so only after it has it.
        until(lambda: any(got and at >= ended.expires_at for at, got in self.tries(holder)))
        tries = self.tries(holder)
        assert next(got for at, got in tries if at >= ended.expires_at)
        in_vain = [at for at, _ in tries if ended.expires_at - timedelta(seconds=TTL_S) < at < ended.expires_at]
        assert len(in_vain) > 1, "it asks again and again while another holds the lease"
        return took_s

    def tries(self, pid: int) -> list[tuple[datetime, bool]]:
        """Return when a loop asked for the lease, and whether it got it."""
        said = [line.split(" ", 2) for line in self.said(pid).splitlines(keepends=True) if line.startswith("tried ")]
        return [(datetime.fromisoformat(at), how == "and got\n") for _, at, how in said if how.endswith("\n")]

    def step(self) -> str | None:
        cycle = self.app.world.journal.cycle("waves")
        return None if cycle is None else cycle.step

    def outcomes(self) -> list[str | None]:
        return [cycle.outcome for cycle in self.app.world.journal.cycles("waves")]

    # --- the end

    def terminate(self, *pids: int) -> None:
        """End processes as an operator does."""
        mine = [process for process in self.processes if process.pid in pids]
        for process in mine:
            process.terminate()
        for process in mine:
            assert process.wait(PATIENCE_S) == 0, self.said(process.pid)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for job in (self.folder / "home" / "runs").rglob(runner.PROCESS):
            runner.kill(job.parent)
        self.app.close()


class Users:
    """Ask one gateway each and tell what was true; remember what was acknowledged."""

    def __init__(self, ports: list[int]) -> None:
        self.answers: dict[int, set[str]] = {port: set() for port in ports}
        self.told: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(port,), daemon=True) for port in ports * 2]

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, port: int) -> None:
        rng = np.random.default_rng([port, threading.get_ident() % 2**31])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not self._stop.wait(0.02):
            x, y = (float(v) for v in rng.normal(size=2))
            unit = f"user-{rng.integers(10**9)}"
            status, answer = self._post(connection, "/v1/predict", {"inputs": {"x": x, "y": y}, "unit": unit})
            assert status == 200, answer
            self.answers[port].add(answer["request_id"])
            if rng.random() < 0.6:
                said = {"request_id": answer["request_id"], "label": truth(x, y)}
                assert self._post(connection, "/v1/feedback", said)[0] == 202
                self.told.add(answer["request_id"])
        connection.close()

    def _post(self, connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
def deployed(tmp_path: Path, postgres_url: str) -> Iterator[Deployed]:
    made = Deployed(tmp_path, postgres_url)
    yield made
    made.end()


def test_two_gateways_and_two_loops_do_everything_once(deployed: Deployed, postgres: Any, postgres_url: str) -> None:
    """One loop is killed in the middle of a cycle, one is stopped in the middle of the next and goes on later.

    In between the server ends all sessions, as a restart of it does.
    """
    loops = [deployed.start_loop() for _ in range(2)]
    for _ in range(2):
        deployed.start_gateway()
    until(lambda: all("tried" in deployed.said(pid) for pid in loops) and deployed.holder())
    until(lambda: all(map(deployed.is_ready, deployed.ports)))
    with Users(deployed.ports) as users:
        kill_the_holder(deployed)
        third = deployed.start_loop()
        until(lambda: "tried" in deployed.said(third))
        cut_all_off(postgres, postgres_url)
        revived = stop_the_holder_and_let_it_go_on(deployed)
    deployed.terminate(*[p.pid for p in deployed.processes if "serve" in p.args])  # type: ignore[operator]
    until(lambda: not Segments(deployed.app.world.home.segments).present())
    deployed.terminate(*{third, revived, *filter(None, [deployed.holder()])})
    check_log(deployed, users)
    check_cycles(deployed)
    check_route(deployed)
    check_curation(deployed)


def kill_the_holder(deployed: Deployed) -> None:
    """Kill the loop at work while its cycle trains: the other one goes on with the same training."""
    deployed.app.ask("retrain", by="test")
    until(lambda: deployed.step() == "train")
    holder = deployed.holder()
    assert holder is not None
    os.kill(holder, signal.SIGKILL)
    assert deployed.taken_over_from(holder) < TTL_S + 3
    until(lambda: deployed.outcomes() == ["promoted"])


def cut_all_off(postgres: Any, url: str) -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


def stop_the_holder_and_let_it_go_on(deployed: Deployed) -> int:
    """Stop the loop at work when it has decided and not yet written, and let it go on when another one has finished."""
    deployed.app.ask("retrain", by="test")
    until(lambda: deployed.step() is not None)
    deployed.mark.touch()
    holder = until(lambda: next((p.pid for p in deployed.processes if is_stopped(p.pid)), None))
    assert deployed.holder() == holder
    assert deployed.taken_over_from(holder) < TTL_S + 3
    until(lambda: deployed.outcomes() == ["promoted", "promoted"])
    before = written(deployed)
    os.kill(holder, signal.SIGCONT)
    until(lambda: "was taken over" in deployed.said(holder))
    time.sleep(5 * 0.1)  # turns in which it only waits for its chance
    assert psutil.Process(holder).status() != psutil.STATUS_ZOMBIE
    assert written(deployed) == before
    return int(holder)


def is_stopped(pid: int) -> bool:
    with_status = psutil.Process(pid)
    return with_status.status() == psutil.STATUS_STOPPED


def written(deployed: Deployed) -> Any:
    """Return what cycles have left, which nothing may add to once they are closed."""
    world = deployed.app.world
    return (
        world.journal.cycles("waves"),
        world.journal.verdicts("waves", limit=1000),
        world.catalog.history("waves"),
        world.catalog.models("waves"),
        world.catalog.runs("waves"),
        world.journal.commands("waves"),
    )


def check_log(deployed: Deployed, users: Users) -> None:
    """Every acknowledged prediction and feedback of both gateways is in the log once, and nothing else."""
    files = LogFiles(deployed.app.world.db, deployed.app.world.home.log)

    def logged(kind: str) -> pl.DataFrame:
        rows = [pl.read_parquet(files.folder / f.path) for f in files.find("waves", kind)]
        return pl.concat(rows, how="diagonal_relaxed")

    answers = logged("predictions").filter(pl.col("role") == "answer")
    assert all(len(ids) > 50 for ids in users.answers.values())
    assert Counter(answers["request_id"]) == Counter(id_ for ids in users.answers.values() for id_ in ids)
    assert Counter(logged("feedback")["request_id"]) == Counter(users.told)


def check_cycles(deployed: Deployed) -> None:
    """Each command opened one cycle, and each cycle trained once, was judged once and ended once."""
    world = deployed.app.world
    assert [c.result for c in world.journal.commands("waves")] == ["opened cycle 2", "opened cycle 1"]
    assert deployed.outcomes() == ["promoted", "promoted"]
    assert [(m.version, m.cycle) for m in world.catalog.models("waves")] == [(1, None), (2, 1), (3, 2)]
    runs = [(run.run, run.status) for run in world.catalog.runs("waves")][1:]
    assert runs == [("cycle-1-attempt-1", "done"), ("cycle-2-attempt-1", "done")]
    for cycle in (1, 2):
        given = [(g.step, g.verdict.reason) for g in world.journal.verdicts("waves", cycle, limit=1000)]
        assert max(Counter(given).values()) == 1
        assert Counter(step for step, _ in given)["watch"] == 1
        assert Counter(step for step, _ in given)["test"] == 1


def check_route(deployed: Deployed) -> None:
    """The route went one way, step by step, and no step was taken twice."""
    changes = deployed.app.world.catalog.history("waves")
    assert [change.route.revision for change in changes] == list(range(1, len(changes) + 1))
    routes = [replace(change.route, revision=0, lapses_at=None) for change in changes]
    assert len(set(routes)) == len(routes)
    assert [route.stable for route in routes] == sorted(route.stable for route in routes)


def check_curation(deployed: Deployed) -> None:
    """Each slot was picked in once, by one loop, and counted once."""
    with deployed.app.world.db.read() as conn:
        rows = [row for row in conn.execute(examples.select()) if row.reason != "import"]
    moments = defaultdict(set)
    for row in rows:
        moments[row.picked_at // 1_000_000].add(row.picked_at)
    assert len(moments) >= 5
    assert {slot: at for slot, at in moments.items() if len(at) > 1} == {}
    state = deployed.app.world.journal.state("waves", "curate")
    assert state is not None
    assert state["spent"] == len(rows)
