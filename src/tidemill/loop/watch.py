"""The step that shows the trigger what became of the live version's answers, and opens a cycle when it fires."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.clock import micros
from tidemill.loop.drift import looked_at, looks
from tidemill.loop.reference import Found, references
from tidemill.loop.world import Turn, time_of
from tidemill.monitor.outcomes import Window, horizon, matured_frame, outcomes
from tidemill.records import Json, Outcome, Verdict
from tidemill.stores.journal import Command
from tidemill.strategy.outcomes import OutcomeNeeds, Outcomes
from tidemill.strategy.trigger import WatchFacts


def watch(turn: Turn) -> bool:
    """Ask the trigger; return whether a cycle was opened, or there is more to read."""
    world, state = turn.world, turn.state("watch")
    route = world.catalog.route(turn.name)
    if route is None:
        return False
    asked = next((c for c in world.journal.waiting(turn.name) if c.verb == "retrain"), None)
    facts, found, until = _facts(turn, state, route.stable, asked)
    memory, verdict = _ask(turn, state, facts)
    fires = verdict.outcome is Outcome.FIRE and _may_open(turn)
    is_behind = found.is_behind or until < _matured_until(turn)
    if not fires and not is_behind and not len(facts.outcomes) and memory == state.get("trigger"):
        return False  # nothing new: the watermark may stay behind
    body = {"until": micros(until), "trigger": memory, "digest": _digest(turn), "verdict": verdict.to_json(),
            "labels": facts.num_labels if fires else state.get("labels"),
            "looked": looked_at(state.get("looked"), facts.drift)}  # fmt: skip
    with turn.write() as conn:
        world.journal.put_state(conn, turn.name, "watch", body, turn.now)
        found.keep(turn, conn, route.stable)
        if fires:
            _open_cycle(turn, conn, verdict, asked)
    return fires or is_behind


def _ask(turn: Turn, state: Json, facts: WatchFacts) -> tuple[Json, Verdict]:
    """Return the trigger's memory and verdict; a person's word fires whatever the trigger says."""
    trigger = turn.strategy.trigger
    memory = state.get("trigger") if state.get("digest") == _digest(turn) else None
    memory = trigger.update(trigger.start() if memory is None else memory, facts)
    verdict = trigger.decide(memory, turn.now)
    if facts.asked is not None and verdict.outcome is not Outcome.FIRE:
        verdict = Verdict(outcome=Outcome.FIRE, by="retrain", reason=facts.asked, parts=(verdict,))
    return memory, verdict


def _digest(turn: Turn) -> str:
    return turn.strategy.trigger.digest()


def _may_open(turn: Turn) -> bool:
    world = turn.world
    return not turn.waits and world.journal.cycle(turn.name) is None and world.catalog.paused_at(turn.name) is None


def _facts(turn: Turn, state: Json, live: int, asked: Command | None) -> tuple[WatchFacts, Found, datetime]:
    world, needs, after = turn.world, turn.strategy.trigger.needs(), time_of(state.get("until"))
    until = turn.reach(after, _matured_until(turn))
    until = until if after is None else max(until, after)
    window = Window(after=after, until=until)
    rows = _matured(turn, needs, window, live)
    found = references(turn, needs, live, rows, window)
    facts = WatchFacts(
        now=turn.now,
        outcomes=rows,
        num_labels=world.reservoir.num_labelled(turn.name),
        trained_labels=_trained_labels(turn, state),
        last_trained_at=_last_trained_at(turn),
        live_version=live,
        last_cycle_at=max((c.opened_at for c in world.journal.cycles(turn.name)), default=None),
        asked=None if asked is None else f"{asked.by} asked: {asked.args.get('reason') or 'no reason given'}",
        drift=looks(turn, needs.drift, state.get("looked"), live),
        references=found.known,
    )
    return facts, found, until


def _matured_until(turn: Turn) -> datetime:
    return turn.known_until - horizon(turn.world.project)


def _matured(turn: Turn, needs: OutcomeNeeds, window: Window, live: int) -> Outcomes:
    if window.after is not None and window.until <= window.after:
        return Outcomes.empty()
    world = turn.world
    frame = matured_frame(world.log, world.project, window, trust=needs.trust)
    mine = frame["assigned_version"] == live
    frame = frame if mine.all() and not mine.has_nulls() else frame.filter(mine)
    return outcomes(world.project, frame, candidate=None, metrics=needs.metrics)


def _trained_labels(turn: Turn, state: Json) -> int:
    """Return how many labels there were when the last cycle opened, or at the first training."""
    if state.get("labels") is not None:
        return int(state["labels"])
    models = turn.world.catalog.models(turn.name)
    first = models[0].dataset if models else None
    return turn.world.datasets.get(turn.name, first).num_train if first else 0


def _last_trained_at(turn: Turn) -> datetime:
    """Return when a model was last made, or tried: a failed cycle is not opened again at once."""
    made = [m.created_at for m in turn.world.catalog.models(turn.name)]
    tried = [c.opened_at for c in turn.world.journal.cycles(turn.name)]
    return max([*made, *tried])


def _open_cycle(turn: Turn, conn: Connection, verdict: Verdict, asked: Command | None) -> None:
    journal = turn.world.journal
    number = journal.open_cycle(
        conn, turn.name, trigger=verdict, strategy=turn.strategy.digest(), step="form", now=turn.now
    )
    journal.add_verdict(conn, turn.name, verdict, cycle=number, step="watch", now=turn.now)
    for command in journal.waiting(turn.name):
        if asked is not None and command.verb == "retrain":  # asked for twice, it is one retraining
            journal.handle(conn, command.id, f"opened cycle {number}", turn.now)
