"""A small deployment with a past: real stores, real training, real engine, a manual clock; only users are made up.

Pictures of waves with a note: version 1 falls on a new app, cycle 1 trains and promotes version 2, a person asks for
cycle 2, and its candidate, version 3, has a share of the traffic when the story stops. Notes hold what an attacker
would write.
"""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from tidemill.app import App
from tidemill.clock import ManualClock, micros
from tidemill.loop.engine import Engine
from tidemill.loop.first import train_first
from tidemill.records import Cycle, Feedback, Prediction, Route
from tidemill.runtime.ids import IdMaker
from tidemill.runtime.routing import assign
from tidemill.stores.segments import Batch, SegmentWriter
from tidemill.stores.tabular import examples_from

START = datetime(2026, 1, 1, tzinfo=UTC)
RATE = 40
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "{{ 7 * 7 }} ${7*7} javascript:window.hacked=1",
    "=cmd|' /C calc'!A0",
]

PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="waves",
    inputs={
        "x": tm.Number(), "y": tm.Number(), "app": tm.Category(tag=True), "note": tm.Text(max_chars=500),
        "photo": tm.Image(shape=(8, 8)),
    },
    output=tm.Classes(["low", "high"]),
    unit="user",
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("x", "y")]),
    metrics=[tm.metrics.Accuracy()],
    cohorts={"old_app": "app = 'v1'", "new_app": "app = 'v2'"},
    alerts=[tm.alert.Falls("accuracy", cohort="new_app")],
    strategy=tm.Strategy(
        curate=tm.curate.Uncertain(0.3) + tm.curate.FeedbackDriven(0.3) + tm.curate.Random(0.4),
        curate_every="10s",
        label=tm.label.Queue(daily_budget=86_400) | tm.label.Feedback(trust="crowd", horizon="5s"),
        trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m"),
        dataset=tm.dataset.Everything(),
        offline=[tm.offline.NoWorse("accuracy", by="cohort")],
        online=tm.online.Shadow(requests=40) >> tm.online.Gradual(
            (0.25, 1.0), guards=[tm.guard.Errors(), tm.guard.NoWorse("accuracy", trust="crowd")], min_requests=50
        ),
    ),
)
"""


def truth(x: float, y: float) -> str:
    """What is true of a request."""
    return "high" if x + y > 0 else "low"


def photo(rng: np.random.Generator) -> bytes:
    """The pixels of a picture."""
    return rng.integers(0, 256, size=64, dtype=np.uint8).tobytes()


def rows(rng: np.random.Generator, number: int) -> pl.DataFrame:
    """Labelled rows of the old app."""
    x, y = rng.normal(size=(2, number))
    return pl.DataFrame(
        {
            "x": x, "y": y, "app": ["v1"] * number, "note": [f"calm sea {i}" for i in range(number)],
            "photo": [rng.integers(0, 256, size=(8, 8)).tolist() for _ in range(number)],
            "label": [truth(a, b) for a, b in zip(x, y, strict=True)],
        }
    )  # fmt: skip


@dataclasses.dataclass
class Story:
    """`accuracy[(version, app)]` says how often a version is right, `new_share` how many users have the new app."""

    app: App
    clock: ManualClock
    accuracy: dict[tuple[int, str], float] = dataclasses.field(default_factory=dict)
    new_share: float = 0.0
    engine: Engine | None = None

    @classmethod
    def open(cls, folder: Path, *, project: str = PROJECT, now: datetime = START) -> Story:
        """Open the home in a folder, made anew if there is none."""
        file = folder / "waves_project.py"
        if not file.exists():
            file.write_text(project)
        clock = ManualClock(now)
        return cls(App.open(str(file), folder / "home", clock=clock), clock)

    def tell(self) -> None:
        """Let everything happen."""
        examples = examples_from(rows(np.random.default_rng(1), 300), self.app.project.schema, now=START)
        train_first(self.app.world, examples, clock=_Waiting(self.clock), progress=lambda _: None)
        self.seconds(15)
        self.accuracy, self.new_share = {(1, "v2"): 0.5}, 0.6
        self.until(lambda: self.cycle(1) is not None and self.cycle(1).closed_at is not None)  # type: ignore[union-attr]
        self.seconds(5)
        self.app.ask("retrain", by="ann", reason="to see whether more labels help")
        self.until(lambda: self.route.candidate == 3 and self.route.share > 0)
        self.seconds(2)
        self.clock.sleep(1)
        self.users()
        self.turn()  # nobody labels any more: some examples wait

    @property
    def route(self) -> Route:
        found = self.app.catalog.route(self.app.name)
        assert found is not None
        return found

    def cycle(self, number: int) -> Cycle | None:
        return next((c for c in self.app.journal.cycles(self.app.name) if c.number == number), None)

    def until(self, is_so: object, most: int = 300) -> None:
        """Let time pass until something is so."""
        for _ in range(most):
            if is_so():  # type: ignore[operator]
                return
            self.seconds(1)
        raise AssertionError(self.app.status().to_json())

    def seconds(self, number: int) -> None:
        """Let seconds pass: users ask and report, people label, and the loop turns until it rests."""
        for _ in range(number):
            self.clock.sleep(1)
            self.users()
            self.people()
            self.turn()

    def turn(self) -> None:
        """Turn until nothing is left to do now; a training is waited for."""
        engine = self.engine = self.engine or self.app.engine()
        for _ in range(5000):
            is_busy = engine.turn()
            cycle = self.app.journal.cycle(self.app.name)
            is_training = cycle is not None and cycle.step == "train"
            if not is_busy and not is_training:
                break
            if is_training:
                time.sleep(0.02)
        engine.drain()

    def people(self) -> None:
        """Answer everything that waits in the label queue, truthfully."""
        waiting = self.app.queue(limit=1000)
        if waiting:
            answers = [(e.id, truth(e.inputs["x"], e.inputs["y"])) for e in waiting]
            self.app.answer(answers, by="labeller")

    def users(self) -> None:
        """Write what happens in this second."""
        now = self.clock.now()
        rng = np.random.default_rng(micros(now) // 1_000_000)
        ids = IdMaker(self.app.catalog.secret(self.app.name), nonce=1, counter=int(rng.integers(1 << 20)))
        predictions: list[Prediction] = []
        told: list[Feedback] = []
        for i in range(RATE):
            self._user(rng, micros(now) - 1_000_000 + i * (1_000_000 // RATE), ids, predictions, told)
        writer = SegmentWriter(self.app.world.home.segments, f"users-{micros(now)}", low_at=micros(now) - 2_000_000)
        writer.append(msgspec.msgpack.encode(Batch(project=self.app.name, predictions=predictions, feedback=told)))
        writer.close()

    def _user(
        self, rng: np.random.Generator, at: int, ids: IdMaker, predictions: list[Prediction], told: list[Feedback]
    ) -> None:
        route = self.route
        x, y = (float(v) for v in rng.normal(size=2))
        app = "v2" if rng.random() < self.new_share else "v1"
        unit, right, request_id = f"user-{rng.integers(10**9)}", truth(x, y), ids.new(at)
        assigned = assign(route, unit, at)
        note = HOSTILE[int(rng.integers(len(HOSTILE)))] if rng.random() < 0.3 else f"wave {rng.integers(100)}"
        inputs = {"x": x, "y": y, "app": app, "note": note, "photo": photo(rng)}
        draw = rng.random()
        for version, role in [(assigned.version, "answer"), *((v, "shadow") for v in route.shadows)]:
            is_right = draw < self.accuracy.get((version, app), 0.95)
            decision = right if is_right else ("low" if right == "high" else "high")
            predictions.append(Prediction(
                request_id=request_id, received_at=at, role=role, unit=unit, subject=None, rollout=route.rollout,
                share=assigned.share, salt=route.salt, route_revision=route.revision, assigned_version=version,
                answered_version=version, fallback_reason=None, error=None, policy_version=1, tags={"app": app},
                inputs={name: value for name, value in inputs.items() if name != "app"},
                scores=[0.9, 0.1] if decision == "low" else [0.1, 0.9], decision=decision, abstained=False,
                cached=False, latency_ms=1.0, keep_probability=1.0,
            ))  # fmt: skip
        if rng.random() < 0.5:
            said = Feedback(
                request_id=request_id, received_at=at + 500_000, kind="label", value=right, source="feedback",
                trust="crowd",
            )  # fmt: skip
            told.append(said)


class _Waiting:
    """A manual clock for code that waits for a real process."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        time.sleep(0.02)


def end_of(folder: Path) -> datetime:
    """Return when the story in a folder stopped."""
    return datetime.fromisoformat((folder / "stopped_at").read_text())


def tell(folder: Path) -> None:
    """Let the story happen in a folder."""
    story = Story.open(folder)
    story.tell()
    (folder / "stopped_at").write_text((story.clock.now() + timedelta(seconds=1)).isoformat())
    story.app.close()
