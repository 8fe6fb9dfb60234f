"""The status tells what is not counted yet, and what the label budget holds back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from harness import Harness

Make = Callable[..., Harness]
LABEL = 'label=tm.label.Queue(daily_budget=86_400) | tm.label.Feedback(trust="crowd", horizon="5s")'


def test_requests_too_young_to_be_judged_are_counted_beside_the_quality(harness: Make) -> None:
    h = harness(edit={LABEL: LABEL.replace('"5s"', '"2d"')})
    h.seconds(5)
    found = h.app.status()
    logged = h.app.world.log.predictions(h.name, after=None, until=h.clock.now(), columns=["request_id"])
    assert [q.num for q in found.quality] == [0, 0, 0]
    assert (found.num_maturing, found.horizon) == (len(logged), timedelta(days=2))
    assert found.num_maturing > 100
    assert found.to_json()["maturing"] == {"requests": len(logged), "horizon_s": 172_800.0}


def test_a_label_budget_that_is_spent_is_told(harness: Make) -> None:
    h = harness(edit={LABEL: 'label=tm.label.Feedback(trust="crowd", horizon="5s", daily_budget=86_400)'})
    h.seconds(30)
    made, allowed = h.app.status().picks
    assert allowed is not None and 0 < made <= allowed, "one a second"
    h = harness(edit={LABEL: 'label=tm.label.Feedback(trust="crowd", horizon="5s", daily_budget=None)'})
    h.seconds(30)
    assert h.app.status().picks[1] is None
