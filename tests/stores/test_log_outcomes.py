"""What is known of requests: labels, events and words about them, joined by their ids."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_rows import Mill, feedback, prediction

from tidemill.errors import ProjectError
from tidemill.records import Trust
from tidemill.stores.database import Database

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
NUMBERS = count()  # for projects of their own: one log serves all examples of a property


@pytest.fixture
def mill(tmp_path: Path, database: Database, noon: datetime) -> Mill:
    return Mill(tmp_path, database, noon)


def outcomes(mill: Mill, **changes: Any) -> pl.DataFrame:
    asked = {"after": None, "until": mill.now + DAY, "horizon": 60 * SECOND, "trust": Trust.CROWD}
    return mill.log.outcomes("p", **{**asked, **changes})


def by_number(frame: pl.DataFrame, column: str) -> dict[int, Any]:
    return {int(id_[-6:]): value for id_, value in zip(frame["request_id"], frame[column], strict=True)}


def test_a_label_counts_from_the_request_to_the_end_of_its_horizon(mill: Mill) -> None:
    mill.put(prediction(9, mill.at(50)), *[prediction(i, mill.at(100)) for i in range(5)])
    mill.put(
        feedback(0, mill.at(100), "at once"),
        feedback(1, mill.at(160), "just in time"),
        feedback(2, mill.at(160.000001), "too late"),
        feedback(3, mill.at(99.999999), "too early"),
    )
    expected = {0: "at once", 1: "just in time", 2: None, 3: None, 4: None, 9: None}
    assert by_number(outcomes(mill), "label") == expected


def test_feedback_that_reaches_the_log_before_its_request_is_joined_all_the_same(mill: Mill) -> None:
    mill.put(feedback(1, mill.at(10), "toxic"))
    mill.put(prediction(1, mill.at(5)))
    (row,) = outcomes(mill).to_dicts()
    assert (row["label"], row["label_trust"], row["label_at"]) == ("toxic", "people", mill.at(10))


def test_a_word_on_the_decision_is_a_label(mill: Mill) -> None:
    mill.put(*[prediction(i, mill.at(0), decision="ok") for i in range(4)], prediction(4, mill.at(0), decision=None))
    mill.put(
        feedback(0, mill.at(1), True, kind="confirm"),
        feedback(1, mill.at(1), "toxic", kind="correct"),
        feedback(2, mill.at(1), "toxic", kind="override", trust="truth"),
        feedback(2, mill.at(2), True, kind="confirm"),
        feedback(3, mill.at(1), "toxic"),
        feedback(3, mill.at(2), True, kind="confirm"),
        feedback(4, mill.at(1), True, kind="confirm"),
    )
    assert by_number(outcomes(mill), "label") == {0: "ok", 1: "toxic", 2: "toxic", 3: "ok", 4: None}
    said = mill.log.labels("p", after=None, until=mill.now + DAY).select("request_id", "kind", "value").rows()
    names = {f"request-{i:06d}": i for i in range(5)}
    assert sorted((names[request_id], kind, value) for request_id, kind, value in said) == [
        (0, "confirm", "ok"), (1, "correct", "toxic"), (2, "confirm", "ok"), (2, "override", "toxic"),
        (3, "confirm", "ok"), (3, "label", "toxic"),
    ]  # fmt: skip


def test_feedback_for_unknown_requests_and_other_projects_is_not_joined(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(5)), feedback(9, mill.at(6), "toxic"))
    mill.put(feedback(1, mill.at(6), "toxic"), project="q")
    assert outcomes(mill)["label"].to_list() == [None]


LABELS = st.lists(
    st.tuples(st.sampled_from(list(Trust)), st.integers(1, 4), st.sampled_from("ab"), st.sampled_from(["x", "y"])),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=LABELS, data=st.data())
def test_the_highest_trust_then_the_newest_wins_in_whatever_order_labels_came(
    mill: Mill, labels: list[tuple[Trust, int, str, str]], data: st.DataObject
) -> None:
    project, trust = f"p{next(NUMBERS)}", data.draw(st.sampled_from(list(Trust)))
    facts = [feedback(1, mill.at(at), value, trust=str(t), source=source) for t, at, source, value in labels]
    shuffled = data.draw(st.permutations(facts))
    half = data.draw(st.integers(0, len(facts)))
    mill.seal(*shuffled[:half], prediction(1, mill.at(0)), project=project)
    mill.put(*shuffled[half:], project=project)
    (row,) = mill.log.outcomes(
        project, after=None, until=mill.now + DAY, horizon=60 * SECOND, trust=trust, columns=["decision"]
    ).to_dicts()
    allowed = [label for label in labels if label[0].rank >= trust.rank]
    best = max(allowed, key=lambda label: (label[0].rank, *label[1:]), default=None)
    if best is None:
        assert row["label"] is None
    else:
        assert (row["label"], row["label_trust"], row["label_at"]) == (best[3], str(best[0]), mill.at(best[1]))


def test_an_event_is_its_newest_value_one_without_a_number_and_nought_without_an_event(mill: Mill) -> None:
    mill.put(*[prediction(i, mill.at(0)) for i in range(4)])
    mill.put(
        feedback(0, mill.at(1), None, kind="copy", trust="crowd"),
        feedback(1, mill.at(1), 10.0, kind="copy"),
        feedback(1, mill.at(2), 7.5, kind="copy"),
        feedback(2, mill.at(1), False, kind="copy"),
        feedback(2, mill.at(1), 5, kind="rating"),
        feedback(3, mill.at(61), 9.0, kind="copy"),
    )
    frame = outcomes(mill, events=["copy", "rating", "never"], trust=Trust.TRUTH)
    assert by_number(frame, "event_copy") == {0: 1.0, 1: 7.5, 2: 0.0, 3: 0.0}
    assert by_number(frame, "event_rating") == {0: None, 1: None, 2: 5.0, 3: None}, "silence is no rating"
    assert by_number(frame, "event_never") == dict.fromkeys(range(4), 0.0)


def test_labels_have_the_type_of_decisions(mill: Mill) -> None:
    numbers = {"after": None, "until": mill.now + DAY, "horizon": DAY, "trust": Trust.CROWD}
    mill.put(prediction(1, mill.at(1), decision=2.5), feedback(1, mill.at(2), 3.0))
    mill.put(prediction(1, mill.at(1), decision=None), feedback(1, mill.at(2), 3.0), project="failed")
    mill.put(prediction(1, mill.at(1)), project="unlabelled")
    mill.put(prediction(1, mill.at(1)), feedback(1, mill.at(2), 3.0), project="retyped")
    for project, kind in [
        ("p", pl.Float64()),
        ("failed", pl.Float64()),
        ("unlabelled", pl.String()),
        ("retyped", pl.String()),
    ]:
        frame = mill.log.outcomes(project, **numbers)
        assert frame.schema["label"] == frame.schema["decision"] == kind
        assert len(frame.filter(pl.col("label") == pl.col("decision"))) == 0


def test_every_role_and_row_order_is_kept_by_the_join(mill: Mill) -> None:
    rows = [prediction(i, mill.at(i), role="shadow", answered_version=v) for i in range(4) for v in (3, 2)]
    mill.put(*rows, *[feedback(i, mill.at(i + 1), "ok") for i in range(4)])
    frame = outcomes(mill, role="shadow", columns=["answered_version"])
    assert frame["answered_version"].to_list() == [2, 3] * 4
    assert frame["label"].to_list() == ["ok"] * 8


def test_no_rows_have_outcome_columns_too(mill: Mill) -> None:
    frame = outcomes(mill, events=["copy"], columns=["text"])
    assert frame.is_empty()
    assert {"text", "label", "label_trust", "label_at", "event_copy"} <= set(frame.columns)


def test_an_input_with_the_name_of_an_outcome_is_refused_by_name(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), inputs={"event_copy": "x"}))
    with pytest.raises(ProjectError, match="event_copy"):
        outcomes(mill, events=["copy"])
    assert outcomes(mill, events=["paste"])["event_paste"].to_list() == [0.0]
