"""What a rollout's guards had gathered at its looks, thinned so that it stays short however long the rollout lasts."""

from __future__ import annotations

from datetime import datetime

from tidemill.clock import micros
from tidemill.records import Json, Verdict

_MOST = 160
_EVIDENCE = "evidence_"


def longer(trail: Json | None, verdict: Verdict, *, step: str, now: datetime) -> Json:
    """Return the trail with one more look, if that brought anything new; of a full one every other look is left out.

    `sides` names what is followed, as [guard, side]; each of `looks` is [microseconds, step, evidence...] in the order
    of `sides`, None where a guard said nothing.
    """
    said = {
        (part.by, name.removeprefix(_EVIDENCE)): value
        for part in verdict.parts
        for name, value in part.numbers.items()
        if name.startswith(_EVIDENCE)
    }
    sides = [tuple(side) for side in (trail or {}).get("sides", [])]
    sides += [side for side in said if side not in sides]
    looks = list((trail or {}).get("looks", []))
    values = [said.get(side) for side in sides]
    is_news = bool(said) and (not looks or looks[-1][1:] != [step, *values])
    if is_news and len(looks) >= _MOST:
        looks = looks[-1::-2][::-1]
    if is_news:
        looks.append([micros(now), step, *values])
    return {"sides": [list(side) for side in sides], "looks": looks}
