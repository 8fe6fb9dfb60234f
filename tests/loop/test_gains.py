"""The ledger lays what a report promised beside what the rollout showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness import Harness

from tidemill.monitor.gains import Gain, Release, foretold, releases

Make = Callable[..., Harness]


def found(h: Harness) -> list[Release]:
    w = h.app.world
    return releases(w.project, catalog=w.catalog, journal=w.journal, log=w.log, now=h.clock.now())


def test_a_promoted_candidate_has_both_gains_and_one_that_never_met_traffic_is_not_there(harness: Make) -> None:
    h = harness("tried")
    assert found(h) == []
    assert "no release has both" in foretold(found(h))
    h.until_closed()
    h.seconds(10)
    (one,) = found(h)
    assert (one.version, one.outcome) == (2, "promoted")
    assert one.offline is not None and one.online is not None
    assert one.online.low < 0.97 - 0.95 < one.online.high or one.online.value > 0
    assert one.online.n > 50
    assert "1 releases" in foretold([one]) or "of 1" in foretold([one])


def test_a_promise_that_traffic_does_not_bear_out_is_counted() -> None:
    up, none = Gain(value=0.1, low=0.08, high=0.12, n=900), Gain(value=0.0, low=-0.01, high=0.01, n=900)
    kept = Release(cycle=1, version=2, strategy="s", closed_at=None, outcome="promoted", offline=up, online=up)  # type: ignore[arg-type]
    broken = replace(kept, cycle=2, online=none)
    assert (kept.agrees, broken.agrees) == (True, False)
    assert "borne out online in 1 of 2" in foretold([kept, broken])
