"""When to retrain."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Trust, Verdict
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.trigger import EVERYONE, Amount, AtMost, Degraded, Every, Manual, Trigger, WatchFacts
from tidemill.testing.facts import Forming

NOW = datetime(2026, 3, 1, tzinfo=UTC)
F, Q, U = Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN


def outcomes(loss, *, version: int = 1, cohort=None) -> Outcomes:
    loss = np.asarray(loss, dtype=np.float64)
    num = len(loss)
    return Outcomes(
        received_at=np.arange(num, dtype=np.int64),
        unit=np.array([str(i) for i in range(num)], dtype=object),
        version=np.full(num, version),
        candidate=np.zeros(num, dtype=bool),
        share=np.zeros(num),
        failed=np.zeros(num, dtype=bool),
        latency_ms=np.ones(num),
        values={"accuracy": loss},
        cohorts={} if cohort is None else {"new_app": np.asarray(cohort, dtype=bool)},
    )


def facts(rows: Outcomes | None = None, **changes) -> WatchFacts:
    known = {
        "now": NOW,
        "outcomes": Outcomes.empty() if rows is None else rows,
        "num_labels": 1000,
        "trained_labels": 1000,
        "last_trained_at": NOW - timedelta(days=1),
        "live_version": 1,
    }
    return WatchFacts(**{**known, **changes})


class Watched:
    """A trigger that is shown facts one after another, with the references that the loop would hand over."""

    def __init__(self, trigger: Trigger) -> None:
        self.trigger, self.state = trigger, trigger.start()
        self._forming, self._num = Forming(trigger.needs()), 0

    def tell(self, *many: WatchFacts) -> Verdict:
        """Feed the facts, through JSON each time and sorted as the stores sort, and ask."""
        for known in many:
            rows = replace(known.outcomes, received_at=known.outcomes.received_at + self._num)
            self._num += 1 + int(known.outcomes.received_at.max(initial=-1))
            state = self.trigger.update(self.state, self._forming.add(replace(known, outcomes=rows)))
            self.state = json.loads(json.dumps(state, allow_nan=False, sort_keys=True))
        return self.trigger.decide(self.state, NOW)


def asked(trigger: Trigger, *many: WatchFacts, now: datetime = NOW) -> Verdict:
    """Feed the facts in turn, and ask."""
    watched = Watched(trigger)
    watched.tell(*many)
    return trigger.decide(watched.state, now)


@dataclass(frozen=True)
class Says(Trigger):
    """A trigger that has made up its mind."""

    word: Outcome

    def update(self, state: Json, facts: WatchFacts) -> Json:
        return state

    def decide(self, state: Json, now: datetime) -> Verdict:
        return self._say(self.word, f"I say {self.word}")


# --- composition ------------------------------------------------------------------------------------------------------

OR = {(F, F): F, (F, Q): F, (F, U): F, (Q, Q): Q, (Q, U): U, (U, U): U}
AND = {(F, F): F, (F, Q): Q, (F, U): U, (Q, Q): Q, (Q, U): Q, (U, U): U}


@pytest.mark.parametrize(("a", "b"), list(itertools.product([F, Q, U], repeat=2)))
def test_or_and_and_follow_kleenes_three_valued_logic_on_the_whole_table(a, b):
    key = (a, b) if (a, b) in OR else (b, a)
    assert asked(Says(a) | Says(b), facts()).outcome is OR[key]
    assert asked(Says(a) & Says(b), facts()).outcome is AND[key]


@pytest.mark.parametrize("words", list(itertools.product([F, Q, U], repeat=3)))
def test_composition_does_not_depend_on_how_it_is_bracketed(words):
    a, b, c = (Says(w) for w in words)
    assert asked((a | b) | c, facts()).outcome is asked(a | (b | c), facts()).outcome
    assert asked((a & b) & c, facts()).outcome is asked(a & (b & c), facts()).outcome
    assert asked(a & (b | c), facts()).outcome is asked((a & b) | (a & c), facts()).outcome


def test_a_composed_verdict_gives_the_reasons_that_decided_and_all_its_parts():
    verdict = asked(Says(Q) | Says(F) | Says(U), facts())
    assert verdict.reason == "I say fire"
    assert [part.outcome for part in verdict.parts] == [Q, F, U]


def test_a_composition_is_written_as_it_was_made_and_has_a_digest_of_its_own():
    trigger = (Degraded("accuracy") | Every("30d")).at_most("7d")
    assert str(trigger) == "(Degraded('accuracy') | Every()).at_most('7d')"
    assert trigger.digest() == (Degraded("accuracy") | Every("30d")).at_most(timedelta(days=7)).digest()
    assert trigger.digest() != (Degraded("accuracy") & Every("30d")).at_most("7d").digest()
    assert str(Every("2d") & (Manual() | Amount(5))) == "Every('2d') & (Manual() | Amount(5))"


def test_a_composition_asks_for_all_that_its_members_read_and_refuses_members_that_trust_differently():
    needs = (Every() | Degraded("accuracy", trust="people") | Degraded("appeal", trust="people")).needs()
    assert needs.metrics == ("accuracy", "appeal")
    assert needs.trust is Trust.PEOPLE
    assert Every().needs().metrics == ()
    with pytest.raises(ProjectError, match="crowd and people"):
        (Degraded("accuracy") & Degraded("appeal", trust="people")).needs()


def test_what_is_no_trigger_is_refused():
    with pytest.raises(ProjectError, match="members are"):
        Every() | "monthly"  # type: ignore[operator]


# --- at_most ----------------------------------------------------------------------------------------------------------


def test_at_most_holds_back_a_trigger_whose_last_cycle_opened_too_recently():
    trigger = Says(F).at_most("7d")
    recently = facts(last_cycle_at=NOW - timedelta(days=3))
    held = asked(trigger, recently)
    assert held.outcome is Q
    assert "4 days to go" in held.reason and "I say fire" in held.reason
    assert asked(trigger, recently, now=NOW + timedelta(days=4)).outcome is F
    assert asked(trigger, facts()).outcome is F


@pytest.mark.parametrize("word", [Q, U])
def test_at_most_lets_quiet_and_unknown_through(word):
    assert asked(Says(word).at_most("7d"), facts(last_cycle_at=NOW)).outcome is word


# --- Every, Amount, Manual --------------------------------------------------------------------------------------------


def test_every_fires_when_its_period_has_passed_since_the_last_training():
    assert Every().decide(Every().start(), NOW).outcome is U
    assert asked(Every("30d"), facts(last_trained_at=NOW - timedelta(days=30))).outcome is F
    soon = asked(Every("30d"), facts(last_trained_at=NOW - timedelta(days=20)))
    assert soon.outcome is Q
    assert "due in 10 days" in soon.reason


def test_every_waits_a_period_after_a_cycle_that_came_to_nothing():
    tried = facts(last_trained_at=NOW - timedelta(days=40), last_cycle_at=NOW - timedelta(days=2))
    assert asked(Every("30d"), tried).outcome is Q


def test_amount_fires_on_enough_new_labels():
    assert asked(Amount(200), facts(num_labels=1200)).outcome is F
    few = asked(Amount(200), facts(num_labels=1150))
    assert few.outcome is Q
    assert few.reason == "150 new labels since the last training; 50 more to come"


def test_amount_counts_anew_after_a_cycle_that_trained_nothing():
    before = facts(num_labels=1200)
    opened = facts(num_labels=1210, last_cycle_at=NOW)
    later = facts(num_labels=1410, last_cycle_at=NOW)
    assert asked(Amount(200), before, opened).outcome is Q
    assert asked(Amount(200), before, opened, later).outcome is F


def test_manual_fires_when_a_person_asks_and_says_why():
    assert asked(Manual(), facts()).outcome is Q
    verdict = asked(Manual(), facts(asked="ana asked: new label guide"))
    assert (verdict.outcome, verdict.reason) == (F, "ana asked: new label guide")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Every("0s"), "period"),
        (lambda: Every("a while"), "not a duration"),
        (lambda: Amount(0), "labels"),
        (lambda: Degraded("accuracy", drop=0), "drop"),
        (lambda: Degraded("accuracy", alpha=1.0), "alpha"),
        (lambda: Degraded("accuracy", reference=3), "reference"),
        (lambda: Degraded("accuracy", trust="somebody"), "trust"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_name(make, match):
    with pytest.raises(ProjectError, match=match):
        make()


# --- Degraded ---------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, num: int, old: float, new: float, share_new: float) -> Outcomes:
    cohort = rng.random(num) < share_new
    return outcomes(rng.random(num) < np.where(cohort, new, old), cohort=cohort)


def test_degraded_does_not_know_before_its_reference_is_full_and_says_how_much_is_missing():
    assert "no outcomes yet, 300" in Degraded("accuracy").decide(Degraded("accuracy").start(), NOW).reason
    verdict = asked(Degraded("accuracy"), facts(outcomes(np.zeros(120))))
    assert verdict.outcome is U
    assert "120 of 300 outcomes of the reference, 180 more to come" in verdict.reason
    assert verdict.numbers["more_outcomes"] == 180


def test_degraded_is_quiet_about_a_model_that_stays_as_good_as_it_was():
    """Three streams of alpha .01 in all, 12 versions of 3,000 labels each, looked at every 100: no false alarm."""
    trigger = Degraded("accuracy")
    for seed in range(12):
        rng, watched = np.random.default_rng((41, seed)), Watched(trigger)
        for _ in range(30):
            assert watched.tell(facts(draw(rng, 100, 0.05, 0.10, 0.5))).outcome is not F


def test_degraded_finds_a_cohort_that_fell_within_a_hundred_of_its_outcomes():
    """The demo: a new app washes the pictures out, .97 falls to .64 for those who have it."""
    trigger, delays = Degraded("accuracy", drop=0.05), []
    for seed in range(15):
        rng, watched = np.random.default_rng((42, seed)), Watched(trigger)
        delay, verdict = 0, watched.tell(facts(draw(rng, 3000, 0.03, 0.03, 0.3)))
        while verdict.outcome is not F:
            delay += 10
            verdict = watched.tell(facts(draw(rng, 10, 0.03, 0.36, 0.6)))
        delays.append(delay)
        assert "new_app" in verdict.reason or "accuracy: " in verdict.reason
    assert np.median(delays) <= 150
    assert max(delays) <= 400


def test_degraded_names_the_cohort_and_gives_the_numbers():
    rng = np.random.default_rng(43)
    first, fallen = draw(rng, 2000, 0.03, 0.03, 0.3), draw(rng, 300, 0.03, 0.6, 0.3)
    verdict = asked(Degraded("accuracy"), facts(first), facts(fallen))
    assert verdict.outcome is F
    assert verdict.reason.startswith("accuracy in cohort new_app: loss 0.")
    assert {"reference_loss", "bar", "recent_loss", "evidence", "wanted_evidence"} <= set(verdict.numbers)
    assert [part.outcome for part in verdict.parts][1] is F


def test_degraded_tells_how_many_more_outcomes_would_make_it_fire():
    trigger = Degraded("accuracy", by_cohort=False)
    verdict = asked(trigger, facts(outcomes(np.zeros(300))), facts(outcomes(np.resize([1, 0, 0, 0], 24))))
    assert verdict.outcome is Q
    assert "should it stay so, it fires after about" in verdict.reason
    assert verdict.numbers["more_outcomes"] > 0


def test_a_new_version_begins_with_a_reference_of_its_own():
    trigger = Degraded("accuracy", by_cohort=False)
    fallen = [facts(outcomes(np.zeros(300))), facts(outcomes(np.ones(100)))]
    assert asked(trigger, *fallen).outcome is F
    verdict = asked(trigger, *fallen, facts(outcomes(np.ones(10), version=2), live_version=2))
    assert verdict.outcome is U
    assert "10 of 300" in verdict.reason


def test_a_new_cycle_keeps_the_reference_and_drops_the_evidence():
    trigger = Degraded("accuracy", by_cohort=False)
    fallen = [facts(outcomes(np.zeros(300))), facts(outcomes(np.ones(100)))]
    opened = facts(outcomes(np.zeros(5)), last_cycle_at=NOW)
    verdict = asked(trigger, *fallen, opened)
    assert verdict.outcome is Q
    assert verdict.numbers["outcomes"] == 5
    still = facts(outcomes(np.ones(60)), last_cycle_at=NOW)
    assert asked(trigger, *fallen, opened, still).outcome is F


def test_a_version_that_is_returned_to_is_held_to_what_it_was_and_its_evidence_goes_on():
    watched = Watched(Degraded("accuracy", by_cohort=False))
    watched.tell(facts(outcomes(np.zeros(300))), facts(outcomes(np.resize([1, 0, 0, 0], 24))))
    before = watched.state["streams"]
    watched.tell(facts(outcomes(np.zeros(400), version=2), live_version=2))
    assert watched.tell(facts()).reason == Degraded("accuracy", by_cohort=False).decide({"streams": before}, NOW).reason
    verdict = watched.tell(facts(outcomes(np.resize([1, 0], 60))))
    assert verdict.outcome is F
    assert "0 in the first 300 outcomes" in verdict.reason and verdict.numbers["outcomes"] == 84


def test_only_evidence_that_was_enough_is_used_up_by_a_new_cycle():
    watched = Watched(Degraded("accuracy", by_cohort=False))
    some = watched.tell(facts(outcomes(np.zeros(300))), facts(outcomes(np.resize([1, 0, 0, 0], 24))))
    opened = watched.tell(facts(last_cycle_at=NOW))
    assert opened.numbers == some.numbers, "a cycle that opened for another reason is no second chance to be wrong"
    fired = watched.tell(facts(outcomes(np.ones(60)), last_cycle_at=NOW))
    assert fired.outcome is F
    again = watched.tell(facts(last_cycle_at=NOW + timedelta(days=1)))
    assert (again.outcome, again.numbers["outcomes"]) == (Q, 0)


def test_a_returned_version_remembers_no_evidence_that_a_cycle_used_up_meanwhile():
    watched = Watched(Degraded("accuracy", by_cohort=False))
    assert watched.tell(facts(outcomes(np.zeros(300))), facts(outcomes(np.ones(60)))).outcome is F
    watched.tell(facts(outcomes(np.zeros(9), version=2), live_version=2, last_cycle_at=NOW))
    assert watched.tell(facts(last_cycle_at=NOW)).outcome is Q


def test_nothing_is_known_before_everyones_reference_is_full_whatever_cohorts_are_called():
    rows = outcomes(np.zeros(200))
    africa = replace(rows, cohorts={"africa": np.arange(200) < 190})
    assert asked(Degraded("accuracy", reference=195), facts(africa)).outcome is Q
    few = asked(Degraded("accuracy", reference=201), facts(africa))
    assert (few.outcome, few.reason[:20]) == (U, "accuracy: 200 of 201")


def test_outcomes_of_other_versions_and_without_a_label_do_not_count():
    trigger = Degraded("accuracy", by_cohort=False)
    others, unknown = facts(outcomes(np.ones(500), version=7)), facts(outcomes(np.full(500, np.nan)))
    assert "0 of 300" in asked(trigger, others, unknown).reason


def test_a_loss_that_is_not_zero_or_one_is_refused_with_the_way_out():
    with pytest.raises(ProjectError, match="binary=False"):
        asked(Degraded("accuracy"), facts(outcomes([0.0, 0.4])))


def test_degraded_takes_any_loss_when_told_so():
    rng, trigger = np.random.default_rng(44), Degraded("accuracy", drop=0.1, binary=False, by_cohort=False)
    steady = asked(trigger, facts(outcomes(rng.exponential(size=300))), facts(outcomes(rng.exponential(size=3000))))
    risen = asked(trigger, facts(outcomes(rng.exponential(size=300))), facts(outcomes(rng.exponential(2.0, size=500))))
    assert (steady.outcome, risen.outcome) == (Q, F)


def test_a_degraded_without_a_metric_takes_the_projects_first():
    trigger = (Every() | Degraded().at_most("1d")).resolved("log_loss", binary=False)
    assert trigger.needs().metrics == ("log_loss",)
    assert trigger.members[1] == AtMost(Degraded("log_loss", binary=False), "1d")
    assert Degraded("f1").resolved("accuracy").metric == "f1"
    with pytest.raises(ProjectError, match="no metric"):
        Degraded().needs()


@given(cuts=st.lists(st.integers(0, 700), max_size=5), seed=st.integers(0, 200))
@settings(max_examples=25, deadline=None)
def test_facts_in_batches_of_any_size_give_the_same_verdict_through_json(cuts, seed):
    trigger = (Degraded("accuracy", reference=200) | Amount(10)).at_most("7d")
    rows = draw(np.random.default_rng(seed), 700, 0.1, 0.4, 0.3)
    edges = [0, *sorted(cuts), 700]
    batches = [facts(rows.take(np.arange(a, b))) for a, b in itertools.pairwise(edges)]
    whole, parts = asked(trigger, facts(rows)), asked(trigger, *batches)
    assert parts.outcome is whole.outcome
    assert parts.reason == whole.reason


def test_asking_twice_gives_the_same_answer_and_changes_nothing():
    trigger = (Degraded("accuracy") & Every()).at_most("1d")
    known = facts(outcomes(np.resize([0, 0, 1], 600)))
    state = trigger.update(trigger.start(), known)
    kept = copy.deepcopy(state)
    assert trigger.decide(state, NOW) == trigger.decide(state, NOW)
    assert trigger.update(state, known) == trigger.update(kept, known)
    assert state == kept


@given(st.integers(1, 60), st.integers(0, 2**31))
def test_a_cohort_that_appears_late_is_held_to_everyones_reference_however_the_facts_are_batched(
    size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    is_new = np.arange(200) >= 60
    loss = np.where(is_new, rng.random(200) < 0.5, rng.random(200) < 0.05).astype(float)
    trigger = Degraded("accuracy", drop=0.05, reference=40)
    rows = outcomes(loss, cohort=is_new)
    whole, in_parts = Watched(trigger), Watched(trigger)
    whole.tell(facts(rows))
    for start in range(0, 200, size):
        part = rows.take(np.arange(start, min(start + size, 200)))
        in_parts.tell(facts(replace(part, received_at=part.received_at - start)))
    for watched in (whole, in_parts):
        streams = watched.state["streams"]
        assert streams["new_app"]["reference"] == streams[EVERYONE]["reference"]
