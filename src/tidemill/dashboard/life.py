"""The life of one prediction: what happened to it, from the request to the label, with when and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tidemill.app import App
from tidemill.clock import from_micros
from tidemill.records import Example


class Event(NamedTuple):
    """Something that happened: when (None where that was not written down), what, and what of it."""

    at: datetime | None
    what: str
    said: str
    href: str = ""


def life(app: App, row: Mapping[str, Any], feedback: Sequence[Mapping[str, Any]], *, more: int = 20) -> list[Event]:
    """Return what is known of a prediction, in order; of much feedback the first `more`."""
    events = [
        Event(from_micros(row["received_at"]), "received", f"from unit {row['unit']}"), _routed(row), _answered(row),
        Event(None, "decided", _decided(row)), Event(None, "logged", _logged(row)),
    ]  # fmt: skip
    events += [_said(fact) for fact in feedback[:more]]
    example = _example(app, row["request_id"])
    return events if example is None else [*events, *_curated(app, example)]


def _routed(row: Mapping[str, Any]) -> Event:
    rollout = f", rollout {row['rollout']} with {row['share']:.0%} for the candidate" if row["rollout"] else ""
    said = f"to version {row['assigned_version']} by revision {row['route_revision']} of the route{rollout}"
    return Event(None, "routed", said)


def _answered(row: Mapping[str, Any]) -> Event:
    version = row["answered_version"]
    if not version:
        return Event(None, "failed", f"no version could answer: {row['error']}")
    why = f" instead of version {row['assigned_version']}: {row['fallback_reason']}" if row["fallback_reason"] else ""
    cached = ", from scores remembered" if row["cached"] else ""
    return Event(
        None, "answered", f"by version {version} in {row['latency_ms']:.1f} ms{cached}{why}", f"/models/{version}"
    )


def _decided(row: Mapping[str, Any]) -> str:
    silent = ", and abstained" if row["abstained"] else ""
    return f"{row['decision']!r} by policy {row['policy_version']}{silent}"


def _logged(row: Mapping[str, Any]) -> str:
    kept = row["keep_probability"]
    outlier = f"; outside what the version learnt from: {', '.join(row['outlier'])}" if row["outlier"] else ""
    return f"{'with its inputs' if kept >= 1 else f'inputs kept with probability {kept:.3g}'}{outlier}"


def _said(fact: Mapping[str, Any]) -> Event:
    value = "" if fact["value"] is None else f" {fact['value']!r}"
    return Event(
        from_micros(fact["received_at"]), "feedback", f"{fact['kind']}{value} from {fact['source']}, {fact['trust']}"
    )


def _example(app: App, request_id: str) -> Example | None:
    reservoir = app.world.reservoir
    return reservoir.examples(app.name, [request_id])[0] if reservoir.present(app.name, [request_id]) else None


def _curated(app: App, example: Example) -> list[Event]:
    chance = "" if example.probability is None else f", with probability {example.probability:.3g}"
    events = [Event(example.picked_at, "curated", f"{example.reason}{chance}; for the {example.split} split")]
    task = app.world.reservoir.task(app.name, example.id)
    if task is not None:
        done = f", done by {task.by}" if task.answered_at else ", waits for a label"
        events.append(Event(task.asked_at, "asked", f"of people{done}", "" if task.answered_at else "/label"))
    if example.label is not None:
        said = f"{example.label!r} by {example.source}, {example.trust}"
        events.append(Event(example.labelled_at, "labelled", said))
    return events
