"""Stage 1: what the log keeps of a request. The gateway imports this, so it stays light.

The thin row (ids, versions, scores, decision, tags, latency) is always written. A member decides whether the inputs,
which are large, private or both, are written with it, and with what probability; the recorder draws by a hash of the
request id, so that every process and every replay draws alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tidemill.errors import ProjectError
from tidemill.records import Json, Scalar
from tidemill.strategy.member import Member


@dataclass(frozen=True, slots=True)
class Keep:
    """The inputs are kept with this `probability`; `inputs` False means that they are never written at all."""

    probability: float
    inputs: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request once it is answered."""

    tags: Mapping[str, Any] = field(default_factory=dict)
    error: bool = False
    abstained: bool = False
    fallback: bool = False

    @property
    def remarkable(self) -> bool:
        """Whether something went wrong or was left open: these rows are rare and always worth keeping."""
        return self.error or self.abstained or self.fallback


WHOLE = Keep(1.0)
NONE = Keep(0.0, inputs=False)


class Log(Member):
    """Base of the log stage: one verb, `keep`."""

    stage: ClassVar[str] = "log"

    def keep(self, request: Request) -> Keep:
        """Say with what probability the inputs of `request` are kept. Called once a request: must be quick."""
        raise NotImplementedError


@dataclass(frozen=True)
class Everything(Log):
    """Keep every row whole."""

    def keep(self, request: Request) -> Keep:
        """Return probability 1."""
        return WHOLE


@dataclass(frozen=True)
class Sample(Log):
    """Keep the inputs of a share `rate` of the requests; errors, abstained answers and fallbacks are always whole.

    With `by`, the name of a tag, `rates` gives the rate of some of its values and `rate` that of the others, so that a
    rare country is kept whole while a common one is thinned. The probability is written into the row: estimates divide
    by it. A rate of 0 keeps no inputs, and such rows can stand in no estimate over inputs.
    """

    rate: float
    by: str | None = None
    rates: Mapping[Scalar, float] | None = None

    def check(self) -> None:
        """Refuse rates outside 0..1, and `rates` without `by`."""
        pairs: Any = self.rates or ()  # a mapping became a sorted tuple of pairs
        for rate in (self.rate, *(r for _, r in pairs)):
            number = isinstance(rate, int | float)
            self.require(number and 0 <= rate <= 1, f"rate {rate!r} is no share", "give a number from 0 to 1")
        self.require(
            self.rates is None or self.by is not None, "rates are given without by", "name the tag, as in by='country'"
        )
        keeps = {value: Keep(float(rate)) for value, rate in pairs}
        object.__setattr__(self, "_other", Keep(float(self.rate)))
        object.__setattr__(self, "_keeps", keeps)

    def keep(self, request: Request) -> Keep:
        """Return the rate of the request's tag value, or 1 for a remarkable request."""
        if request.remarkable:
            return WHOLE
        other: Keep = self._other  # type: ignore[attr-defined]
        if self.by is None:
            return other
        keeps: dict[Scalar, Keep] = self._keeps  # type: ignore[attr-defined]
        return keeps.get(request.tags.get(self.by), other)


@dataclass(frozen=True)
class Profile(Log):
    """Keep no inputs: devices post sketches of what they saw, and drift is looked at in those.

    For models that run on devices, or whose inputs may not leave them. A device adds rows to a `stats.profile.Profile`
    and posts it to `/v1/profile` once a window; profiles of any number of devices and windows add up. Of what the
    gateway answers the thin row is kept.
    """

    def keep(self, request: Request) -> Keep:
        """Return that the inputs are never written."""
        return NONE


MEMBERS: Mapping[str, type[Log]] = {kind.__name__: kind for kind in (Everything, Sample, Profile)}


def log_from_json(data: Json) -> Log:
    """Read what a member's `to_json` wrote.

    Raises:
        ProjectError: the member is not one of this module.
    """
    kind = MEMBERS.get(data.get("member"))
    if kind is None or data.get("stage") != Log.stage:
        raise ProjectError(
            f"{data.get('stage')}.{data.get('member')} is no log stage of this program.", f"use {', '.join(MEMBERS)}"
        )
    return kind.from_params(data["params"])
