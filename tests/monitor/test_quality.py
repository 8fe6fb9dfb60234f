"""Quality that users got: the answering version's decision against the truth, by cohort."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_rows import Mill
from mail import everything, mail, row, tell

import tidemill as tm
from tidemill.monitor.cohort_status import cohort_status
from tidemill.monitor.outcomes import matured_frame, outcomes
from tidemill.monitor.quality import Quality, quality, quality_of
from tidemill.project import Project
from tidemill.records import Json, Trust
from tidemill.runtime.routing import position
from tidemill.schema import Array
from tidemill.stats.intervals import wilson
from tidemill.stats.metrics import Judged


def found(mill: Mill, project: Project | None = None, trust: Trust = Trust.CROWD) -> dict[tuple[str, str], Quality]:
    return {(q.metric, q.cohort): q for q in quality(mill.log, project or mail(), everything(mill), trust=trust)}


def put_ten(mill: Mill) -> None:
    """Ten answers of "ham", of which 1 to 6 are right; 1 to 4 came from abroad."""
    abroad = {"tags": {"country": "BE", "age": 40.0}}
    rows = [row(mill, i, second=i, **(abroad if i < 5 else {})) for i in range(1, 11)]
    mill.put(*rows, *(tell(mill, i, i + 1, "ham" if i < 7 else "spam") for i in range(1, 11)), project="mail")


def test_every_metric_is_given_for_all_requests_and_for_each_cohort(mill: Mill) -> None:
    put_ten(mill)
    by = found(mill)
    assert set(by) == {
        (metric, cohort)
        for metric in ("accuracy", "f1_spam", "log_loss", "event_rate_undo")
        for cohort in ("all", "dutch", "young", "linked")
    }
    assert by["accuracy", "all"].value == 0.6 and by["accuracy", "all"].num == 10
    assert by["accuracy", "dutch"].value == pytest.approx(2 / 6) and by["accuracy", "dutch"].num == 6
    assert by["log_loss", "all"].value == pytest.approx(-(6 * math.log(0.75) + 4 * math.log(0.25)) / 10)
    assert by["f1_spam", "all"].value == 0.0 and by["f1_spam", "all"].num == 10


def test_shares_have_an_interval_and_other_metrics_none(mill: Mill) -> None:
    put_ten(mill)
    by = found(mill)
    span = wilson(6, 10)
    assert (by["accuracy", "all"].low, by["accuracy", "all"].high) == (span.low, span.high)
    assert by["event_rate_undo", "all"].low is not None
    assert by["log_loss", "all"].low is by["f1_spam", "all"].low is None


def test_thumbs_and_ratings_are_metrics_like_others_in_all_and_in_each_cohort(mill: Mill) -> None:
    put_ten(mill)
    told = [(i, "thumbs", i < 4) for i in (2, 3, 5, 6)] + [(i, "rating", float(i)) for i in (1, 4, 8)]
    mill.put(*(tell(mill, i, i + 2, value, kind=kind) for i, kind, value in told), project="mail")
    project = mail(metrics=[tm.metrics.Thumbs(), tm.metrics.Rating(0, 10)])
    by = found(mill, project)
    assert (by["thumbs", "all"].num, by["thumbs", "all"].value) == (4, 0.5)
    assert by["thumbs", "all"].low == wilson(2, 4).low
    assert (by["thumbs", "dutch"].num, by["thumbs", "dutch"].value) == (2, 0.0)
    assert (by["rating", "all"].num, by["rating", "all"].value) == (3, pytest.approx(13 / 3))
    assert (by["rating", "dutch"].num, by["rating", "dutch"].value) == (1, 8.0)
    frame = matured_frame(mill.log, project, everything(mill), trust=Trust.CROWD)
    losses = outcomes(project, frame, candidate=None, metrics=["thumbs", "rating"]).values
    assert np.nansum(losses["thumbs"]) == 2 and np.nanmin(losses["rating"]) == 2.0, "higher is worse, and 0 is best"


def test_what_nobody_judged_is_not_known_and_json_can_say_so(mill: Mill) -> None:
    mill.put(row(mill, 1), project="mail")
    by = found(mill)
    assert (by["accuracy", "all"].num, by["accuracy", "all"].value, by["accuracy", "all"].low) == (0, None, None)
    assert by["event_rate_undo", "all"].value == 0.0, "silence is an answer for an event"
    assert "NaN" not in json.dumps([q.to_json() for q in by.values()], allow_nan=False)


def test_an_empty_log_has_no_known_quality(mill: Mill) -> None:
    assert {q.value for q in found(mill).values()} == {None}


def test_users_who_got_no_answer_do_not_count_but_those_of_the_fallback_do(mill: Mill) -> None:
    mill.put(
        row(mill, 1, answered_version=0, error="raised", decision=None, scores=None),
        row(mill, 2, assigned_version=2, fallback_reason="raised"),
        tell(mill, 1, 1, "ham"), tell(mill, 2, 1, "ham"), project="mail",
    )  # fmt: skip
    by = found(mill)
    assert (by["accuracy", "all"].num, by["accuracy", "all"].value) == (1, 1.0)
    assert by["event_rate_undo", "all"].num == 1


def test_only_labels_of_the_trust_asked_for_count(mill: Mill) -> None:
    mill.put(
        row(mill, 1), row(mill, 2), tell(mill, 1, 1, "spam"), tell(mill, 2, 1, "ham", trust="people"), project="mail"
    )
    assert found(mill)["accuracy", "all"].value == 0.5
    assert found(mill, trust=Trust.PEOPLE)["accuracy", "all"].value == 1.0
    assert found(mill, trust=Trust.TRUTH)["accuracy", "all"].value is None


def test_inputs_that_were_not_kept_do_not_change_the_quality(mill: Mill) -> None:
    mill.put(*(row(mill, i, inputs=None, keep_probability=0.1) for i in (1, 2)), row(mill, 3), project="mail")
    mill.put(tell(mill, 1, 1, "spam"), tell(mill, 2, 1, "spam"), tell(mill, 3, 1, "ham"), project="mail")
    assert found(mill)["accuracy", "all"].value == pytest.approx(1 / 3)


def test_numbers_have_their_mean_error_without_an_interval(mill: Mill) -> None:
    project = mail(output=tm.Value(), metrics=())
    mill.put(row(mill, 1, decision=3.0, scores=[3.0]), tell(mill, 1, 1, 5.0), project="mail")
    one = found(mill, project)["mean_absolute_error", "all"]
    assert (one.num, one.value, one.low, one.high) == (1, 2.0, None, None)


def test_quality_is_the_mean_over_the_judged_rows_of_each_cohort(mill: Mill) -> None:
    put_ten(mill)
    project = mail()
    frame = matured_frame(mill.log, project, everything(mill), trust=Trust.CROWD)

    @given(st.lists(st.tuples(st.sampled_from(["ham", "spam", None]), st.booleans()), min_size=10, max_size=10))
    def is_the_mean(said: list[tuple[str | None, bool]]) -> None:
        labels = [label for label, _ in said]
        countries = ["NL" if dutch else "BE" for _, dutch in said]
        changed = frame.with_columns(label=_strings(labels), country=_strings(countries))
        by = {(q.metric, q.cohort): q for q in quality_of(project, changed)}
        for cohort, mask in {"all": [True] * 10, "dutch": [c == "NL" for c in countries]}.items():
            right = [label == "ham" for label, inside in zip(labels, mask, strict=True) if inside and label is not None]
            one = by["accuracy", cohort]
            assert one.num == len(right)
            assert one.value == (pytest.approx(np.mean(right)) if right else None)
            if one.value is not None:
                assert one.low is not None and one.high is not None
                assert 0 <= one.low <= one.value + 1e-9 and one.value - 1e-9 <= one.high <= 1

    is_the_mean()


@dataclass(frozen=True)
class Heaviest:
    """A metric of all rows at once that nobody can add up: the share of the commonest label."""

    name = "heaviest"
    higher_is_better = True
    bounds = (0.0, 1.0)

    def rows(self, judged: Judged) -> None:
        """It has no row form."""

    def value(self, judged: Judged, weights: Array | None = None) -> float:
        known = judged.labels[judged.known].astype(str)
        return float(np.unique(known, return_counts=True)[1].max() / len(known))

    def to_json(self) -> Json:
        return {"metric": "Heaviest", "params": {}}


@pytest.mark.parametrize("at_most", [1, 3, 7])
def test_a_log_that_is_counted_in_parts_has_the_quality_of_the_whole(mill: Mill, at_most: int) -> None:
    put_ten(mill)
    mill.put(row(mill, 99, second=10**5), tell(mill, 99, 10**5 + 1, "ham"), project="mail")
    usual = mail()
    project = mail(metrics=[*usual.metrics, Heaviest()], cohorts={**usual.cohorts, "few": "num_links = 0"})
    spans = mill.log.spans("mail", after=None, until=everything(mill).until, at_most=at_most)
    assert len(spans) > 1
    whole = quality(mill.log, project, everything(mill))
    parts = quality(mill.log, project, everything(mill), at_most=at_most)
    for one, other in zip(parts, whole, strict=True):
        assert (one.metric, one.cohort, one.num) == (other.metric, other.cohort, other.num)
        for name in ("value", "low", "high"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)
    (heaviest,) = [one for one in parts if (one.metric, one.cohort) == ("heaviest", "all")]
    assert (heaviest.num, heaviest.value) == (11, pytest.approx(7 / 11))


def test_requests_whose_inputs_were_kept_stand_for_those_whose_were_not(mill: Mill) -> None:
    """Of the young all links are known, of the others those of one in ten; the young are answered wrong."""
    young = [row(mill, i, tags={"country": "NL", "age": 20.0}, inputs=_links(3.0)) for i in range(10)]
    old = [row(mill, i, inputs=_links(3.0) if i % 10 == 0 else None, keep_probability=0.1) for i in range(10, 110)]
    wrong = [tell(mill, i, 1, "spam" if i < 10 else "ham") for i in range(110)]
    mill.put(*young, *old, *wrong, project="mail")
    by = found(mill)
    everyone, linked = by["accuracy", "all"], by["accuracy", "linked"]
    assert (everyone.num, everyone.value) == (110, pytest.approx(100 / 110))
    assert (linked.num, linked.value) == (20, pytest.approx(100 / 110)), "not the half that the rows at hand say"
    assert linked.low is not None and linked.high is not None and linked.low < 100 / 110 < linked.high
    assert linked.high - linked.low > everyone.high - everyone.low, "fewer rows say less"  # type: ignore[operator]
    assert by["accuracy", "dutch"].num == 110, "tags are there of all requests"
    seen = matured_frame(mill.log, mail(), everything(mill), trust=Trust.CROWD, inputs=True)
    close = cohort_status(mail(), seen, "linked", everything(mill))
    assert close.quality[0].value == pytest.approx(100 / 110) and close.elsewhere[0].num == 0


def test_a_cohort_of_missing_inputs_stands_for_the_requests_that_miss_them(mill: Mill) -> None:
    """Half of 400 requests have no links and are answered wrong; the inputs of a quarter were kept."""
    rows, facts = [], []
    for i in range(400):
        inputs = {"text": "hi", "logo": bytes(4)} if i % 2 else _links(1.0)
        kept = position("keep", f"r{i}") < 0.25
        rows.append(row(mill, i, inputs=inputs if kept else None, keep_probability=0.25))
        facts.append(tell(mill, i, 1, "spam" if i % 2 else "ham"))
    mill.put(*rows, *facts, project="mail")
    project = mail(cohorts={"missing": "num_links IS NULL", "either": "num_links IS NULL OR num_links > 0"})
    by = found(mill, project)
    num = sum(position("keep", f"r{i}") < 0.25 for i in range(1, 400, 2))
    assert (by["accuracy", "missing"].num, by["accuracy", "missing"].value) == (num, 0.0)
    assert by["accuracy", "either"].value == pytest.approx(0.5, abs=0.1)
    seen = matured_frame(mill.log, project, everything(mill), trust=Trust.CROWD, inputs=True)
    for name in ("missing", "num_links IS NULL"):
        close = cohort_status(project, seen, name, everything(mill))
        assert (close.num, close.quality[0].value, close.elsewhere[0].value) == (num, 0.0, 1.0)


def _links(num: float) -> dict[str, object]:
    return {"text": "hi", "num_links": num, "logo": bytes(4)}


def _strings(values: list[str | None]) -> object:
    import polars as pl

    return pl.Series(values, dtype=pl.String)
