"""What the demo shows at the end, read from the stores."""

from __future__ import annotations

from typing import Any

from tidemill.app import App
from tidemill.clock import from_micros, micros
from tidemill.monitor.outcomes import Window
from tidemill.monitor.quality import quality
from tidemill.records import Cycle


def summary(app: App, *, num_answered: int) -> dict[str, Any]:
    """Return the demo's JSON. `num_answered` is what the users counted; all else comes from the stores."""
    world = app.world
    marks = world.journal.state(app.name, "demo") or {}
    cycles = {c.number: c for c in world.journal.cycles(app.name)}
    return {
        "quality": {
            "before": _quality(app, None, marks["shift"]),
            "fallen": _quality(app, marks["shift"], _first_share_at(app)),
            "after": _quality(app, marks["recovered"], marks["poison"]),
        },
        "requests": {"answered": num_answered, "logged": _num_logged(app)},
        "retrainings": sum(c.step != "form" and c.trigger.by != "promote" for c in cycles.values()),
        "verdicts": verdicts_of(app),
        "versions": versions_of(app),
        "bad_candidate": _bad_candidate(app, cycles),
    }


def verdicts_of(app: App) -> list[dict[str, Any]]:
    """Return every verdict that was given, the oldest first."""
    given = app.world.journal.verdicts(app.name, limit=1000)[::-1]
    return [{"cycle": v.cycle, "step": v.step, "at": v.at.isoformat(), **v.verdict.to_json()} for v in given]


def versions_of(app: App) -> list[dict[str, Any]]:
    """Return the model versions and what became of them."""
    return [
        {"version": m.version, "status": m.status, "dataset": m.dataset, "cycle": m.cycle}
        for m in app.world.catalog.models(app.name)
    ]


def _first_share_at(app: App) -> int:
    """Return when a candidate first got traffic: until then, version 1 alone answered."""
    changes = [c.at for c in app.world.catalog.history(app.name) if c.route.share > 0]
    return micros(min(changes, default=app.clock.now()))


def _quality(app: App, after: int | None, until: int) -> dict[str, float | None]:
    window = Window(after=None if after is None else from_micros(after), until=from_micros(until))
    first = app.project.metrics[0].name
    found = [q for q in quality(app.world.log, app.project, window) if q.metric == first and q.cohort != "all"]
    return {q.cohort: None if q.value is None else round(q.value, 4) for q in found}


def _num_logged(app: App) -> int:
    columns = ["request_id", "answered_version"]
    log = app.world.log.predictions(app.name, after=None, until=app.clock.now(), columns=columns)
    return int((log["answered_version"] > 0).sum())


def _bad_candidate(app: App, cycles: dict[int, Cycle]) -> dict[str, Any]:
    bad, forced = cycles.get(2), cycles.get(3)
    version = bad.candidate if bad else None
    shares = [c.route.share for c in app.world.catalog.history(app.name) if version and c.route.candidate == version]
    return {
        "stopped_by_gate": bad is not None and bad.outcome == "rejected",
        "rolled_back": forced is not None and forced.candidate == version and forced.outcome == "rolled back",
        "largest_share": max(shares, default=0.0),
    }
