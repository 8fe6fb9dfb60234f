"""When requests have become other ones: the trigger `Drift` and the alert `Drifts`."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from tidemill.errors import ProjectError
from tidemill.records import Json, Outcome, Verdict
from tidemill.stats.drift_report import ColumnDrift, DriftReport
from tidemill.strategy.alert import AlertFacts, Drifts
from tidemill.strategy.drift_needs import DriftNeeds
from tidemill.strategy.outcomes import Outcomes
from tidemill.strategy.trigger import Amount, Degraded, Drift, Trigger, WatchFacts

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
F, Q, U = Outcome.FIRE, Outcome.QUIET, Outcome.UNKNOWN
RANKS = {F: 0.001, Q: 0.3, U: None}


def report(word: Outcome, day: int = 0) -> DriftReport:
    """A look at day `day` that makes a trigger say `word`."""
    moved = ColumnDrift(name="price", statistic="ks", unusual=9.0, moved=word is F, effects={"ks": 0.31, "psi": 0.5})
    still = ColumnDrift(name="app", statistic="js", unusual=0.2, moved=False, effects={"js": 0.01})
    return DriftReport(
        after=NOW + day * DAY, until=NOW + (day + 1) * DAY, num_rows=20 if word is U else 900, num_reference=9000,
        rank=RANKS[word], columns=() if word is U else (moved, still), examples=("r7", "r9") if word is F else (),
        problem="20 of 500 rows in the window" if word is U else "",
    )  # fmt: skip


def watched(member: Trigger, *words: Outcome | None, version: int = 1, cycles: dict[int, datetime] | None = None):
    """Show a trigger a look a day; None is a turn at which no look is due. Return its verdicts."""
    state, said = member.start(), []
    for day, word in enumerate(words):
        known = WatchFacts(
            now=NOW + (day + 1) * DAY, outcomes=Outcomes.empty(), num_labels=0, trained_labels=0, last_trained_at=NOW,
            live_version=version, last_cycle_at=(cycles or {}).get(day),
            drift={} if word is None else {need: report(word, day) for need in member.needs().drift},
        )  # fmt: skip
        state = json.loads(json.dumps(member.update(state, known), allow_nan=False))
        said.append(member.decide(state, known.now))
    return said


def alerted(member: Drifts, *words: Outcome | None) -> list[Verdict]:
    state, said = member.start(), []
    for day, word in enumerate(words):
        known = AlertFacts(
            now=NOW + (day + 1) * DAY, live_version=1, outcomes=Outcomes.empty(),
            drift={} if word is None else {member.drift_needs: report(word, day)},
        )  # fmt: skip
        state = json.loads(json.dumps(member.update(state, known), allow_nan=False))
        said.append(member.decide(state, known.now))
    return said


@pytest.mark.parametrize("word", [F, Q, U])
def test_it_says_what_the_newest_look_said_until_the_next(word):
    assert [v.outcome for v in watched(Drift(), None, word, None, Q)] == [U, word, word, Q]


def test_a_verdict_names_what_moved_by_how_much_since_when_and_examples():
    *_, verdict = watched(Drift(), Q, F, F, None)
    assert verdict.reason == (
        "price (ks 0.31) moved, since 2026-03-02 00:00: rank 0.001 of 900 rows until 2026-03-04 00:00 beside the"
        " training data"
    )
    assert verdict.numbers["moved"] == "price"
    assert verdict.numbers["price.ks"] == 0.31
    assert verdict.numbers["since"] == "2026-03-02T00:00Z"
    assert verdict.numbers["examples"] == "r7 r9"
    assert watched(Drift(), F, Q)[-1].reason.startswith("nothing unusual: rank 0.3 of 900 rows")
    assert watched(Drift(), U)[-1].reason == "20 of 500 rows in the window"


def test_a_new_cycle_and_a_new_version_begin_anew():
    assert [v.outcome for v in watched(Drift(), F, None, cycles={1: NOW + DAY})] == [F, U]
    drift, state = Drift(), {}
    for version in (1, 2):
        known = WatchFacts(
            now=NOW, outcomes=Outcomes.empty(), num_labels=0, trained_labels=0, last_trained_at=NOW,
            live_version=version, drift={drift.drift_needs: report(F)} if version == 1 else {},
        )  # fmt: skip
        state = drift.update(state, known)
    assert drift.decide(state, NOW).outcome is U


OR = {(F, F): F, (F, Q): F, (F, U): F, (Q, Q): Q, (Q, U): U, (U, U): U}
AND = {(F, F): F, (F, Q): Q, (F, U): U, (Q, Q): Q, (Q, U): Q, (U, U): U}


@dataclass(frozen=True)
class Minded(Trigger):
    """A trigger that has made up its mind."""

    word: Outcome

    def update(self, state: Json, facts: WatchFacts) -> Json:
        return state

    def decide(self, state: Json, now: datetime) -> Verdict:
        return self._say(self.word, f"I say {self.word}")


@pytest.mark.parametrize(("a", "b"), list(itertools.product([F, Q, U], repeat=2)))
def test_with_others_it_follows_the_three_valued_tables(a, b):
    key = (a, b) if (a, b) in OR else (b, a)
    assert watched(Drift() | Minded(b), a)[-1].outcome is OR[key]
    assert watched(Minded(b) & Drift(), a)[-1].outcome is AND[key]


@pytest.mark.parametrize(("a", "b", "c"), list(itertools.product([F, Q, U], repeat=3)))
def test_two_looks_at_drift_and_another_trigger_compose_on_the_whole_table(a, b, c):
    daily, weekly = Drift(), Drift(window="7d", reference="30d")
    member = (daily | weekly) & Minded(c)
    known = WatchFacts(
        now=NOW, outcomes=Outcomes.empty(), num_labels=0, trained_labels=0, last_trained_at=NOW, live_version=1,
        drift={daily.drift_needs: report(a), weekly.drift_needs: report(b)},
    )  # fmt: skip
    either = OR[(a, b) if (a, b) in OR else (b, a)]
    wanted = AND[(either, c) if (either, c) in AND else (c, either)]
    assert member.decide(member.update(member.start(), known), NOW).outcome is wanted


def test_a_composition_asks_for_each_look_once_beside_the_outcomes_that_others_read():
    needs = (Drift(["x"]) | Drift(["x"]) & Amount(5) | Degraded("accuracy")).at_most("7d").needs()
    assert needs.drift == (Drift(["x"]).drift_needs,)
    assert needs.metrics == ("accuracy",)
    assert Drift(["x"]).drift_needs == Drifts(["x"]).drift_needs, "a trigger and an alert share a look"


def test_an_alert_opens_with_the_first_alarming_window_and_is_quiet_with_the_next_calm_one():
    said = alerted(Drifts(cohort="new", reference="30d"), None, U, F, None, F, Q)
    assert [v.outcome for v in said] == [U, U, F, F, F, Q]
    assert said[-2].numbers["since"] == "2026-03-03T00:00Z", "since the first of the windows in a row"
    assert said[-2].reason.startswith("in cohort new: price (ks 0.31) moved")
    assert "beside the 30 days before" in said[-2].reason


def test_windows_are_whole_ones_in_utc():
    needs = Drift(window="6h").drift_needs
    assert needs.last_whole(datetime(2026, 3, 1, 11, 59, tzinfo=UTC)) == datetime(2026, 3, 1, 6, tzinfo=UTC)
    assert needs.last_whole(datetime(2026, 3, 1, 12, tzinfo=UTC)) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert isinstance(needs, DriftNeeds)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"alpha": 0.0001}, "alpha is 0.0001"), ({"alpha": 0.6}, "alpha is 0.6"), ({"columns": []}, "columns is empty"),
        ({"window": "0s"}, "window"), ({"min_rows": 5}, "min_rows is 5"), ({"reference": "0s"}, "reference is"),
        ({"reference": "always"}, "not a duration"),
    ],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(wrong, says):
    for kind in (Drift, Drifts):
        with pytest.raises(ProjectError, match=says):
            kind(**wrong)
