"""The rollout: where the candidate is on its way, what each guard has seen of its boundaries, and the controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tidemill.app import App
from tidemill.dashboard.chart import Chart, Marker, Series
from tidemill.dashboard.opening import opening
from tidemill.dashboard.table import Column, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, View
from tidemill.errors import Conflict, NotFound
from tidemill.monitor.rollouts import Look, Rollout, Watch, rollout
from tidemill.records import Cycle, Route
from tidemill.stores.routes import RouteChange

_NUM_PAST = 12
_MOST_WHY, _PAGE = 140, 1_000  # characters of a reason on a page, and the most rows of one


def show(asked: Asked) -> Page:
    """Return the rollout under way, or the one that `?cycle=` names, or the last one."""
    return Page(template="rollout.html", title="Rollout", data=_data(asked))


def now_part(asked: Asked) -> Page:
    """Return all of it below the head, for whenever the loop has looked again."""
    return Page(template="_rollout.html", data=_data(asked))


def _data(asked: Asked) -> dict[str, Any]:
    app = asked.app
    cycles = [cycle for cycle in app.journal.cycles(app.name) if cycle.candidate is not None]
    found = _chosen(asked, cycles)
    route, paused_at = app.catalog.route(app.name), app.catalog.paused_at(app.name)
    now = app.journal.cycle(app.name)
    one = None if found is None else rollout(app.name, found, catalog=app.catalog, journal=app.journal)
    return {
        "cycle": found,
        "cycles": cycles[::-1][:_NUM_PAST],
        "one": one,
        "making": now if now is not None and now.candidate is None else None,
        "route": route,
        "paused_at": paused_at,
        "watches": [] if one is None else [(watch, evidence_chart(one, watch)) for watch in one.watches],
        "way": way,
        "tones": _TONES,
        "because": disabled(app, route),
        "commands": app.journal.waiting(app.name),
        "history": history(asked),
        "python": python(app, found),
    }


def _chosen(asked: Asked, cycles: Sequence[Cycle]) -> Cycle | None:
    wanted = asked.number("cycle", 0)
    if not wanted:
        is_open = [cycle for cycle in cycles if cycle.closed_at is None]
        met = [c for c in cycles if c.outcome in ("promoted", "rolled back")]
        return next(iter(is_open or met[::-1] or cycles[::-1]), None)
    for cycle in cycles:
        if cycle.number == wanted:
            return cycle
    raise NotFound(f"there is no rollout of cycle {wanted}.", "choose one of the list")


# --- evidence over time


def evidence_chart(one: Rollout, watch: Watch) -> Chart:
    """Return the evidence of a guard over the looks, each side as its way to its boundary: 1 is there."""
    by = watch.verdict.by
    looks = [look for look in one.looks if any(name == by for name, _ in look.evidence)]
    series = [
        Series(
            name=f"{side.leads_to} ({side.name.replace('_', ' ')})" if len(watch.sides) > 1 else side.leads_to,
            values=[_way(look, by, side.name, side.wanted) for look in looks],
            tone=_TONES.get(side.leads_to, "unsure"),
        )
        for side in watch.sides
    ]
    boundary = Series(name="boundary", values=[1.0] * len(looks), tone="muted")
    return Chart(
        title="Evidence over time", desc="1 is the boundary, on a logarithmic scale",
        times=[look.at for look in looks], series=[*series, boundary] if len(looks) > 1 else [],
        markers=_moves(looks), height=170,
    )  # fmt: skip


_TONES = {"rolls back": "bad", "lets it go on": "good", "holds": "unsure"}


def _way(look: Look, by: str, side: str, wanted: float) -> float | None:
    value = look.evidence.get((by, side))
    return None if value is None else way(value, wanted)


def way(value: float, wanted: float) -> float:
    """Return how far evidence is on its way to a boundary: log(value) / log(wanted), from -1 to 1.5."""
    if wanted <= 1:
        return 1.0
    return max(-1.0, min(1.5, math.log(max(value, 1e-9)) / math.log(wanted)))


def _moves(looks: Sequence[Look]) -> list[Marker]:
    """Return the steps that it went to meanwhile."""
    return [
        Marker(at=look.at, text=look.step, tone="unsure")
        for before, look in pairwise(looks)
        if look.step != before.step and look.step
    ]


# --- the history of the route


def history(asked: Asked) -> Table:
    """Return every revision of the route, the newest first: who set it, when and why."""
    app = asked.app
    changes = app.catalog.history(app.name)[::-1]
    after = asked.number("after", 0)
    page = [change for change in changes if not after or change.route.revision < after]
    shown = page[: asked.limit]
    return Table(
        name="routes", title="History of the route", total=len(changes),
        next=str(shown[-1].route.revision) if len(page) > len(shown) else "",
        columns=[
            Column(key="revision", title="No.", kind="count"), Column(key="at", title="Since", kind="when"),
            Column(key="stable", title="Answers"), Column(key="candidate", title="Candidate"),
            Column(key="share", title="Share", kind="share"), Column(key="by", title="By"),
            Column(key="reason", title="Why"),
        ],
        rows=[_change(change, most=_MOST_WHY if asked.limit <= _PAGE else 0) for change in shown],
        empty="No version answers yet.", command="tidemill train data.parquet",
    )  # fmt: skip


def _change(change: RouteChange, *, most: int) -> Row:
    route, reason = change.route, change.reason
    candidate = route.candidate or next(iter(route.shadows), None)
    word = "" if candidate is None else f"version {candidate}" + ("" if route.candidate else " (shadow)")
    return Row(
        key=str(route.revision),
        cells={
            "revision": route.revision,
            "at": change.at,
            "stable": Link(f"version {route.stable}", f"/models/{route.stable}"),
            "candidate": None if candidate is None else Link(word, f"/models/{candidate}"),
            "share": route.share if route.candidate is not None else None,
            "by": change.by,
            "reason": f"{reason[:most]}…" if most and len(reason) > most else reason,
        },
    )


def python(app: App, cycle: Cycle | None) -> str:
    """Return how to read the same in Python."""
    number = 1 if cycle is None else cycle.number
    return opening(
        app,
        "print(app.catalog.route(app.name))\n"
        f"for given in app.journal.verdicts(app.name, cycle={number}):\n"
        "    print(given.at, given.verdict.outcome, given.verdict.reason)",
    )


# --- the controls


def disabled(app: App, route: Route | None) -> dict[str, str]:
    """Return why each control cannot be pressed now, "" where it can."""
    cycle = app.journal.cycle(app.name)
    back = _no_way_back(route)
    if cycle is None or cycle.candidate is None:
        none = "no candidate is under way"
        return {"promote": none, "approve": none, "reject": none if cycle is None else "", "rollback": back}
    waits = app.journal.step(app.name, cycle.number, "test.waiting") is not None
    promote, approve = "", "it is past the gate"
    if cycle.step != "release":
        promote, approve = "it has not passed the gate", "" if waits else "the gate does not wait for a person"
    return {"promote": promote, "approve": approve, "reject": "", "rollback": back}


def _no_way_back(route: Route | None) -> str:
    if route is None:
        return "no version answers yet"
    is_possible = route.rollout is not None or route.fallback is not None
    return "" if is_possible else f"version {route.stable} has no version before it"


def promote_now(posted: Posted) -> Done:
    """Give a version all traffic at once, past what is left of its rollout."""
    version = posted.whole("version")
    route = posted.app.promote_now(version, by=posted.who.name, reason=posted.reason)
    before = "none" if route.fallback is None else f"version {route.fallback}"
    return Done(said=f"Version {route.stable} answers all traffic; a roll back returns to {before}.")


def roll_back(posted: Posted) -> Done:
    """Take the candidate out of traffic, or return to the version before."""
    route = posted.app.rollback(by=posted.who.name, reason=posted.reason)
    return Done(said=f"Version {route.stable} answers all traffic.")


def approve(posted: Posted) -> Done:
    """Let the candidate that waits go on."""
    return _ask(posted, "approve", posted.app.waiting_candidate())


def reject(posted: Posted) -> Done:
    """Stop the candidate, or end its training."""
    if not posted.field("version"):
        return _stop_making(posted)
    version = posted.app.candidate_in_making()
    if version is None:
        raise Conflict("another candidate is in the making by now.", "look at that one, and decide anew")
    return _ask(posted, "reject", version)


def _ask(posted: Posted, verb: str, version: int) -> Done:
    if posted.whole("version") != version:
        raise Conflict(f"version {version} is under way by now.", "look at that one, and decide anew")
    posted.app.ask(verb, by=posted.who.name, version=version, reason=posted.reason)
    return Done(said=f"Asked to {verb} version {version}; the loop does it at its next turn.")


def _stop_making(posted: Posted) -> Done:
    """End a cycle whose candidate is not trained yet."""
    cycle = posted.app.journal.cycle(posted.app.name)
    if cycle is None or cycle.candidate is not None or cycle.number != posted.whole("cycle"):
        raise Conflict(f"cycle {posted.whole('cycle')} is past its training.", "look again, and decide anew")
    posted.app.ask("reject", by=posted.who.name, reason=posted.reason)
    return Done(said=f"Asked to end cycle {cycle.number}; the loop does it at its next turn.")


def pause(posted: Posted) -> Done:
    """Open no new cycle and move no candidate on."""
    posted.app.pause(paused=True, by=posted.who.name, reason=posted.reason)
    return Done(said="Paused: guards still roll back.")


def resume(posted: Posted) -> Done:
    """Go on."""
    posted.app.pause(paused=False, by=posted.who.name, reason=posted.reason)
    return Done(said="The loop goes on.")


def _candidate(posted: Posted) -> str:
    version = posted.field("version") if "version" in posted.form else ""
    return f"version {version}" if version else ""


VIEW = View(
    path="/rollout", name="Rollout", group="Models", icon="rollout", show=show,
    fragments={"now": Fragment(show=now_part, topics=("route", "cycle", "commands"))},
    tables={"routes": history},
    actions={
        "promote": Action(do=promote_now, verb="promote", thing=_candidate, audited=False),
        "rollback": Action(do=roll_back, verb="rollback", audited=False),
        "approve": Action(do=approve, verb="approve", thing=_candidate, audited=False),
        "reject": Action(do=reject, verb="reject", thing=_candidate, audited=False),
        "pause": Action(do=pause, verb="pause", audited=False),
        "resume": Action(do=resume, verb="resume", audited=False),
    },
)  # fmt: skip
