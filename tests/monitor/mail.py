"""The project of the monitor's suites, and rows of its log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from log_rows import Mill

import tidemill as tm
from tidemill.clock import from_micros
from tidemill.monitor.outcomes import Window
from tidemill.project import Project
from tidemill.records import Feedback, Prediction
from tidemill.testing.fakes import MajorityTrainer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HORIZON_S = 60


def mail(**changes: Any) -> Project:
    """A project that sorts mail: a number, a text, an image and two tags."""
    usual: dict[str, Any] = {
        "name": "mail",
        "inputs": {
            "text": tm.Text(), "num_links": tm.Number(), "logo": tm.Image((2, 2)),
            "country": tm.Category(tag=True), "age": tm.Number(tag=True),
        },
        "output": tm.Classes(["ham", "spam"]),
        "trainer": MajorityTrainer(),
        "metrics": [
            tm.metrics.Accuracy(), tm.metrics.F1("spam"), tm.metrics.LogLoss(), tm.metrics.EventRate("undo", False)
        ],
        "cohorts": {"dutch": "country = 'NL'", "young": "age < 30", "linked": "num_links > 1"},
        "strategy": tm.Strategy(label=tm.label.Queue() | tm.label.Feedback(horizon=f"{HORIZON_S}s")),
    }  # fmt: skip
    return Project(**{**usual, **changes})


def row(mill: Mill, number: int, second: float = 0.0, **changes: Any) -> Prediction:
    """Request `number`, received `second` seconds after noon, that version 1 decided to be ham."""
    usual: dict[str, Any] = {
        "request_id": f"r{number}", "received_at": mill.at(second), "role": "answer", "unit": f"u{number}",
        "subject": None, "rollout": None, "share": 0.0, "salt": "", "route_revision": 1, "assigned_version": 1,
        "answered_version": 1, "fallback_reason": None, "error": None, "policy_version": 1,
        "tags": {"country": "NL", "age": 40.0}, "inputs": {"text": "hi", "num_links": 0.0, "logo": bytes(4)},
        "scores": [0.75, 0.25], "decision": "ham", "abstained": False, "cached": False, "latency_ms": 2.0,
        "keep_probability": 1.0,
    }  # fmt: skip
    return Prediction(**{**usual, **changes})


def tell(mill: Mill, number: int, second: float, value: Any, **changes: Any) -> Feedback:
    """Feedback on request `number`: a label of the crowd unless told otherwise."""
    usual = {"request_id": f"r{number}", "kind": "label", "source": "http", "trust": "crowd"}
    return Feedback(received_at=mill.at(second), value=value, **{**usual, **changes})


def everything(mill: Mill) -> Window:
    """All there is in the log."""
    return Window(after=None, until=from_micros(mill.at(10**6)))
