"""Which version answers a request: a pure function of the route, the unit and the time."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from tidemill.clock import micros
from tidemill.records import Route


class Assigned(NamedTuple):
    """The version a request is for, and the candidate's share of traffic in force then."""

    version: int
    share: float


def assign(route: Route, unit: str, now_micros: int) -> Assigned:
    """Return the version that answers `unit`.

    A unit keeps its place in `position(salt, unit)` for as long as the salt stays, so raising the share only adds units
    to the candidate and never takes one away. A candidate whose share has lapsed answers nobody.
    """
    share = share_in_force(route, now_micros)
    return Assigned(routed(route, unit, share), share)


def routed(route: Route, unit: str, share: float) -> int:
    """Return the version that answers `unit` while the candidate's share in force is `share`."""
    if share > 0.0 and position(route.salt, unit) < share:
        assert route.candidate is not None
        return route.candidate
    return route.stable


def share_in_force(route: Route, now_micros: int) -> float:
    """Return the candidate's share, 0 without a candidate or once it has lapsed."""
    if route.candidate is None or (route.lapses_at is not None and now_micros >= micros(route.lapses_at)):
        return 0.0
    return route.share


def position(salt: str, unit: str) -> float:
    """Return where in [0, 1) a unit stands under `salt`, uniform over units and independent between salts."""
    digest = blake2b(f"{salt}\0{unit}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56  # 56 bits: more would round up to 1.0
