"""A window of requests beside its reference: what moved is named, with its effects and examples."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from log_rows import Mill
from mail import NOON, mail, row

import tidemill as tm
from tidemill.errors import ProjectError
from tidemill.monitor.drift import check_drift, look
from tidemill.monitor.shapes import shapes
from tidemill.monitor.views import view_names, views
from tidemill.project import Project
from tidemill.stats.drift_report import DriftReport
from tidemill.strategy.drift_needs import DriftNeeds

HOUR = timedelta(hours=1)
UNTIL = NOON + HOUR
EMOJI = {"has_emoji": lambda r: "🙂" in r["text"]}


def hours(mill: Mill, change: Any = None, *, num: int = 200, **rows: Any) -> None:
    """Write six hours of mail, `num` an hour; `change` alters the inputs, tags, or row of the last hour."""
    rng = np.random.default_rng(7)
    written = []
    for i in range(6 * num):
        second = (i / num - 5) * 3600 + 1
        inputs = {
            "text": " ".join(rng.choice(["offer", "lunch", "hello", "meeting"], size=rng.integers(1, 9))),
            "num_links": float(rng.poisson(2)), "logo": bytes(rng.integers(90, 160, 4).tolist()),
        }  # fmt: skip
        spam = float(rng.beta(2, 5))
        tags = {"country": str(rng.choice(["NL", "BE", "DE"])), "age": float(rng.normal(40, 9))}
        made = {"inputs": inputs, "tags": tags, "scores": [1 - spam, spam], "decision": "spam" if spam > 0.5 else "ham"}
        if change is not None and second > 0:
            change(made, rng)
        written.append(row(mill, i, second, **{**made, **rows}))
    mill.put(*written, project="mail")


def needs(**changes: Any) -> DriftNeeds:
    usual: dict[str, Any] = {"columns": None, "window": HOUR, "past": 5 * HOUR, "alpha": 0.01, "min_rows": 100}
    return DriftNeeds(**{**usual, **changes})


def looked(mill: Mill, project: Project | None = None, training: Any = None, **asked: Any) -> DriftReport:
    return look(project or mail(), mill.log, training, needs(**asked), UNTIL, np.random.default_rng(1))


def test_an_hour_like_the_five_before_it_is_not_alarming(mill: Mill) -> None:
    hours(mill)
    found = looked(mill, mail(projections=EMOJI))
    assert (found.num_rows, found.num_reference, found.moved) == (200, 1000, ())
    assert found.rank is not None and found.rank > 0.01
    assert {c.name for c in found.columns} == set(view_names(mail(projections=EMOJI), traffic=True))


def links(made: Any, rng: Any) -> None:
    made["inputs"]["num_links"] += 2.0


def country(made: Any, rng: Any) -> None:
    made["tags"]["country"] = str(rng.choice(["NL", "BE", "PL"]))


def words(made: Any, rng: Any) -> None:
    num = len(made["inputs"]["text"].split())
    made["inputs"]["text"] = " ".join(rng.choice(["lottery", "winner", "prize"], size=num))


def dark(made: Any, rng: Any) -> None:
    made["inputs"]["logo"] = bytes(rng.integers(30, 90, 4).tolist())


def emoji(made: Any, rng: Any) -> None:
    made["inputs"]["text"] += " 🙂" if rng.random() < 0.5 else ""


def sure(made: Any, rng: Any) -> None:
    made["scores"] = [0.01, 0.99]


def outside(made: Any, rng: Any) -> None:
    made["outlier"] = ["num_links"] if rng.random() < 0.3 else None


@pytest.mark.parametrize(
    ("change", "column", "statistic"),
    [
        (links, "num_links", "ks"), (country, "country", "js"), (words, "text", "auc"), (dark, "logo", "auc"),
        (emoji, "has_emoji", "js"), (sure, "score.spam", "ks"), (outside, "outlier", "js"),
    ],
)  # fmt: skip
def test_an_hour_in_which_something_moves_is_alarming_and_says_what(
    mill: Mill, change: Any, column: str, statistic: str
) -> None:
    hours(mill, change)
    found = looked(mill, mail(projections=EMOJI))
    assert found.rank == 0.001
    moved = {one.name: one for one in found.moved}
    assert column in moved
    assert moved[column].effects[statistic] > 0.2
    assert not {"age", "num_links", "country"} & set(moved) - {column}
    assert DriftReport.from_json(found.to_json()) == found


def test_examples_are_requests_that_show_what_moved(mill: Mill) -> None:
    hours(mill, country)
    found = looked(mill, columns=("country", "age"))
    shown = mill.log.lookup("mail", found.examples, schema=mail().schema)
    assert len(shown) == 5 and set(shown["country"].to_list()) == {"PL"}
    assert shown["received_at"].min() > mill.at(0)


def test_a_cohort_is_compared_with_itself(mill: Mill) -> None:
    hours(mill, links)
    assert looked(mill, columns=("age",), cohort="dutch").problem == "64 of 100 rows in the window"
    assert [c.name for c in looked(mill, columns=("num_links",), cohort="linked", min_rows=100).moved] == ["num_links"]


def test_too_few_rows_on_either_side_tell_nothing_and_say_so(mill: Mill) -> None:
    hours(mill)
    assert looked(mill, min_rows=201).problem == "200 of 201 rows in the window"
    found = looked(mill, past=HOUR / 4)
    assert (found.rank, found.problem) == (None, "50 of 100 rows that stand for their traffic in the reference")


def test_dropped_inputs_do_not_look_like_drift_and_the_rows_left_stand_for_them(mill: Mill) -> None:
    def thinner(made: Any, rng: Any) -> None:
        """Of the last hour only half of the Dutch mail was kept, with half the probability."""
        if made["tags"]["country"] == "NL":
            made["keep_probability"] = 0.5
            made["inputs"] = made["inputs"] if rng.random() < 0.5 else None

    hours(mill, thinner, num=600)
    found = looked(mill, columns=("country", "num_links"))
    assert found.rank is not None and found.rank > 0.01
    assert 250 < found.num_rows < 350, "others are thinned as much"
    assert looked(mill, columns=("country",)).num_rows == 600, "tags are always there"


def trained(num: int = 1000, shift: float = 0.0, probability: float | None = 1.0) -> pl.DataFrame:
    rng = np.random.default_rng(2)
    return pl.DataFrame({
        "received_at": range(num), "probability": pl.Series([probability] * num, dtype=pl.Float64),
        "text": ["hello"] * num, "num_links": rng.poisson(2, num) + shift, "logo": [bytes(4)] * num,
        "country": rng.choice(["NL", "BE", "DE"], num), "age": rng.normal(40, 9, num),
    })  # fmt: skip


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_training_data_is_a_reference_too(mill: Mill, shift: float) -> None:
    hours(mill)
    names = ("num_links", "country", "age")
    found = looked(mill, training=lambda: trained(shift=shift), columns=names, past=None)
    assert [c.name for c in found.moved] == (["num_links"] if shift else [])


@pytest.mark.parametrize("past", [None, 5 * HOUR])
def test_a_project_of_nothing_but_text_is_watched_by_its_words_and_their_number(mill: Mill, past: Any) -> None:
    project = mail(inputs={"text": tm.Text()}, cohorts={})
    hours(mill, words)
    found = looked(mill, project, lambda: trained().select("text", "received_at", "probability"), past=past)
    assert not found.problem
    assert {"text", "text.length"} <= {column.name for column in found.columns}
    moved = {column.name: column for column in found.columns if column.moved}
    assert "text" in moved and moved["text"].effects["auc"] > 0.8


def test_training_rows_that_stand_for_no_traffic_are_no_reference(mill: Mill) -> None:
    hours(mill)
    found = looked(mill, training=lambda: trained(probability=None), columns=("age",), past=None)
    assert found.rank is None and "reference='30d'" in found.problem
    uneven = trained().with_columns(probability=pl.when(pl.col("age") > 40).then(1.0).otherwise(0.25))
    biased = pl.concat([uneven.filter(pl.col("age") > 40), uneven.filter(pl.col("age") <= 40).gather_every(4)])
    found = looked(mill, training=lambda: biased, columns=("age",), past=None)
    assert found.rank is not None and found.rank > 0.01, "examples count as often as they were likely to be picked"


def test_many_requests_are_sampled_evenly_and_the_same_way_each_time(mill: Mill) -> None:
    hours(mill)
    until, columns = UNTIL, ["request_id", "received_at"]
    some = mill.log.sample("mail", after=None, until=until, at_most=300, columns=columns)
    assert 220 < len(some) < 380
    assert some.equals(mill.log.sample("mail", after=None, until=until, at_most=300, columns=columns))
    half = some.filter(pl.col("received_at") > mill.at(-2 * 3600))
    assert 0.3 < len(half) / len(some) < 0.7
    assert len(mill.log.sample("mail", after=None, until=until, at_most=10**6, columns=columns)) == 1200


def test_columns_that_are_not_there_are_refused_with_what_there_is() -> None:
    check_drift(mail(alerts=[tm.alert.Drifts(["text.length", "score.spam", "outlier"], reference="7d")]))
    with pytest.raises(ProjectError, match="watches 'colour', which is no column"):
        check_drift(mail(alerts=[tm.alert.Drifts(["colour"])]))
    trigger = tm.trigger.Drift(["decision"]) & tm.trigger.Amount(5)
    strategy = tm.Strategy(label=tm.label.Queue(), trigger=trigger)
    with pytest.raises(ProjectError, match="decision") as error:
        check_drift(mail(strategy=strategy))
    assert "compared with traffic" in error.value.hint


def test_a_value_is_a_number_and_rows_without_scores_have_none() -> None:
    project = mail(output=tm.Value(), metrics=[tm.metrics.MeanAbsoluteError()])
    frame = pl.DataFrame({"scores": [[1.5], None], "decision": [1.5, None], "abstained": [False, True]})
    found = views(project, frame, ["score", "decision", "abstained"])
    assert found["score"].to_list() == [1.5, None]
    assert found["decision"].to_list() == [1.5, None]
    assert found["abstained"].to_list() == ["false", "true"]


def test_vectors_are_made_of_evenly_spread_rows_and_are_null_elsewhere() -> None:
    texts = [None, *(f"word {i}" for i in range(5_000)), None]
    found = views(mail(), pl.DataFrame({"text": texts}, schema={"text": pl.String}), ["text"])["text"]
    known = np.flatnonzero(found.is_not_null().to_numpy())
    assert len(found) == 5_002 and len(known) == 2_000
    assert (known[0], known[-1]) == (1, 5_000) and np.diff(known).max() <= 3
    none = pl.DataFrame({"text": [None]}, schema={"text": pl.String})
    assert views(mail(), none, ["text"])["text"].null_count() == 1


# --- inputs that were declared otherwise


RETYPED = {
    "inputs": {"text": tm.Text(), "num_links": tm.Number(), "country": tm.Number(default=-1, tag=True)},
    "projections": {"abroad": lambda r: r["country"] > 0},
    "cohorts": {},
}


def code(made: Any, rng: Any) -> None:
    made["tags"]["country"] = float(rng.integers(1, 4))


def test_an_input_that_had_another_type_in_training_is_not_compared_nor_what_is_projected_of_it(mill: Mill) -> None:
    hours(mill, code)
    found = looked(mill, mail(**RETYPED), trained, past=None)
    assert not found.problem and "num_links" in {column.name for column in found.columns}
    assert not {"country", "abroad"} & {column.name for column in found.columns}
    alone = looked(mill, mail(**RETYPED), trained, past=None, columns=("country", "abroad"))
    assert alone.problem == "the live version was trained on none of these columns"


def test_an_input_that_is_newer_than_the_training_leaves_projections_their_default(mill: Mill) -> None:
    hours(mill, code)
    found = looked(mill, mail(**RETYPED), lambda: trained().drop("country"), past=None)
    columns = {column.name: column for column in found.columns}
    assert "country" not in columns and columns["abroad"].moved


def test_an_input_that_had_another_type_in_earlier_traffic_is_not_compared_with_it(mill: Mill) -> None:
    hours(mill, code)
    project = mail(**RETYPED)
    found = looked(mill, project)
    assert found.moved == () and {"num_links", "decision"} <= {column.name for column in found.columns}
    assert not {"country", "abroad"} & {column.name for column in found.columns}
    assert looked(mill, project, columns=("country",)).problem == "the reference has these columns in another type"
    drawn = shapes(project, mill.log, trained, needs(), UNTIL)
    assert "num_links" in drawn and "country" not in drawn
