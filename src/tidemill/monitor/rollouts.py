"""How a candidate's way through traffic stands: the steps of the plan, and what each guard has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tidemill.clock import from_micros
from tidemill.records import Cycle, Json, Outcome, Verdict
from tidemill.stores.catalog import Catalog, RouteChange
from tidemill.stores.journal import GivenVerdict, Journal
from tidemill.strategy.wording import percent, span

Place = Literal["done", "now", "ahead", "failed"]
STEP = "release"
_EVIDENCE, _WANTED = "evidence_", "wanted_evidence"
_LEADS_TO = {
    "worse": "rolls back", "above": "rolls back", "floor": "rolls back", "no_worse": "lets it go on",
    "mismatch": "holds",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A step of the plan: the candidate's share in it, what it waits for, and since when it is or was there."""

    name: str
    share: float
    says: str
    place: Place = "ahead"
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One boundary of a guard: what its evidence leads to once it is `wanted`; both are e-values."""

    name: str
    leads_to: str
    value: float
    wanted: float


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a guard has seen: its word, the rows of each arm, its boundaries, and what more it takes."""

    verdict: Verdict
    sides: tuple[Side, ...]
    rows: str
    num_candidate: int | None
    num_live: int | None
    more_errors: int | None
    more_outcomes: int | None
    more_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the guards had gathered at one look: evidence by guard and side."""

    at: datetime
    step: str
    evidence: dict[tuple[str, str], float]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One candidate's way. `verdict` is the newest word, None before it has met traffic."""

    cycle: Cycle
    stops: tuple[Stop, ...]
    step: str
    verdict: Verdict | None
    watches: tuple[Watch, ...]
    looks: tuple[Look, ...]
    changes: tuple[RouteChange, ...]
    verdicts: tuple[GivenVerdict, ...]

    @property
    def is_open(self) -> bool:
        """Whether it is under way."""
        return self.cycle.closed_at is None


def rollout(project: str, cycle: Cycle, *, catalog: Catalog, journal: Journal) -> Rollout:
    """Return how the candidate of a cycle stands, from what the loop wrote of it."""
    memory = journal.state(project, f"{STEP}.{cycle.number}") or {}
    verdicts = [v for v in journal.verdicts(project, cycle=cycle.number) if v.step == STEP]
    changes = [c for c in catalog.history(project) if c.route.rollout == f"{project}-{cycle.number}"]
    body = next((s.body for s in catalog.strategies(project) if s.digest == cycle.strategy), None)
    newest = _newest(memory, verdicts)
    return Rollout(
        cycle=cycle,
        stops=_placed(plan({} if body is None else body["online"]), cycle, memory, changes),
        step=memory.get("step", ""),
        verdict=newest,
        watches=tuple(map(watch, newest.parts)) if newest is not None else (),
        looks=tuple(_looks(memory, verdicts)),
        changes=tuple(changes),
        verdicts=tuple(verdicts),
    )


def _newest(memory: Json, verdicts: Sequence[GivenVerdict]) -> Verdict | None:
    if "verdict" in memory:
        return Verdict.from_json(memory["verdict"])
    return verdicts[0].verdict if verdicts else None


# --- the plan


def plan(online: Json) -> tuple[Stop, ...]:
    """Return the steps of an online stage, as its JSON says; a member that is not the house's is one step."""
    return (*_stops(online), Stop(name="promoted", share=1.0, says="all traffic"))


def _stops(member: Json) -> Iterator[Stop]:
    params = member.get("params", {})
    match member.get("member"):
        case None | "Now":
            return
        case "Then":
            for part in params["parts"]:
                yield from _stops(part)
        case "Shadow":
            yield Stop(name="shadow", share=0.0, says=f"{params['requests']:,} shadow predictions")
        case "Gradual":
            says = f"at least {params['min_requests']:,} requests, and every guard's word"
            for share in params["shares"]:
                if share < 1:
                    yield Stop(name=percent(share), share=share, says=says)
        case "Bake":
            name = f"bake at {percent(params['share'])}"
            yield Stop(name=name, share=params["share"], says=f"{span(params['duration'])} without a guard's objection")
        case "AB":
            says = f"until the arms are told apart, {span(params['min_duration'])} at least"
            yield Stop(name=f"A/B {percent(params['share'])}", share=params["share"], says=says)
        case other:
            yield Stop(name=str(other), share=0.0, says="a member of your own")


def _placed(stops: Sequence[Stop], cycle: Cycle, memory: Json, changes: Sequence[RouteChange]) -> tuple[Stop, ...]:
    """Say of each step whether it is done, where the candidate is now (or failed), and since when."""
    began = {_name_of(stops, change): change.at for change in reversed(changes)}
    names = [stop.name for stop in stops]
    reached = [at for at, name in enumerate(names) if name in began]
    if cycle.outcome == "promoted":
        here, place = len(stops) - 1, "done"
    else:
        step = memory.get("step", "")
        here = names.index(step) if step in names else max(reached, default=-1)
        place = "now" if cycle.closed_at is None else "failed"
    places: list[Place] = ["done" if at < here else "ahead" for at in range(len(stops))]
    if here >= 0:
        places[here] = place  # type: ignore[call-overload]
    ended = {"promoted": cycle.closed_at} if cycle.outcome == "promoted" else {}
    since = {**began, **ended}
    return tuple(
        Stop(name=s.name, share=s.share, says=s.says, place=place, since=since.get(s.name))
        for s, place in zip(stops, places, strict=True)
    )


def _name_of(stops: Sequence[Stop], change: RouteChange) -> str:
    """Return the step that a route belongs to: the one with its share."""
    share = change.route.share if change.route.candidate is not None else 0.0
    return next((stop.name for stop in stops if abs(stop.share - share) < 1e-9), "")


# --- the evidence


def watch(verdict: Verdict) -> Watch:
    """Return what a guard's verdict holds, with its boundaries."""
    numbers, rows = verdict.numbers, _rows(verdict)
    return Watch(
        verdict=verdict,
        sides=tuple(_sides(verdict)),
        rows=rows,
        num_candidate=_whole(numbers.get(f"candidate_{rows}")),
        num_live=_whole(numbers.get(f"live_{rows}")),
        more_errors=_whole(numbers.get("more_errors")),
        more_outcomes=_whole(numbers.get("more_outcomes")),
        more_seconds=_number(numbers.get("more_seconds")),
    )


def _rows(verdict: Verdict) -> str:
    """Return what a guard counts in both arms: answers or outcomes, "" where it counts neither."""
    known = verdict.numbers
    return next((rows for rows in ("answers", "outcomes") if {f"candidate_{rows}", f"live_{rows}"} <= known.keys()), "")


def _sides(verdict: Verdict) -> Iterator[Side]:
    numbers = verdict.numbers
    for name, value in numbers.items():
        side = name.removeprefix(_EVIDENCE)
        wanted = _number(numbers.get(f"{_WANTED}_{side}", numbers.get(_WANTED)))
        known = _number(value)
        if name.startswith(_EVIDENCE) and wanted is not None and known is not None:
            yield Side(name=side, leads_to=_LEADS_TO.get(side, side), value=known, wanted=wanted)


def _looks(memory: Json, verdicts: Sequence[GivenVerdict]) -> Iterator[Look]:
    """Return the looks that the journal has: those the rollout remembers, else those that brought news."""
    trail = memory.get("trail")
    if trail:
        names = [tuple(name) for name in trail["sides"]]
        for at, step, *values in trail["looks"]:
            known = {name: value for name, value in zip(names, values, strict=False) if value is not None}
            yield Look(at=from_micros(at), step=step, evidence=known)
        return
    for given in reversed(verdicts):
        found = {(part.by, side.name): side.value for part in given.verdict.parts for side in _sides(part)}
        share = given.verdict.numbers.get("share")
        yield Look(at=given.at, step="" if share is None else percent(float(share)), evidence=found)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    known = _number(value)
    return None if known is None else round(known)


def stopped(verdict: Verdict) -> list[Verdict]:
    """Return the guards that failed, the weightiest first."""
    return [part for part in verdict.parts if part.outcome is Outcome.FAIL]
