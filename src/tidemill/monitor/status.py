"""What a person wants to know at a glance: route, cycle, last verdicts with reasons, quality by cohort, trouble."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from tidemill.clock import from_micros
from tidemill.monitor.outcomes import Window, horizon
from tidemill.monitor.quality import Quality, quality
from tidemill.project import Project
from tidemill.records import Cycle, Json, Route
from tidemill.stores.alerts import Alerts, OpenAlert
from tidemill.stores.catalog import Catalog
from tidemill.stores.journal import Command, GivenVerdict, Journal
from tidemill.stores.log import Log
from tidemill.stores.reservoir import Reservoir
from tidemill.strategy.label import UNLIMITED


@dataclass(frozen=True, kw_only=True)
class Status:
    """One project now.

    `loop` names the process that turns the loop (host/pid), None where none does; `known_until` is up to when it can
    know all that came. `trouble` holds, by step, what it raised last and since when it is tried again; `batches`, by
    name, how each scheduled batch prediction stands (see `tidemill.loop.batch`). `untold` are alerts that the webhook
    does not take. `num_maturing` is about how many requests are too young to be judged, since feedback counts for a
    `horizon`; `picks` are how many requests became examples, and how many the label budget has allowed until now, None
    where it has no end. `waits` says what of the project file is not in force yet, and the next move. `problem` says
    why what needs the project file (`quality`, `batches`, `num_maturing`, `picks`, `waits`) is missing.
    """

    project: str
    now: datetime
    route: Route | None
    paused_at: datetime | None
    cycle: Cycle | None
    versions: dict[int, str]
    watching: Json
    rollout: Json
    verdicts: list[GivenVerdict]
    commands: list[Command]
    quality: list[Quality]
    num_examples: int
    num_labelled: int
    num_waiting: int
    trouble: Json
    batches: Json
    alerts: list[OpenAlert]
    untold: list[OpenAlert]
    loop: str | None = None
    known_until: datetime | None = None
    horizon: timedelta = timedelta(0)
    num_maturing: int = 0
    picks: tuple[int, int | None] = (0, None)
    waits: str = ""
    problem: str = ""

    def to_json(self) -> Json:
        """Return the status as JSON, times in ISO 8601."""
        cycle = None if self.cycle is None else {**asdict(self.cycle), "trigger": self.cycle.trigger.to_json()}
        return {
            "project": self.project,
            "problem": self.problem,
            "waits": self.waits,
            "now": self.now.isoformat(),
            "loop": self.loop,
            "known_until": None if self.known_until is None else self.known_until.isoformat(),
            "route": None if self.route is None else _iso(asdict(self.route)),
            "paused_at": None if self.paused_at is None else self.paused_at.isoformat(),
            "cycle": None if cycle is None else _iso(cycle),
            "versions": {str(version): state for version, state in self.versions.items()},
            "watching": self.watching,
            "rollout": self.rollout,
            "verdicts": [
                {"cycle": v.cycle, "step": v.step, "at": v.at.isoformat(), **v.verdict.to_json()} for v in self.verdicts
            ],
            "commands": [
                {"verb": c.verb, "by": c.by, "at": c.at.isoformat(), "args": c.args, "result": c.result}
                for c in self.commands
            ],
            "quality": [q.to_json() for q in self.quality],
            "maturing": {"requests": self.num_maturing, "horizon_s": self.horizon.total_seconds()},
            "picks": {"made": self.picks[0], "allowed": self.picks[1]},
            "examples": {"all": self.num_examples, "labelled": self.num_labelled, "waiting": self.num_waiting},
            "trouble": self.trouble,
            "batches": self.batches,
            "alerts": [
                {"id": a.id, "cohort": a.cohort, "since": a.opened_at.isoformat(), **a.verdict.to_json()}
                for a in self.alerts
            ],
            "untold": [{"id": a.id, "tries": a.tries, "problem": a.problem} for a in self.untold],
        }


def _iso(values: dict[str, Json]) -> Json:
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in values.items()}


def status(
    project: Project, *, catalog: Catalog, journal: Journal, log: Log, reservoir: Reservoir, alerts: Alerts,
    now: datetime, period: timedelta, waits: str = "",
) -> Status:  # fmt: skip
    """Return how a project stands, with its quality over the requests that matured in the last `period`."""
    until = now - horizon(project)
    return replace(
        status_without(project.name, "", catalog=catalog, journal=journal, reservoir=reservoir, alerts=alerts, now=now),
        waits=waits,
        known_until=log.complete_until(now),
        quality=quality(log, project, Window(after=until - period, until=until)),
        horizon=horizon(project),
        num_maturing=log.num_predictions(project.name, after=until, until=now),
        picks=_picks(project, journal, now),
        batches={one.name: journal.state(project.name, f"batch.{one.name}") or {} for one in project.batches},
    )


def _picks(project: Project, journal: Journal, now: datetime) -> tuple[int, int | None]:
    """Return how many requests were picked, and how many might have been by now: see `tidemill.loop.curate`."""
    state = journal.state(project.name, "curate")
    if state is None:
        return 0, None
    allowed = project.strategy.label.allowance(now - from_micros(state["since"]))
    return int(state["spent"]), None if allowed == UNLIMITED else allowed


def status_without(
    name: str, problem: str, *, catalog: Catalog, journal: Journal, reservoir: Reservoir, alerts: Alerts, now: datetime
) -> Status:
    """Return how a project stands by its stores alone, because of the `problem` of its project file."""
    cycle = journal.cycle(name)
    watching = journal.state(name, "watch") or {}
    rollout = journal.state(name, f"release.{cycle.number}") if cycle is not None else None
    index = reservoir.index(name)
    return Status(
        project=name,
        now=now,
        route=catalog.route(name),
        paused_at=catalog.paused_at(name),
        cycle=cycle,
        versions={m.version: m.status for m in catalog.models(name)},
        watching=watching.get("verdict"),
        rollout=None if rollout is None else rollout.get("verdict"),
        verdicts=journal.verdicts(name, limit=8),
        commands=journal.commands(name, 3)[::-1],
        quality=[],
        num_examples=len(index),
        num_labelled=int(index["label"].is_not_null().sum()),
        num_waiting=reservoir.num_waiting(name),
        trouble=journal.trouble(name),
        alerts=alerts.standing(name),
        untold=alerts.untold(name),
        batches={},
        loop=journal.holder(f"loop/{name}", now=now),
        problem=problem,
    )
