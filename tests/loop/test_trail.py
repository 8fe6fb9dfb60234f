"""The trail of a rollout: it grows with news, stays short, and keeps its newest look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tidemill.loop.trail import longer
from tidemill.records import Json, Outcome, Verdict

_START = datetime(2026, 1, 1, tzinfo=UTC)


def verdict(*values: float) -> Verdict:
    parts = tuple(
        Verdict(outcome=Outcome.PASS, by=f"guard {i}", reason="", numbers={"evidence_worse": value, "ratio": 1.0})
        for i, value in enumerate(values)
    )
    return Verdict(outcome=Outcome.PASS, by="Gradual", reason="", parts=parts)


def follow(values: list[float]) -> Json:
    trail: Json = None
    for i, value in enumerate(values):
        trail = longer(trail, verdict(value), step="5 %", now=_START + timedelta(seconds=i))
    return trail


@given(st.lists(st.integers(0, 50).map(float), min_size=1, max_size=600))
def test_it_stays_short_in_order_and_ends_with_the_newest(values: list[float]) -> None:
    looks = follow(values)["looks"]
    assert len(looks) <= 160
    assert [look[0] for look in looks] == sorted({look[0] for look in looks})
    assert looks[-1][2] == values[-1]


def test_a_look_that_brings_nothing_new_leaves_it_as_it_is() -> None:
    once = follow([1.0, 2.0])
    assert longer(once, verdict(2.0), step="5 %", now=_START + timedelta(hours=1)) == once


def test_a_guard_that_joins_later_has_no_past() -> None:
    trail = longer(follow([1.0]), verdict(2.0, 3.0), step="25 %", now=_START + timedelta(seconds=9))
    assert trail["sides"] == [["guard 0", "worse"], ["guard 1", "worse"]]
    assert [look[1:] for look in trail["looks"]] == [["5 %", 1.0], ["25 %", 2.0, 3.0]]


def test_a_verdict_without_guards_leaves_no_look() -> None:
    assert longer(None, verdict(), step="shadow", now=_START)["looks"] == []
