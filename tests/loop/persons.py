"""A deployment whose requests are about persons: each writes a word of their own, which tells all their bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from sqlalchemy import select

from tidemill.app import App
from tidemill.clock import ManualClock, micros
from tidemill.loop.first import train_first
from tidemill.loop.suites import add_logged
from tidemill.records import DeviceProfile, Feedback, Prediction
from tidemill.runtime.ids import IdMaker
from tidemill.stores.segments import Batch, SegmentWriter
from tidemill.stores.tables import metadata
from tidemill.stores.tabular import examples_from

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = START + timedelta(minutes=1)
WORDS = {"ann": "zzannzz", "bob": "zzbobzz", "cid": "zzcidzz"}
PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="notes",
    inputs={"text": tm.Text(), "length": tm.Number()},
    output=tm.Classes(["calm", "storm"]),
    unit="user",
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.HashedNgrams("text", bits=8)]),
    suites=[tm.suites.Cases("past_bugs", "suites/past_bugs.jsonl")],
    strategy=tm.Strategy(
        curate=tm.curate.Random(),
        curate_every="10s",
        label=tm.label.Queue(daily_budget=86_400) | tm.label.Feedback(trust="people", horizon="5s"),
        trigger=tm.trigger.Manual(),
        dataset=tm.dataset.Everything(),
        offline=[tm.offline.Suites()],
        online=tm.online.Now(),
    ),
)
"""


class Persons:
    """A home that has served, curated, labelled and retrained."""

    def __init__(self, folder: Path, *, now: datetime = START, database: str | None = None) -> None:
        self.folder = folder
        file = folder / "notes_project.py"
        if not file.exists():
            file.write_text(PROJECT)
            (folder / "suites").mkdir()
            (folder / "suites" / "past_bugs.jsonl").write_text(
                '{"inputs": {"text": "by hand", "length": 7}, "label": "calm"}\n'
            )
        self.clock = ManualClock(now)
        self.app = App.open(str(file), folder / "home", database=database, clock=self.clock)

    @classmethod
    def make(cls, folder: Path, *, database: str | None = None) -> Persons:
        """Have the requests of every person in the log, in the reservoir and in the queue."""
        persons = cls(folder, database=database)
        persons.turn()  # curation looks at what comes from here on
        persons.clock.sleep(11)
        told = persons.ask(rows=8, seed=1)
        persons.ask(rows=2, seed=2, feedback=False)
        for device in WORDS:
            persons.post(device)
        persons.clock.sleep(20)
        persons.turn()
        persons.app.labelling.take(100, by="lea")
        for subject in WORDS:
            persons.case(next(row.request_id for row in told if row.subject == subject))
        return persons

    @property
    def world(self) -> Any:
        return self.app.world

    def train(self) -> None:
        """Make version 1 of rows that are about nobody."""
        rng = np.random.default_rng(1)
        texts = [text_of(rng, "") for _ in range(10)]
        frame = pl.DataFrame(
            {"text": texts, "length": [float(len(t)) for t in texts], "label": [truth(t) for t in texts]}
        )
        waiting = _Waiting(self.clock)
        examples = examples_from(frame, self.app.project.schema, now=START - timedelta(days=1))
        train_first(self.world, examples, clock=waiting, progress=lambda _: None)

    def ask(self, *, rows: int = 8, seed: int = 1, feedback: bool = True) -> list[Prediction]:
        """Let every person, and people without a name, send so many requests, and learn what was true of them."""
        self.clock.sleep(1)
        now, rng = micros(self.clock.now()), np.random.default_rng(seed)
        ids = IdMaker(self.world.catalog.secret("notes"), nonce=seed, counter=1)
        predictions, told = [], []
        for at in range(rows):
            for subject, word in (*WORDS.items(), (None, "")):
                text = text_of(rng, word)
                row = prediction(ids.new(now - 1_000_000), now - 1_000_000 + at, subject, word, text)
                predictions.append(row)
                told.append(
                    Feedback(
                        request_id=row.request_id, received_at=now - 500_000, kind="label", value=truth(text),
                        source="feedback", trust="people",
                    )
                )  # fmt: skip
        self.write(Batch(project="notes", predictions=predictions, feedback=told if feedback else []), f"g{seed}")
        return predictions

    def write(self, batch: Batch, name: str) -> None:
        writer = SegmentWriter(self.world.home.segments, name, low_at=micros(self.clock.now()) - 2_000_000)
        writer.append(msgspec.msgpack.encode(batch))
        writer.close()

    def post(self, device: str) -> None:
        now = micros(self.clock.now())
        profile = DeviceProfile(device=device, received_at=now, after=now - 10, until=now - 5, body=device.encode())
        self.write(Batch(project="notes", profiles=[profile]), f"profile-{device}")

    def turn(self) -> None:
        """Turn until nothing is left to do."""
        engine = self.app.engine()
        for _ in range(3000):
            did = engine.turn()
            cycle = self.world.journal.cycle("notes")
            if not did and (cycle is None or cycle.step != "train"):
                break
            if cycle is not None and cycle.step == "train":
                _pause()
        engine.drain()

    def forget(self, subject: str, **how: Any) -> Any:
        """Forget a person, as the loop does."""
        number = self.app.forget(subject, by="ann", **how)
        self.clock.sleep(1)
        self.finish()
        return self.app.erasure(number)

    def finish(self) -> None:
        engine = self.app.engine()
        while engine.take("forget"):
            pass
        engine.let_go()

    def case(self, request_id: str) -> None:
        add_logged(self.world, "past_bugs", [request_id], label=None, note="", by="ann", now=self.clock.now())

    def rows(self) -> dict[str, list[Any]]:
        """Return all that is kept of the log, the reservoir and the tables, by kind, to be compared."""
        world, until = self.world, self.clock.now() + timedelta(days=1)
        log = world.log
        shadows = log.predictions("notes", after=None, until=until, role="shadow").rows()
        out: dict[str, list[Any]] = {
            "predictions": log.predictions("notes", after=None, until=until).to_dicts() + list(shadows),
            "feedback": log.feedback("notes", after=None, until=until).to_dicts(),
        }
        ids = world.reservoir.index("notes")["id"].to_list()
        out["examples"] = [vars(one) for one in world.reservoir.examples("notes", ids)]
        with world.db.read() as conn:
            for table in metadata.sorted_tables:
                if table.name not in ("examples", "erasures", "audit", "leases", "log_files", "consumed", "states"):
                    out[table.name] = sorted(map(repr, conn.execute(select(table))))
        return out

    def close(self) -> None:
        self.app.close()


def prediction(id_: str, at: int, subject: str | None, word: str, text: str, **more: Any) -> Prediction:
    unit = f"unit-{word}" if word else id_
    said = {
        "request_id": id_, "received_at": at, "role": "answer", "unit": unit, "subject": subject, "rollout": None,
        "share": 0.0, "salt": "", "route_revision": 1, "assigned_version": 1, "answered_version": 1,
        "fallback_reason": None, "error": None, "policy_version": 1, "tags": {},
        "inputs": {"text": text, "length": float(len(text))}, "scores": [0.3, 0.7], "decision": "storm",
        "abstained": False, "cached": False, "latency_ms": 1.0, "keep_probability": 1.0,
    }  # fmt: skip
    return Prediction(**{**said, **more})


def truth(text: str) -> str:
    return "storm" if "wind" in text else "calm"


def text_of(rng: np.random.Generator, word: str) -> str:
    words = rng.choice(["tide", "wind", "sand", "boat", "salt", "stone", "gull", "rope"], 5)
    return " ".join([*words, word, str(rng.integers(10**6))])


def holding(folder: Path, *words: str) -> list[str]:
    """Return the files of a folder that hold one of these words."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            texts = [data, *_unpacked(path)]
            if any(word.encode() in text for word in words for text in texts):
                found.append(str(path.relative_to(folder)))
    return found


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield what a reader sees of a compressed file: a word is found in it too."""
    if path.suffix == ".parquet":
        for row in pl.read_parquet(path).rows():
            yield repr(row).encode()
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            for name in arrays.files:
                yield arrays[name].tobytes()


@contextmanager
def opened(folder: Path, **how: Any) -> Iterator[Persons]:
    persons = Persons(folder, **how)
    yield persons
    persons.close()


class _Waiting:
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        _pause()


def _pause() -> None:
    time.sleep(0.02)
