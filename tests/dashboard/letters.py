"""A home whose log holds nothing but requests of one text each, as many and as long as a test wants."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from tidemill.app import App
from tidemill.clock import ManualClock, micros
from tidemill.records import Feedback, Prediction
from tidemill.stores.segments import Batch, SegmentWriter

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="letters", inputs={"note": tm.Text(max_chars=2_000_000)}, output=tm.Classes(["low", "high"]),
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.HashedNgrams("note", bits=8)]),
    metrics=[tm.metrics.Accuracy()],
)
"""


def letters(folder: Path, notes: list[str], *, told: int = 0, failed: Collection[int] = (), num_files: int = 1) -> App:
    """Return a home whose log has a prediction for each note, one every millisecond; `told` words on the first.

    Those that `failed`, by their number, were not answered. The log lies in so many files, each with as many rows.
    """
    (folder / "letters.py").write_text(PROJECT)
    app = App.open(str(folder / "letters.py"), folder / "home", clock=ManualClock(NOON))
    begin, size, engine = micros(NOON - timedelta(minutes=10)), len(notes) // num_files, app.engine()
    for number in range(num_files):
        writer = SegmentWriter(app.world.home.segments, f"s{number}", low_at=begin + 1000 * number * size)
        last = (number + 1) * size
        for first in range(number * size, last, 100):
            of = range(first, min(first + 100, last))
            rows = [_row(begin + 1000 * i, i, notes[i], "boom" if i in failed else None) for i in of]
            writer.append(msgspec.msgpack.encode(Batch(project="letters", predictions=rows, feedback=[])))
        writer.append(msgspec.msgpack.encode(Batch(project="letters", predictions=[], feedback=_said(begin, told))))
        writer.close()
        engine.turn()
        told = 0
    engine.drain()
    return app


def _said(begin: int, num: int) -> list[Feedback]:
    return [
        Feedback(request_id="r0000000", received_at=begin + i, kind="event", value="x" * 100, source="s", trust="crowd")
        for i in range(num)
    ]


def _row(at: int, number: int, note: str, error: str | None) -> Prediction:
    return Prediction(
        request_id=f"r{number:07}", received_at=at, role="answer", unit=f"u{number}", subject=None, rollout=None,
        share=0.0, salt="", route_revision=1, assigned_version=1, answered_version=1, fallback_reason=None, error=error,
        policy_version=1, tags={}, inputs={"note": note}, scores=[0.9, 0.1], decision="low", abstained=False,
        cached=False, latency_ms=1.0, keep_probability=1.0,
    )  # fmt: skip
