"""Where a metric falls: a cohort close up, and the search for the worst slices of the log."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from log_rows import Mill
from mail import everything, mail, row, tell

from tidemill.errors import ProjectError
from tidemill.monitor.cohort_status import cohort_status
from tidemill.monitor.cohorts import cohort_masks
from tidemill.monitor.outcomes import matured_frame
from tidemill.monitor.slices import WorstSlice, judged_frame, slice_metric, worst
from tidemill.project import Project
from tidemill.records import Trust
from tidemill.stores.conditions import evaluate


def shouts(inputs: dict[str, object]) -> bool:
    return str(inputs["text"]).isupper()


PROJECT = mail(
    projections={"shouts": shouts}, cohorts={"dutch": "country = 'NL'", "loud_and_young": "shouts AND age < 30"}
)


def put_many(mill: Mill, *, bad: bool, num: int = 600, units: int = 10**6) -> None:
    """Answers of "ham", wrong one time in ten, and with `bad` mostly wrong for the young who shout."""
    rng, facts = np.random.default_rng(1), []
    for i in range(num):
        age, loud = float(rng.integers(15, 80)), bool(rng.random() < 0.4)
        country = str(rng.choice(["NL", "BE", "O'Land"]))
        is_wrong = rng.random() < (0.8 if bad and loud and age < 30 else 0.1)
        text = "HELLO THERE" if loud else "hello there"
        facts += [
            row(mill, i, second=i / 10, unit=f"u{i % units}", tags={"country": country, "age": age},
                inputs={"text": text, "num_links": float(i % 4), "logo": bytes(4)},
                scores=[0.9, 0.1] if is_wrong and i % 2 else [0.6, 0.4]),
            tell(mill, i, i / 10 + 1, "spam" if is_wrong else "ham"),
        ]  # fmt: skip
    mill.put(*facts, project="mail")


def frame_of(mill: Mill, project: Project = PROJECT) -> pl.DataFrame:
    return matured_frame(mill.log, project, everything(mill), trust=Trust.CROWD, inputs=True)


def search(mill: Mill, project: Project = PROJECT, metric: str | None = None) -> list[WorstSlice]:
    return worst(project, frame_of(mill, project), slice_metric(project, metric), np.random.default_rng(3))


def test_the_worst_slice_is_found_with_a_condition_that_selects_it(mill: Mill) -> None:
    put_many(mill, bad=True)
    project = mail(projections={"shouts": shouts}, cohorts={"dutch": "country = 'NL'"})
    first = search(mill, project)[0]
    assert "age <= " in first.condition and "shouts" in first.condition and first.cohort is None
    assert first.p == pytest.approx(1 / 400) and first.value < 0.5 < first.elsewhere
    seen = cohort_status(project, frame_of(mill, project), first.condition, everything(mill))
    assert (seen.num, seen.quality[0].value) == (first.num, pytest.approx(first.value))
    assert seen.elsewhere[0].value == pytest.approx(first.elsewhere)


def test_a_declared_cohort_is_named_and_tells_for_its_parts(mill: Mill) -> None:
    put_many(mill, bad=True)
    first, *others = search(mill)
    assert first.cohort == "loud_and_young"
    assert str(first).startswith("accuracy 0.") and "where loud_and_young" in str(first)
    assert not [one for one in others if one.p <= 0.05 and one.num < first.num], "its parts say nothing new"


def test_of_noise_nothing_is_said(mill: Mill) -> None:
    put_many(mill, bad=False)
    assert [one for one in search(mill) if one.p <= 0.05] == []


def test_every_condition_is_valid_sql_of_a_cohort(mill: Mill) -> None:
    put_many(mill, bad=True)
    frame = frame_of(mill).with_columns(shouts=pl.Series([shouts({"text": t}) for t in frame_of(mill)["text"]]))
    for one in search(mill):
        assert evaluate({"": one.condition}, frame)[""].sum() == one.num


def test_each_unit_counts_once(mill: Mill) -> None:
    put_many(mill, bad=True, units=100)
    assert max(one.num for one in search(mill)) < 100


def test_slices_of_inputs_that_were_sampled_speak_of_all_requests(mill: Mill) -> None:
    """Inputs of the Dutch are kept one time in twenty, of the others always; long texts are answered wrong abroad."""
    rng, facts = np.random.default_rng(5), []
    for i in range(3_000):
        dutch, long = bool(rng.random() < 0.7), bool(rng.random() < 0.5)
        chance = 0.05 if dutch else 1.0
        is_wrong = rng.random() < (0.5 if long and not dutch else 0.1)
        inputs = {"text": "hello " * (9 if long else 1), "num_links": 0.0, "logo": bytes(4)}
        facts += [
            row(mill, i, second=i / 10, tags={"country": "NL" if dutch else "BE", "age": 40.0}, keep_probability=chance,
                inputs=inputs if rng.random() < chance else None),
            tell(mill, i, i / 10 + 1, "spam" if is_wrong else "ham"),
        ]  # fmt: skip
    mill.put(*facts, project="mail")
    project = mail(cohorts={"long": "length(text) > 10", "dutch": "country = 'NL'"})
    by = {one.cohort or one.condition: one for one in search(mill, project)}
    abroad = by["country = 'BE'"]
    assert abroad.p <= 0.01 and abroad.value == pytest.approx(0.7, abs=0.05), "of a tag all requests are counted"
    truth = 1 - (0.7 * 0.1 + 0.3 * 0.5)
    assert by["long"].value == pytest.approx(truth, abs=0.06), "and not the .56 of those whose inputs are at hand"
    assert by["long"].elsewhere == pytest.approx(0.9, abs=0.05)
    window = everything(mill)
    close = cohort_status(project, frame_of(mill, project), "long", window)
    assert close.quality[0].value == pytest.approx(by["long"].value)
    assert close.elsewhere[0].value == pytest.approx(by["long"].elsewhere)


def test_the_search_reads_no_more_of_the_log_than_it_needs(mill: Mill) -> None:
    put_many(mill, bad=True)
    metric = slice_metric(PROJECT, None)
    frame = judged_frame(mill.log, PROJECT, everything(mill), metric, trust=Trust.CROWD)
    again = worst(PROJECT, frame, metric, np.random.default_rng(3))
    assert [(one.condition, one.num, one.p) for one in again] == [(o.condition, o.num, o.p) for o in search(mill)]


def test_a_metric_without_rows_cannot_be_searched_by() -> None:
    with pytest.raises(ProjectError, match="f1_spam has no value for a single request"):
        slice_metric(PROJECT, "f1")
    assert slice_metric(PROJECT, None).name == "accuracy"
    assert slice_metric(PROJECT, "log_loss").name == "log_loss"


def test_a_cohort_close_up_has_its_trend_and_its_worst_requests(mill: Mill) -> None:
    put_many(mill, bad=True)
    frame = frame_of(mill)
    found = cohort_status(PROJECT, frame, "loud_and_young", everything(mill))
    assert found.num == int(cohort_masks(PROJECT, frame)["loud_and_young"].sum())
    assert sum(point.quality.num for point in found.trend) == found.num and len(found.trend) == 6
    assert len(found.worst) == 10
    assert all(one.label == "spam" and one.decision == "ham" for one in found.worst)
    scores = [one.score for one in found.worst]
    assert scores == sorted(scores, reverse=True) and scores[0] == 0.9, "the most confidently wrong come first"
    assert set(found.worst[0].shown) == {"text", "num_links", "country", "age", "shouts"}, "and no image"
    assert json.loads(json.dumps(found.to_json()))["requests"] == found.num


def test_all_is_a_cohort_and_an_empty_one_is_no_error(mill: Mill) -> None:
    put_many(mill, bad=False, num=50)
    assert cohort_status(PROJECT, frame_of(mill), "all", everything(mill)).num == 50
    nobody = cohort_status(PROJECT, frame_of(mill), "age > 1000", everything(mill))
    assert (nobody.num, nobody.worst, nobody.quality[0].value) == (0, [], None)


def test_what_is_no_cohort_and_no_condition_is_refused(mill: Mill) -> None:
    put_many(mill, bad=False, num=20)
    with pytest.raises(ProjectError, match="'yung' is no cohort and no condition") as error:
        cohort_status(PROJECT, frame_of(mill), "yung", everything(mill))
    assert "all, dutch, loud_and_young" in error.value.hint
