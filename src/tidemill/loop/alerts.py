"""The step that asks every alert, opens and closes them, and rolls back where one says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import polars as pl
from sqlalchemy import Connection

from tidemill.clock import micros
from tidemill.loop.drift import looked_at, looks
from tidemill.loop.reference import Found, references
from tidemill.loop.world import Turn, time_of
from tidemill.monitor.cohorts import cohort_masks
from tidemill.monitor.outcomes import Window, horizon, judge, matured_frame, outcomes
from tidemill.monitor.slices import judged_frame, worst
from tidemill.records import Json, Outcome, Route, Verdict
from tidemill.stores.alerts import OpenAlert
from tidemill.strategy.alert import Alert, AlertFacts
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.reference import EVERYONE

_STEP = "alerts"
_DAY = timedelta(days=1)
_EXPLAINED = 0.05
_LOOKS_BACK = timedelta(days=30)  # over the log, when an alert is new
_LABELS = ("label", "rating", "thumbs", "confirm", "correct", "override")


def alerts(turn: Turn) -> bool:
    """Ask every alert; return whether one was opened or closed, or there is more to read."""
    world, state = turn.world, turn.state(_STEP)
    route = world.catalog.route(turn.name)
    standing = _standing(turn)
    if route is None or not (world.project.alerts or standing):
        return False
    facts, read, found = _facts(turn, state, route)
    memories, verdicts = _asked(turn, state, facts, standing)
    ended = [one for name, one in standing.items() if name not in verdicts]  # their declarations are gone
    body = {**read, "memories": memories}
    with turn.write() as conn:
        for alert in world.project.alerts:
            verdict, known = verdicts[alert.name], standing.get(alert.name)
            if verdict.outcome is Outcome.FIRE:
                _fire(turn, conn, route, alert, verdict, is_new=known is None)
            elif known is not None and _is_over(alert, verdict, known, turn.now):
                ended.append(known)
        for one in ended:
            world.alerts.close(conn, one.id, turn.now)
        if body != state or found.is_behind:
            world.journal.put_state(conn, turn.name, _STEP, body, turn.now)
            found.keep(turn, conn, route.stable)
    is_behind = read["until"] != state.get("until") and read["until"] < micros(_matured_until(turn))
    return is_behind or found.is_behind or set(_standing(turn)) != set(standing)


def _standing(turn: Turn) -> dict[str, OpenAlert]:
    """Return the open alerts by name, but for those on batches, which the step `batch` opens and closes."""
    others = {one.alert for one in turn.world.project.batches}
    return {one.name: one for one in turn.world.alerts.standing(turn.name) if one.name not in others}


def _asked(
    turn: Turn, state: Json, facts: AlertFacts, standing: Mapping[str, OpenAlert]
) -> tuple[Json, dict[str, Verdict]]:
    """Return what each alert remembers, by digest, and what it says, by name."""
    known = state.get("memories", {})
    known = {**known, **_begun(turn, state, facts, [a for a in turn.world.project.alerts if a.digest() not in known])}
    memories, verdicts = {}, {}
    for alert in turn.world.project.alerts:
        memory = alert.update(known[alert.digest()], facts)
        verdict = alert.decide(memory, turn.now)
        if verdict.outcome is Outcome.FIRE:
            memory, verdict = alert.told(memory), _with_worst(turn, alert, verdict, standing.get(alert.name))
        memories[alert.digest()], verdicts[alert.name] = memory, verdict
    return memories, verdicts


def _is_over(alert: Alert, verdict: Verdict, known: OpenAlert, now: datetime) -> bool:
    """Tell whether it has been quiet for long enough: one that flickers is told once."""
    is_quiet = verdict.outcome is Outcome.QUIET and alert.has_eased(verdict)
    return is_quiet and now - known.fired_at >= alert.closes_after


def _fire(turn: Turn, conn: Connection, route: Route, alert: Alert, verdict: Verdict, *, is_new: bool) -> None:
    world = turn.world
    world.alerts.open(conn, turn.name, alert.name, cohort=alert.about, verdict=verdict, now=turn.now)
    if not is_new:
        return
    world.journal.add_verdict(conn, turn.name, verdict, cycle=None, step=_STEP, now=turn.now)
    if alert.acts == "rollback" and route.fallback is not None and route.rollout is None:
        new = Route(revision=route.revision, stable=route.fallback, policy_version=route.policy_version)
        schema, by = world.schemas.within(conn).brought_by(new.stable), f"alert {alert.name}"
        if schema is not None:
            new = world.schemas.put(conn, schema, new, now=turn.now, by=by)
        world.catalog.set_status(conn, turn.name, route.stable, "rolled back")
        world.catalog.set_status(conn, turn.name, new.stable, "live")
        world.catalog.set_route(conn, turn.name, new, now=turn.now, by=by, reason=verdict.reason)


def _with_worst(turn: Turn, alert: Alert, verdict: Verdict, known: OpenAlert | None) -> Verdict:
    """Add where the metric is worst: searched for as the alert opens, over a day, and kept while it stands."""
    needs = alert.needs()
    if needs is None or not needs.metrics or not turn.world.explains:
        return verdict
    told = _worst(turn, alert, needs) if known is None else known.verdict.numbers.get("worst")
    if not told:
        return verdict
    return replace(verdict, reason=f"{verdict.reason}; worst: {told}", numbers={**verdict.numbers, "worst": told})


def _worst(turn: Turn, alert: Alert, needs: OutcomeNeeds) -> str:
    """Return the worst slice of what the alert watches, "" where chance explains what there is."""
    project, until = turn.world.project, turn.known_until - horizon(turn.world.project)
    window, metric = Window(after=until - _DAY, until=until), project.metric(needs.metrics[0])
    frame = judged_frame(turn.world.log, project, window, metric, trust=needs.trust)
    if alert.about != EVERYONE:
        frame = frame.filter(pl.Series(cohort_masks(project, frame)[alert.about], dtype=pl.Boolean))
    found = worst(project, frame, metric, turn.world.rng("worst", alert.name))
    first = next((one for one in found if one.cohort != alert.about), None)
    return str(first) if first is not None and first.p <= _EXPLAINED else ""


# --- facts


def _facts(turn: Turn, state: Json, route: Route) -> tuple[AlertFacts, Json, Found]:
    """Return what is new since the last look, and what to remember of having read it."""
    world, after, whole = turn.world, time_of(state.get("until")), _matured_until(turn)
    after = whole - _LOOKS_BACK if after is None else after
    until = max(turn.reach(after, whole), after)
    needs, window = _needs(turn), Window(after=after, until=until)
    rows, values = _matured(turn, needs, window)
    found = references(turn, needs, route.stable, rows, window)
    bounds = {metric.name: metric.bounds for metric in world.project.metrics}
    last_label = _last_label(turn, time_of(state.get("labels_until")), time_of(state.get("last_label_at")))
    runs = [m.created_at for m in world.catalog.models(turn.name)]
    facts = AlertFacts(
        now=turn.now,
        live_version=route.stable,
        outcomes=rows,
        values=values,
        bounds={name: bounds[world.project.metric(name).name] for name in needs.metrics},
        last_request_at=world.log.last_at(turn.name),
        last_label_at=last_label,
        last_trained_at=max(runs, default=None),
        deployed_at=world.catalog.history(turn.name)[0].at,
        drift=looks(turn, needs.drift, state.get("looked"), route.stable),
        references=found.known,
    )
    read = {
        "until": micros(until),
        "labels_until": micros(turn.known_until),
        "last_label_at": None if last_label is None else micros(last_label),
        "looked": looked_at(state.get("looked"), facts.drift),
    }
    if not len(rows) and until >= whole and state and state.get("last_label_at") == read["last_label_at"]:
        read |= {"until": state["until"], "labels_until": state["labels_until"]}  # nothing new: they may stay behind
    return facts, read, found


def _matured_until(turn: Turn) -> datetime:
    return turn.known_until - horizon(turn.world.project)


def _begun(turn: Turn, state: Json, facts: AlertFacts, new: Sequence[Alert]) -> Json:
    """Return the memories, by digest, of alerts that were declared since the last look: of what was seen before it."""
    memories, until = {alert.digest(): alert.start() for alert in new}, time_of(state.get("until"))
    looking_back = [alert for alert in new if alert.needs() is not None]
    if until is None or not looking_back:
        return memories
    for before in _past(turn, until, facts):
        memories |= {alert.digest(): alert.update(memories[alert.digest()], before) for alert in looking_back}
    return memories


def _past(turn: Turn, until: datetime, facts: AlertFacts) -> Iterator[AlertFacts]:
    """Yield what was seen in the 30 days before a time, part by part."""
    for after, end in turn.parts(until - _LOOKS_BACK, until):
        rows, values = _matured(turn, _needs(turn), Window(after=after, until=end))
        yield replace(facts, outcomes=rows, values=values, drift={})


def _needs(turn: Turn) -> OutcomeNeeds:
    return OutcomeNeeds.of(need for alert in turn.world.project.alerts if (need := alert.needs()) is not None)


def _matured(turn: Turn, needs: OutcomeNeeds, window: Window) -> tuple[Outcomes, Json]:
    """Return the outcomes of a window and, by metric, their values as they are."""
    world = turn.world
    if not needs.metrics or (window.after is not None and window.until <= window.after):
        return Outcomes.empty(), {}
    frame = matured_frame(world.log, world.project, window, trust=needs.trust)
    if not len(frame):
        return Outcomes.empty(), {}
    judged = judge(world.project, frame)
    values = {name: world.project.metric(name).rows(judged) for name in needs.metrics}
    return outcomes(world.project, frame, candidate=None, metrics=needs.metrics), values


def _last_label(turn: Turn, after: datetime | None, known: datetime | None) -> datetime | None:
    """Return when the newest label came; what was read before is not read again."""
    asked = any(getattr(alert, "of", "") == "labels" for alert in turn.world.project.alerts)
    if not asked:
        return None
    newest = turn.world.log.last_feedback_at(turn.name, after=after, until=turn.known_until, kinds=_LABELS)
    return newest or known
