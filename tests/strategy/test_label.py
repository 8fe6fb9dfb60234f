"""Where labels come from, how many a day, and which of several counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.records import Trust
from tidemill.strategy.label import DAY, Either, Feedback, Label, LabelFact, Queue, winner

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

label_facts = st.builds(
    LabelFact,
    value=st.sampled_from(["a", "b", 1.5]),
    trust=st.sampled_from(list(Trust)),
    source=st.sampled_from(["queue", "feedback", "import"]),
    at=st.integers(0, 3).map(lambda m: NOON + timedelta(minutes=m)),
)
elapsed = st.floats(0, 30 * 86400, allow_nan=False).map(lambda s: timedelta(seconds=s))
sources = st.one_of(
    st.builds(Queue, st.integers(0, 500), spread=st.sampled_from(["0s", "1h", "12h", "1d"])),
    st.builds(Feedback, daily_budget=st.integers(0, 500)),
)


@given(st.lists(label_facts, max_size=4))
def test_the_order_in_which_labels_arrive_does_not_matter(given_: list[LabelFact]):
    assert len({winner(order) for order in permutations(given_)}) == 1


@given(st.lists(label_facts, min_size=1, max_size=6))
def test_the_highest_trust_wins_and_then_the_newest(given_: list[LabelFact]):
    won = winner(given_)
    assert won in given_
    assert won.trust.rank == max(fact.trust.rank for fact in given_)
    assert won.at == max(fact.at for fact in given_ if fact.trust is won.trust)


def test_no_label_has_no_winner():
    assert winner([]) is None


def test_a_newer_crowd_never_overrules_people():
    people = LabelFact("ok", Trust.PEOPLE, "queue", NOON)
    crowd = LabelFact("toxic", Trust.CROWD, "feedback", NOON + timedelta(days=9))
    assert winner([people, crowd]) is people


@given(sources, elapsed, elapsed)
def test_the_allowance_never_falls_and_no_day_gets_more_than_the_daily_budget(
    source: Label, a: timedelta, b: timedelta
):
    early, late = sorted([a, b])
    assert 0 <= source.allowance(early) <= source.allowance(late)
    days = late // DAY - early // DAY + 1
    assert source.allowance(late) - source.allowance(early) <= days * source.daily_budget  # type: ignore[attr-defined]


def test_picks_are_released_evenly_over_the_spread_of_each_day():
    queue = Queue(240, spread="12h")
    hours = [queue.allowance(timedelta(hours=h)) for h in (0, 1, 6, 12, 18, 24, 25, 36)]
    assert hours == [0, 20, 120, 240, 240, 240, 260, 480]
    assert Queue(240, spread="0s").allowance(timedelta(0)) == 240
    assert queue.allowance(timedelta(hours=-1)) == 0


def test_with_people_in_the_queue_their_budget_bounds_the_picks():
    both = Queue(200) | Feedback(daily_budget=5000)
    assert both.queue == Queue(200)
    assert both.feedback == Feedback(daily_budget=5000)
    assert both.allowance(DAY) == 200
    assert Feedback(daily_budget=5000).allowance(DAY) == 5000


def test_feedback_counts_for_its_horizon_and_without_it_nothing_is_waited_for():
    assert (Queue() | Feedback(horizon="3h")).horizon == timedelta(hours=3)
    assert Feedback().horizon == timedelta(days=2)
    assert Queue().horizon == timedelta(0)


def test_each_kind_of_source_is_found_where_there_is_one():
    assert Queue().feedback is None
    assert Feedback().queue is None
    assert Either((Feedback(),)).queue is None


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Queue(-1), "daily_budget is -1"),
        (lambda: Queue(1.5), "daily_budget is 1.5"),
        (lambda: Feedback(trust="everybody"), "trust is 'everybody'"),
        (lambda: Queue(spread="2d"), "more than a day"),
        (lambda: Feedback(horizon="soon"), "Feedback.horizon is 'soon', which is not a duration"),
        (lambda: Queue() | Queue(5), "there are 2 of Queue"),
        (lambda: Either(("people",)), "people is no label stage"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(make: object, problem: str):
    with pytest.raises(ProjectError, match=problem):
        make()  # type: ignore[operator]


def test_durations_may_be_written_in_text_and_are_equal_to_timedeltas():
    assert Feedback(horizon="48h") == Feedback(horizon=timedelta(days=2))
    assert Feedback(horizon="48h").digest() == Feedback(horizon="2d").digest()
    assert str(Feedback(horizon="48h") | Queue(20)) == "Feedback() | Queue(20)"
