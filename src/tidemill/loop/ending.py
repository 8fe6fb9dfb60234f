"""How a cycle ends: closed once, with its outcome, its reason and the candidate's new status, in one transaction."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemill.loop.world import Turn
from tidemill.records import Cycle, Outcome, Route, Verdict

_STATUS = {"promoted": "live", "rejected": "rejected", "rolled back": "rolled back", "failed": "rejected"}


def end_cycle(turn: Turn, cycle: Cycle, outcome: str, verdict: Verdict, *, step: str) -> bool:
    """Close the cycle for a reason; return True, as a step that did something."""
    with turn.write() as conn:
        close(turn, conn, cycle, outcome, verdict, step=step)
    return True


def close(turn: Turn, conn: Connection, cycle: Cycle, outcome: str, verdict: Verdict, *, step: str) -> None:
    """Write the end of a cycle into an open transaction."""
    world = turn.world
    world.journal.add_verdict(conn, turn.name, verdict, cycle=cycle.number, step=step, now=turn.now)
    if cycle.candidate is not None:
        world.catalog.set_status(conn, turn.name, cycle.candidate, _STATUS[outcome])
    world.journal.close_cycle(conn, turn.name, cycle.number, outcome=outcome, reason=verdict.reason, now=turn.now)


def promoted(route: Route, version: int) -> Route:
    """Return the route on which `version` answers everybody and the version before it is the fallback."""
    return Route(
        revision=route.revision,
        stable=version,
        fallback=route.stable if route.stable != version else route.fallback,
        policy_version=route.policy_version,
    )


def without_candidate(route: Route) -> Route:
    """Return the route on which the stable version answers everybody."""
    return Route(
        revision=route.revision, stable=route.stable, fallback=route.fallback, policy_version=route.policy_version
    )


def end_moved_by_somebody(turn: Turn, cycle: Cycle, *, step: str) -> bool:
    """Close a cycle whose candidate a person promoted or took out of traffic: their word stands."""
    change = turn.world.catalog.history(turn.name)[-1]
    is_live = change.route.stable == cycle.candidate
    verdict = Verdict(
        outcome=Outcome.PASS if is_live else Outcome.FAIL,
        by=change.by,
        reason=f"{change.by} moved the route: {change.reason}",
        back_to="" if is_live else "strategy",
    )
    return end_cycle(turn, cycle, "promoted" if is_live else "rolled back", verdict, step=step)


def give_up(turn: Turn, cycle: Cycle, error: str, times: int) -> bool:
    """Close a cycle whose step failed too often; its candidate leaves traffic, and the live version stays."""
    reason = f"step {cycle.step} failed {times} times, the last time with: {error}"
    verdict = Verdict(outcome=Outcome.FAIL, by=cycle.step, reason=reason, back_to="training")
    route = turn.world.catalog.route(turn.name)
    with turn.write() as conn:
        if route is not None and route.rollout is not None:
            turn.world.catalog.set_route(
                conn, turn.name, without_candidate(route), now=turn.now, by="loop", reason=reason
            )
        close(turn, conn, cycle, "failed", verdict, step=cycle.step)
    return True
