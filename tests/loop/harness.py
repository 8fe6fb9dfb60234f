"""A deployment in one process on a manual clock: real stores, real training, real engine; only users and time are fake.

Users are drawn anew for each second from a seed, are routed by the route in force, and get the answer that the test
says their version gives. A second's facts are written once, however often the loop is killed and started again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from sqlalchemy import text

from tidemill.app import App
from tidemill.clock import ManualClock, micros
from tidemill.loop.engine import Engine
from tidemill.loop.first import train_first
from tidemill.records import Feedback, Prediction, Route, Verdict
from tidemill.runtime.ids import IdMaker
from tidemill.runtime.routing import assign
from tidemill.stores.log import Log
from tidemill.stores.segments import Batch, SegmentWriter
from tidemill.stores.tabular import examples_from

START = datetime(2026, 1, 1, tzinfo=UTC)
CALM_S = 15

PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="waves",
    inputs={"x": tm.Number(), "y": tm.Number(), "app": tm.Category(tag=True)},
    output=tm.Classes(["low", "high"]),
    unit="user",
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x", "y")]),
    metrics=[tm.metrics.Accuracy()],
    cohorts={"old_app": "app = 'v1'", "new_app": "app = 'v2'"},
    strategy=tm.Strategy(
        curate=tm.curate.Uncertain(0.3) + tm.curate.FeedbackDriven(0.3) + tm.curate.Random(0.4),
        curate_every="10s",
        label=tm.label.Queue(daily_budget=86_400) | tm.label.Feedback(trust="crowd", horizon="5s"),
        trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m"),
        dataset=tm.dataset.Everything(),
        offline=[OFFLINE],
        online=tm.online.Shadow(requests=40) >> tm.online.Gradual(
            (0.25, 1.0), guards=[tm.guard.Errors(), tm.guard.NoWorse("accuracy", trust="crowd")], min_requests=50
        ),
    ),
)
"""


def truth(x: float, y: float) -> str:
    """What is true of a request."""
    return "high" if x + y > 0 else "low"


def table(rng: np.random.Generator, num_rows: int) -> pl.DataFrame:
    """Labelled rows of the old app."""
    x, y = rng.normal(size=(2, num_rows))
    labels = [truth(a, b) for a, b in zip(x, y, strict=True)]
    return pl.DataFrame({"x": x, "y": y, "app": ["v1"] * num_rows, "label": labels})


class WatchedLog(Log):
    """The log, which notes how many predictions, and how much feedback, it gave at most at a time."""

    def __init__(self, log: Log) -> None:
        vars(self).update(vars(log))
        self.most: dict[str, int] = {}

    def _read(self, project: str, kind: str, *args: Any, **options: Any) -> pl.DataFrame:
        found = super()._read(project, kind, *args, **options)
        self.most[kind] = max(self.most.get(kind, 0), len(found))
        return found


@dataclasses.dataclass
class Harness:
    """`accuracy[(version, app)]` says how often a version is right; `new_share` how many users have the new app."""

    folder: Path
    app: App
    clock: ManualClock
    accuracy: dict[tuple[int, str], float] = dataclasses.field(default_factory=dict)
    new_share: float = 0.0
    rate: int = 40
    feedback_share: float = 0.5
    lie: bool = False
    failing: frozenset[int] = frozenset()
    labels_people: bool = True
    num_units: int = 10**9
    thumbs: bool = False  # users say whether they like an answer, and rate it 5 or 2, instead of what is true
    engine: Engine | None = None

    @classmethod
    def make(
        cls, folder: Path, *, project: str = PROJECT, offline: str = "tm.offline.NoWorse('accuracy', by='cohort')"
    ) -> Harness:
        """Open a home with version 1 in traffic."""
        harness = cls.open(folder, project=project, offline=offline)
        examples = examples_from(table(np.random.default_rng(1), 300), harness.app.project.schema, now=START)
        train_first(harness.app.world, examples, clock=_Waiting(harness.clock), progress=lambda _: None)
        return harness

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        project: str = PROJECT,
        offline: str = "tm.offline.NoWorse('accuracy', by='cohort')",
        now: datetime = START,
    ) -> Harness:
        """Open a home as a process that starts does."""
        file = folder / "waves_project.py"
        if not file.exists():
            file.write_text(project.replace("OFFLINE", offline))
        clock = ManualClock(now)
        return cls(folder, App.open(str(file), folder / "home", clock=clock), clock)

    @property
    def name(self) -> str:
        return self.app.name

    @property
    def route(self) -> Route:
        found = self.app.world.catalog.route(self.name)
        assert found is not None
        return found

    # --- one second of the world

    def second(self) -> None:
        """Let a second pass: users ask and report, people label, and the loop turns until it rests."""
        self.clock.sleep(1)
        self.users()
        if self.labels_people:
            self.people()
        self.turn()

    def seconds(self, number: int) -> None:
        for _ in range(number):
            self.second()

    def turn(self) -> None:
        """Turn until nothing is left to do now; a training is waited for."""
        engine = self.engine = self.engine or self.app.engine()
        for _ in range(2000):
            if not engine.turn() and not self.is_training():
                break
            if self.is_training():
                _real_pause()
        else:
            raise AssertionError("the loop never came to rest")
        engine.drain()

    def until_tested(self) -> int:
        """Let time pass until a candidate is trained and awaits its test; return how many seconds that took."""
        for second in range(1, 200):
            self.clock.sleep(1)
            self.users()
            self.people()
            engine = self.app.engine()
            while engine.turn() or self.is_training():
                cycle = self.app.world.journal.cycle(self.name)
                if cycle is not None and cycle.step == "test":
                    engine.drain()
                    return second
                _real_pause()
            engine.drain()
        raise AssertionError("no candidate came")

    def is_training(self) -> bool:
        """Whether the open cycle is at its training."""
        cycle = self.app.world.journal.cycle(self.name)
        return cycle is not None and cycle.step == "train"

    def users(self) -> None:
        """Write the facts of this second, unless they are written."""
        now = self.clock.now()
        mark = self.folder / f"facts-{micros(now)}"
        if mark.exists():
            return
        rng = np.random.default_rng(micros(now) // 1_000_000)
        ids = IdMaker(self.app.world.catalog.secret(self.name), nonce=1, counter=int(rng.integers(1 << 20)))
        predictions, feedback, route = [], [], self.route
        for i in range(self.rate):
            rows, told = self._user(rng, micros(now) - 1_000_000 + i * (1_000_000 // self.rate), ids, route)
            predictions += rows
            feedback += told
        batch = Batch(project=self.name, predictions=predictions, feedback=feedback)
        writer = SegmentWriter(self.app.world.home.segments, f"users-{micros(now)}", low_at=micros(now) - 2_000_000)
        writer.append(msgspec.msgpack.encode(batch))
        writer.close()
        mark.touch()

    def _user(
        self, rng: np.random.Generator, at: int, ids: IdMaker, route: Route
    ) -> tuple[list[Prediction], list[Feedback]]:
        x, y = (float(v) for v in rng.normal(size=2))
        app = "v2" if rng.random() < self.new_share else "v1"
        unit, right = f"user-{rng.integers(self.num_units)}", truth(x, y)
        assigned = assign(route, unit, at)
        draw, says = rng.random(), rng.random() < self.feedback_share
        request_id = ids.new(at)

        def row(version: int, role: str) -> Prediction:
            is_right = draw < self.accuracy.get((version, app), 0.95)
            decision = right if is_right else ("low" if right == "high" else "high")
            failed = version in self.failing and role == "answer"
            scores = [0.9, 0.1] if decision == "low" else [0.1, 0.9]
            return Prediction(
                request_id=request_id, received_at=at, role=role, unit=unit, subject=None, rollout=route.rollout,
                share=assigned.share, salt=route.salt, route_revision=route.revision, assigned_version=version,
                answered_version=route.stable if failed else version, fallback_reason="raised" if failed else None,
                error=None, policy_version=1, tags={"app": app}, inputs={"x": x, "y": y}, scores=scores,
                decision=decision, abstained=False, cached=False, latency_ms=1.0, keep_probability=1.0,
            )  # fmt: skip

        rows = [row(assigned.version, "answer"), *(row(v, "shadow") for v in route.shadows)]
        said = ("low" if right == "high" else "high") if self.lie else right
        told = Feedback(
            request_id=request_id, received_at=at + 500_000, kind="label", value=said, source="feedback", trust="crowd"
        )
        if self.thumbs:
            liked = rows[0].decision == said
            told = msgspec.structs.replace(told, kind="thumbs", value=liked)
            rated = msgspec.structs.replace(told, kind="rating", value=5.0 if liked else 2.0)
            return rows, [told, rated] if says else []
        return rows, [told] if says else []

    def people(self) -> None:
        """Answer everything that waits in the label queue, truthfully."""
        waiting = self.app.queue(limit=1000)
        if waiting:
            answers = [(e.id, truth(e.inputs["x"], e.inputs["y"])) for e in waiting]
            self.app.answer(answers, by="labeller")

    # --- what came of it

    def verdicts(self, step: str) -> list[Verdict]:
        given = self.app.world.journal.verdicts(self.name, limit=1000)[::-1]
        return [g.verdict for g in given if g.step == step]

    def outcomes(self) -> list[str | None]:
        return [c.outcome for c in sorted(self.app.world.journal.cycles(self.name), key=lambda c: c.number)]

    def until_closed(self, number: int = 1, *, limit_s: int = 400) -> None:
        """Let time pass until that cycle has ended."""
        for _ in range(limit_s):
            self.second()
            if len(self.outcomes()) >= number and self.outcomes()[number - 1] is not None:
                return
        raise AssertionError(f"cycle {number} has not ended: {self.app.status().to_json()}")

    def forget_leases(self) -> None:
        """Let the leases of a killed process run out without letting time pass."""
        with self.app.world.db.begin() as conn:
            conn.execute(text("UPDATE leases SET expires_at = 0"))

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return everything the stores hold, but for what is measured by a real clock."""
        tables = [
            "projects",
            "models",
            "routes",
            "states",
            "cycles",
            "steps",
            "verdicts",
            "commands",
            "examples",
            "queue",
            "datasets",
            "strategies",
        ]
        out: dict[str, list[tuple[Any, ...]]] = {}
        with self.app.world.db.read() as conn:
            for name in tables:
                rows = [tuple(r) for r in conn.execute(text(f"SELECT * FROM {name}"))]
                out[name] = sorted(rows, key=repr)
            out["reports"] = sorted(
                _without_latency(r) for r in conn.execute(text("SELECT version, body FROM reports"))
            )
            out["runs"] = sorted(tuple(r) for r in conn.execute(text("SELECT run, cycle, status FROM runs")))
        log = self.app.world.log.predictions(self.name, after=None, until=self.clock.now() + timedelta(days=1))
        out["log"] = log.select("request_id", "role", "answered_version").rows()
        out["projects"] = [row[:1] for row in out["projects"]]
        out["states"] = [row for row in out["states"] if row[1] != "trouble"]
        return out


def edit(h: Harness, changes: Mapping[str, str]) -> str:
    """Change the project file; return what it was."""
    file = h.folder / "waves_project.py"
    before = text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    save(file, text)
    return before


def save(file: Path, text: str) -> None:
    """Save as editors do: another file under the name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def running(h: Harness) -> Harness:
    """Let the loop turn, so that it has read the project file."""
    h.seconds(2)
    assert h.engine is not None
    return h


def _without_latency(row: Any) -> tuple[int, str]:
    body = json.loads(row[1])
    body.pop("latency_ms_p50"), body.pop("latency_ms_p99")
    return row[0], json.dumps(body, sort_keys=True)


def _real_pause() -> None:
    import time

    time.sleep(0.02)


class _Waiting:
    """A manual clock for code that waits for a real process."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        _real_pause()
