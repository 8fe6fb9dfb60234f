"""Past requests that meet a condition are put into the label queue by hand, each once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from harness import Harness

from tidemill.errors import ProjectError

Make = Callable[..., Harness]
FIRES = 'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'
QUIET = {FIRES: "trigger=tm.trigger.Manual()", "daily_budget=86_400": "daily_budget=1"}
DAY = timedelta(days=1)


def used(harness: Make) -> Harness:
    """A deployment with requests of the new app, none of which was curated."""
    h = harness(edit=QUIET)
    h.new_share, h.accuracy, h.labels_people = 0.5, {(1, "v2"): 0.5}, False
    h.seconds(10)
    return h


def asked(h: Harness) -> pl.DataFrame:
    return h.app.world.reservoir.index(h.name).filter(pl.col("reason").str.starts_with("asked: "))


def test_what_meets_a_condition_waits_for_a_label_before_all_else(harness: Make) -> None:
    h = used(harness)
    num, found = h.app.curate_past("new_app", num=20, period=DAY)
    assert num == 20 < found
    first = h.app.queue(limit=20)
    assert {(e.reason, e.inputs["app"], e.probability) for e in first} == {("asked: new_app", "v2", None)}
    again, left = h.app.curate_past("app = 'v2'", num=10**6, period=DAY)
    assert left == found - num and again <= left, "no request is an example twice"
    assert h.app.curate_past("app = 'v2'", num=10, period=DAY) == (0, 0)


def test_only_the_wrong_ones_are_taken_where_that_is_asked(harness: Make) -> None:
    h = used(harness)
    _, found = h.app.curate_past("all", num=1, period=DAY)
    _, wrong = h.app.curate_past("all", num=500, period=DAY, wrong=True)
    assert 0 < wrong < found / 2
    taken = asked(h).filter(pl.col("label").is_not_null())
    assert len(taken) >= wrong - 1
    assert (taken.tail(wrong)["label"] != taken.tail(wrong)["decision"]).sum() >= wrong - 1


def test_only_the_period_is_looked_at_and_nonsense_is_refused(harness: Make) -> None:
    h = used(harness)
    h.clock.sleep(60)
    assert h.app.curate_past("all", num=10, period=timedelta(seconds=5)) == (0, 0)
    with pytest.raises(ProjectError, match="no cohort and no condition"):
        h.app.curate_past("ap = 'v2'", num=10, period=DAY)


def test_without_people_to_ask_there_is_nothing_to_ask(harness: Make) -> None:
    h = harness(edit={FIRES: QUIET[FIRES], "label=tm.label.Queue(daily_budget=86_400) | ": "label="})
    with pytest.raises(ProjectError, match="has no label queue"):
        h.app.curate_past("all", num=1, period=DAY)
