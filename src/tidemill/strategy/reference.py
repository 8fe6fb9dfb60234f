"""What a version was good for: its first outcomes since it went live, of everyone and of each cohort.

They are facts of the version and not of the moment: a version that is returned to is held to them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tidemill.records import Json
from tidemill.schema import Array
from tidemill.stats.rise import Reference
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.reference_needs import ReferenceNeeds

EVERYONE = "all"  # the stream of all outcomes, beside those of cohorts


@dataclass(frozen=True)
class FirstOutcomes:
    """The first losses of one stream.

    `since` is when the first of them was received, None before. Rows up to `until` have been read; once there are
    enough it stays at the last that counts. Both in microseconds since 1970.
    """

    losses: Reference = field(default_factory=Reference)
    since: int | None = None
    until: int = 0

    def add(self, received_at: Array, losses: Array, *, size: int, until: int) -> FirstOutcomes:
        """Take in what is new of N losses in time order, up to `size`; every row up to `until` is among the N."""
        if self.losses.num >= size:
            return self
        new = np.flatnonzero(received_at > self.until)[: size - self.losses.num]
        known = self.losses.add(losses[new])
        since = int(received_at[new[0]]) if self.since is None and len(new) else self.since
        last = int(received_at[new[-1]]) if known.num >= size else max(until, self.until)
        return FirstOutcomes(known, since, last)

    def to_json(self) -> Json:
        """Return them as plain JSON."""
        return {
            "losses": [self.losses.num, self.losses.total, self.losses.squares],
            "since": self.since,
            "until": self.until,
        }

    @classmethod
    def from_json(cls, data: Json) -> FirstOutcomes:
        """Read what `to_json` wrote."""
        return cls(Reference(*data["losses"]), data["since"], data["until"])


References = Mapping[ReferenceNeeds, Mapping[str, FirstOutcomes]]
Firsts = dict[tuple[ReferenceNeeds, str], FirstOutcomes]  # by what is asked for and stream


def lacks(need: ReferenceNeeds, first: FirstOutcomes) -> bool:
    """Tell whether a reference is not full."""
    return first.losses.num < need.size


def extended(known: Firsts, rows: Outcomes, mine: Array, *, until: int) -> Firsts:
    """Return what is known with the rows that are `mine`, bool (N,), in it; `rows` are all there are up to `until`."""
    longer = {}
    for (need, name), first in known.items():
        loss = rows.values[need.metric] if len(rows) else np.zeros(0)
        counts = mine & ~np.isnan(loss)
        counts = counts & rows.cohorts[name] if name != EVERYONE and len(rows) else counts
        longer[need, name] = first.add(rows.received_at[counts], loss[counts], size=need.size, until=until)
    return longer


def given(known: Firsts) -> References:
    """Return for each need what its streams are held to."""
    needs = dict.fromkeys(need for need, _ in known)
    return {one: held_to({name: its for (need, name), its in known.items() if need == one}, one.size) for one in needs}


def held_to(own: Mapping[str, FirstOutcomes], size: int) -> dict[str, FirstOutcomes]:
    """Return what each stream is held to: its own first losses, everyone's if it began only after those were full.

    So a new version of an app, which answers worse from its first day on, is not its own yardstick.
    """
    everyone = own.get(EVERYONE)
    if everyone is None or everyone.losses.num < size:
        return dict(own)
    late = {name for name, its in own.items() if its.since is not None and its.since > everyone.until}
    return {name: everyone if name in late else its for name, its in own.items()}
