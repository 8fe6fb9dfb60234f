"""How the loop stands: its stages with a figure each, what is wrong, and what waits for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from tidemill.app import App
from tidemill.clock import from_micros, micros
from tidemill.dashboard.loop_strip import Stage, State, strip
from tidemill.dashboard.shown import ago, count
from tidemill.dashboard.view import Asked
from tidemill.loop.schema_in_force import Waiting
from tidemill.records import Cycle, Json, Route, Verdict
from tidemill.stores.alerts import OpenAlert
from tidemill.stores.commands import Command
from tidemill.stores.journal import GivenVerdict
from tidemill.stores.logfiles import LogFiles
from tidemill.stores.routes import RouteChange
from tidemill.strategy.wording import counted

_DAY = timedelta(days=1)
_STEPS = ("form", "train", "test", "release")
_NUM_CYCLES, _NUM_VERDICTS = 12, 8


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Something that a person has to do: what, where, and since when."""

    text: str
    href: str
    verb: str
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One look at the loop; `loop` is the process that turns it, None where none does."""

    route: Route | None
    since: RouteChange | None
    cycle: Cycle | None
    cycles: list[Cycle]
    loop: str | None
    paused_at: datetime | None
    num_day: int
    last_at: datetime | None
    num_labelled: int
    num_waiting: int
    alerts: list[OpenAlert]
    untold: list[OpenAlert]
    commands: list[Command]
    verdicts: list[GivenVerdict]
    watching: Verdict | None
    rollout: Verdict | None
    waiting_since: datetime | None
    trouble: Json
    waiting: Waiting | None
    picture: Markup
    waits: list[Wait]


def standing(asked: Asked) -> Standing:
    """Return how the loop stands, from a few small reads."""
    app, w = asked.app, asked.app.world
    cycle, changes = w.journal.cycle(app.name), w.catalog.history(app.name)
    route = changes[-1].route if changes else None
    rollout = None if cycle is None else w.journal.state(app.name, f"release.{cycle.number}")
    watching = w.journal.state(app.name, "watch") or {}
    facts = {
        "route": route,
        "since": next((c for c in changes if route is not None and c.route.stable == route.stable), None),
        "cycle": cycle,
        "cycles": w.journal.cycles(app.name)[-_NUM_CYCLES:],
        "loop": app.turning(),
        "paused_at": w.catalog.paused_at(app.name),
        "num_day": _num_rows(app, asked.now - _DAY, asked.now),
        "last_at": w.log.last_at(app.name),
        "num_labelled": w.reservoir.num_labelled(app.name),
        "num_waiting": w.reservoir.num_waiting(app.name),
        "alerts": w.alerts.standing(app.name),
        "untold": w.alerts.untold(app.name),
        "commands": w.journal.waiting(app.name),
        "verdicts": w.journal.verdicts(app.name, limit=_NUM_VERDICTS),
        "watching": _verdict(watching.get("verdict")),
        "rollout": _verdict((rollout or {}).get("verdict")),
        "waiting_since": _waiting_since(app, cycle),
        "trouble": w.journal.trouble(app.name),
        "waiting": app.waiting,
    }
    bare = Standing(**facts, picture=Markup(), waits=[])  # type: ignore[arg-type]
    share = route.share if route is not None and route.candidate is not None else None
    picture = strip(_stages(bare, app, asked.now), share=share, is_paused=bare.paused_at is not None)
    return Standing(**{**facts, "picture": picture, "waits": list(_waits(bare))})  # type: ignore[arg-type]


def _verdict(found: Json) -> Verdict | None:
    return None if found is None else Verdict.from_json(found)


def _num_rows(app: App, after: datetime, until: datetime) -> int:
    """Return about how many predictions were received in a span: files that lie in it partly count in part."""
    first, last, total = micros(after), micros(until), 0.0
    for file in LogFiles(app.db, app.world.home.log).find(app.name, "predictions", first=first, last=last):
        whole = max(file.last_at - file.first_at, 1)
        inside = min(file.last_at, last) - max(file.first_at, first)
        total += file.num_rows * min(1.0, max(0.0, inside) / whole if whole > 1 else 1.0)
    return round(total)


def _waiting_since(app: App, cycle: Cycle | None) -> datetime | None:
    """Return since when a candidate waits for a person's word, None where none does."""
    if cycle is None or cycle.step != "test":
        return None
    found = app.journal.step(app.name, cycle.number, "test.waiting")
    return None if found is None else from_micros(found["asked_at"]) if "asked_at" in found else cycle.opened_at


# --- the stages


def _stages(now: Standing, app: App, at: datetime) -> list[Stage]:
    return [
        Stage(name="Log", figure=count(now.num_day), href="/predictions", state="steady" if now.num_day else "idle",
              note="in a day" if now.last_at is None else f"last {ago(now.last_at, at)}"),
        Stage(name="Label", figure=count(now.num_labelled), note=f"{count(now.num_waiting)} waiting", href="/label",
              state="steady" if now.num_waiting else "idle"),
        _trigger(now),
        *(_step(now, app, name) for name in _STEPS),
    ]  # fmt: skip


def _trigger(now: Standing) -> Stage:
    if now.cycle is not None:
        words = now.cycle.trigger.by
        return Stage(
            name="Trigger", figure="fired", note=f"cycle {now.cycle.number}: {words}", state="done", href="/strategy"
        )
    outcome = "no word yet" if now.watching is None else str(now.watching.outcome)
    note = "" if now.watching is None else now.watching.reason
    return Stage(name="Trigger", figure=outcome, note=note, state="now", href="/strategy")


def _step(now: Standing, app: App, name: str) -> Stage:
    title, figure, note, href = _told(now, app, name)
    return Stage(name=title, figure=figure, note=note, href=href, state=_state(now, name))


def _state(now: Standing, name: str) -> State:
    if now.cycle is None:
        return "idle"
    if now.cycle.step == name:
        return "stuck" if name in now.trouble else "now"
    return "done" if _STEPS.index(name) < _STEPS.index(now.cycle.step) else "idle"


def _told(now: Standing, app: App, name: str) -> tuple[str, str, str, str]:
    """Return the title, the figure, the note and the address of a stage of the cycle."""
    cycle = now.cycle or (now.cycles[-1] if now.cycles else None)
    candidate = cycle.candidate if cycle is not None else None
    if name == "form":
        digest = cycle.dataset if cycle is not None else None
        version = app.world.datasets.get(app.name, digest) if digest else None
        rows = "" if version is None else f"{count(version.num_train)} rows to train on"
        return "Dataset", "–" if version is None else f"no. {version.number}", rows, "/datasets"
    if name == "train":
        return "Train", "–" if candidate is None else f"version {candidate}", _run(now, name), "/models"
    if name == "test":
        figure, note = _tested(now, candidate)
        return "Test", figure, note, f"/models/{candidate}" if candidate else "/models"
    figure, note = _released(now)
    return "Release", figure, note, "/rollout"


def _run(now: Standing, name: str) -> str:
    return "training" if now.cycle is not None and now.cycle.step == name else ""


def _tested(now: Standing, candidate: int | None) -> tuple[str, str]:
    if now.waiting_since is not None:
        return "waits", "for a person's word"
    if now.cycle is not None and now.cycle.step == "test":
        return "testing", f"version {candidate}"
    found = [v for v in now.verdicts if v.step == "test" and (now.cycle is None or v.cycle == now.cycle.number)]
    return ("–", "") if not found else (str(found[0].verdict.outcome), found[0].verdict.by)


def _released(now: Standing) -> tuple[str, str]:
    route = now.route
    if route is None:
        return "–", "no version yet"
    if route.candidate is not None and route.share > 0:
        return f"{route.share:.0%} to v{route.candidate}", f"v{route.stable} has the rest"
    if route.shadows:
        return f"v{route.shadows[0]} shadow", f"v{route.stable} answers"
    return (
        f"v{route.stable} answers",
        "" if now.cycle is not None or not now.cycles else f"last: {now.cycles[-1].outcome}",
    )


# --- what waits for people


def _waits(now: Standing) -> Iterator[Wait]:
    if now.waiting_since is not None and now.cycle is not None:
        text = f"Version {now.cycle.candidate} passed its tests and waits for a person's word"
        yield Wait(text=text, verb="Approve or reject", href="/rollout", since=now.waiting_since)
    if now.waiting is not None:
        made = "/models" if now.waiting.ready is None else f"/models/{now.waiting.ready}"
        yield Wait(text=f"{now.waiting}".replace("`", ""), verb="Models", href=made)
    if now.num_waiting:
        what = f"{counted(now.num_waiting, 'example')} {'waits' if now.num_waiting == 1 else 'wait'}"
        yield Wait(text=f"{what} for a label", verb="Label", href="/label")
    for alert in now.alerts:
        yield Wait(text=f"Alert: {alert.verdict.reason}", verb="Look", href="/alerts", since=alert.opened_at)
    for alert in now.untold:
        yield Wait(text=f"Alert {alert.id} could not be told: {alert.problem}", verb="Look", href="/alerts")
    for step, trouble in now.trouble.items():
        yield Wait(
            text=f"Step {step} failed {trouble['times']} times: {trouble['error']}", verb="Look", href="/rollout"
        )
    for command in now.commands:
        text = f"{command.by} asked to {command.verb}: the loop has not taken it up"
        yield Wait(text=text, verb="Audit log", href="/audit", since=command.at)
