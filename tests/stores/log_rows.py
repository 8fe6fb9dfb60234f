"""Rows and a log to write them to, for the suites of segments, compactor and log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from tidemill.clock import micros
from tidemill.records import DeviceProfile, Feedback, Prediction
from tidemill.stores.compactor import Compacted, Compactor
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal, Lease
from tidemill.stores.log import Log
from tidemill.stores.segments import Batch, Segments, SegmentWriter

LEASE = "compactor"


def prediction(number: int, received_at: int, **changes: Any) -> Prediction:
    """A prediction of a two-class model with one text, one number and one tag."""
    row = {
        "request_id": f"request-{number:06d}", "received_at": received_at, "role": "answer", "unit": f"u{number % 7}",
        "subject": None, "rollout": None, "share": 0.0, "salt": "", "route_revision": 1, "assigned_version": 1,
        "answered_version": 1, "fallback_reason": None, "error": None, "policy_version": 1, "tags": {"country": "NL"},
        "inputs": {"text": f"text {number}", "age": float(number)}, "scores": [0.25, 0.75], "decision": "ok",
        "abstained": False, "cached": False, "latency_ms": 1.5, "keep_probability": 1.0,
    }  # fmt: skip
    return Prediction(**{**row, **changes})


def feedback(number: int, received_at: int, value: Any, **changes: Any) -> Feedback:
    """A label by a person for the prediction of that number."""
    row = {"request_id": f"request-{number:06d}", "kind": "label", "source": "queue", "trust": "people"}
    return Feedback(received_at=received_at, value=value, **{**row, **changes})


def payload(*rows: Prediction | Feedback | DeviceProfile, project: str = "p") -> bytes:
    """The frame of a batch."""
    predictions = [row for row in rows if isinstance(row, Prediction)]
    facts = [row for row in rows if isinstance(row, Feedback)]
    posted = [row for row in rows if isinstance(row, DeviceProfile)]
    return msgspec.msgpack.encode(Batch(project=project, predictions=predictions, feedback=facts, profiles=posted))


@dataclass
class Mill:
    """A gateway's folder, a compactor and the log over it."""

    folder: Path
    db: Database
    now: datetime

    def __post_init__(self) -> None:
        for name in ("segments", "log"):
            (self.folder / name).mkdir(exist_ok=True)
        self.journal = Journal(self.db)
        self.segments = Segments(self.folder / "segments")
        self.log = Log(self.db, self.segments, self.folder / "log")
        self.compactor = self.another_compactor()
        self._lease: Lease | None = None

    def another_compactor(self) -> Compactor:
        return Compactor(self.db, self.journal, Segments(self.folder / "segments"), self.folder / "log")

    def at(self, seconds: float) -> int:
        """Microseconds of a time after `now`."""
        return micros(self.now + timedelta(seconds=seconds))

    def lease(self) -> Lease:
        if self._lease is None:
            self._lease = self.journal.acquire(LEASE, "test", now=self.now, ttl=timedelta(days=999))
            assert self._lease is not None
        return self._lease

    def heir(self) -> Lease:
        """Take the lease from whoever has it, as when it ran out."""
        held = self.journal.lease(LEASE)
        if held is not None:
            self.journal.release(held)
        self._lease = None
        return self.lease()

    def writer(self, low_at: int | None = None, **changes: Any) -> SegmentWriter:
        return SegmentWriter(self.segments.folder, "gw", low_at=self.at(0) if low_at is None else low_at, **changes)

    def seal(self, *rows: Prediction | Feedback | DeviceProfile, project: str = "p") -> None:
        """Leave one sealed segment with these rows."""
        writer = self.writer(min([row.received_at for row in rows], default=0))
        writer.append(payload(*rows, project=project))
        writer.close()

    def compact(self) -> Compacted:
        return self.compactor.compact(self.lease(), now=self.now)

    def put(self, *rows: Prediction | Feedback | DeviceProfile, project: str = "p") -> None:
        """Have these rows in the log."""
        self.seal(*rows, project=project)
        self.compact()

    def files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "log").rglob("*") if path.is_file())

    def ids(self, project: str = "p", **asked: Any) -> list[str]:
        span = {"after": None, "until": self.now + timedelta(days=400)}
        return self.log.predictions(project, **{**span, **asked})["request_id"].to_list()


def keys(rows: Sequence[Prediction]) -> list[str]:
    return [row.request_id for row in sorted(rows, key=lambda row: (row.received_at, row.request_id))]
