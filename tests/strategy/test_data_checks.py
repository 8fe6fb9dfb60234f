"""`offline.DataChecks`: the training rows meet a pandera schema, or the reason says which columns and rows do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.loop.data_checks import checked_data, training_frame
from tidemill.model import TrainingData
from tidemill.records import Outcome, Verdict
from tidemill.review.suggest import suggest_schema
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Tensor, Text, Value
from tidemill.strategy.evidence import Evidence
from tidemill.strategy.offline import DataChecks
from tidemill.strategy.strategy import Strategy
from tidemill.testing.checks import check_stage

pa: Any = pytest.importorskip("pandera.polars", reason="pip install 'tidemill[checks]'")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = Schema({"x": Number(), "app": Category(tag=True)}, Classes(("ok", "bad")))


def rows(**columns: list[Any]) -> TrainingData:
    num = len(columns["x"])
    made = {"x": np.array(columns["x"], dtype=float), "app": np.array([*columns["app"], None], dtype=object)[:-1]}
    return TrainingData(
        schema=SCHEMA, columns=made, targets=np.arange(num) % 2, weights=np.ones(num),
        ids=tuple(f"r{i}" for i in range(num)),
    )  # fmt: skip


FOUR = rows(x=[0.1, 0.5, 7.5, 9.0], app=["v1", "v2", "v1", "v3"])


def judge(schema: Any, data: TrainingData = FOUR) -> Verdict:
    member = DataChecks(schema)
    seen = Evidence(cells=(), candidate=2, live=1, now=NOW, data=checked_data(data, member.needs().data))
    return member.judge(seen)


def frame(**columns: Any) -> Any:
    return pa.DataFrameSchema(columns)


# --- verdicts


class Rows(pa.DataFrameModel):
    x: float = pa.Field(ge=0, le=10)
    app: str = pa.Field(isin=["v1", "v2", "v3"])
    label: str = pa.Field(isin=["ok", "bad"])


def test_rows_that_meet_a_schema_or_a_model_pass():
    whole = frame(x=pa.Column(pl.Float64, pa.Check.in_range(0, 10)), label=pa.Column(pl.String))
    for schema in (whole, Rows):
        assert judge(schema).outcome is Outcome.PASS
        assert judge(schema).reason == "4 training rows hold to it"


def test_a_failure_names_columns_counts_values_and_rows_and_leads_back_to_the_data():
    schema = frame(
        x=pa.Column(pl.Float64, [pa.Check.in_range(0, 1), pa.Check(lambda d: d.lazyframe.select(pl.col("x") != 9))]),
        app=pa.Column(pl.String, pa.Check.isin(["v1", "v2"]), unique=True),
        country=pa.Column(pl.String),
        label=pa.Column(pl.Int64),
    )
    verdict = judge(schema)
    assert (verdict.outcome, verdict.back_to) == (Outcome.FAIL, "data")
    assert verdict.numbers == {"breaches": 6, "broken": 14}
    assert "of 4 training rows, " in verdict.reason
    assert "'country' is missing: 4 rows" in verdict.reason
    assert "'label' is String, not Int64: 4 rows" in verdict.reason
    assert "'x' in_range(0, 1): 2 rows, such as 7.5, 9.0 (r2)" in verdict.reason
    assert "'app' must be unique: 2 rows, such as 'v1' (r0)" in verdict.reason
    assert verdict.reason.endswith("and 2 more checks")


def raising(data: Any) -> Any:
    raise KeyError("colour")


def test_checks_of_the_whole_table_nulls_and_checks_that_raise_are_told():
    whole = pa.DataFrameSchema(
        {"x": pa.Column(pl.Float64, pa.Check(raising))},
        checks=[
            pa.Check(lambda d: d.lazyframe.select(pl.col("x") < 9), name="small"),
            pa.Check(lambda d: d.lazyframe.select(pl.len() >= 100), name="a hundred rows"),
        ],
    )
    said = judge(whole).reason
    assert "the check raising raised KeyError" in said
    assert "small: 1 row (r3)" in said
    assert "a hundred rows: 1 row" in said
    missing = rows(x=[1.0, 2.0], app=["v1", None])
    assert "'app' must not be null: 1 row, such as None (r1)" in judge(frame(app=pa.Column(pl.String)), missing).reason


def test_a_strict_schema_is_not_shown_the_weight_that_it_does_not_name():
    columns = {"x": pa.Column(pl.Float64), "app": pa.Column(pl.String), "label": pa.Column(pl.String)}
    assert judge(pa.DataFrameSchema(columns, strict=True)).outcome is Outcome.PASS
    weighted = {**columns, "weight": pa.Column(pl.Float64, pa.Check.ge(0))}
    assert judge(pa.DataFrameSchema(weighted, strict=True)).outcome is Outcome.PASS
    verdict = judge(pa.DataFrameSchema({"x": columns["x"]}, strict=True))
    assert "'app' is not in the schema" in verdict.reason


def test_what_was_not_checked_is_inconclusive():
    seen = Evidence(cells=(), candidate=2, live=1, now=NOW)
    assert DataChecks(Rows).judge(seen).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("schema", [3, int, {"x": "float"}, "x > 0"])
def test_what_is_no_schema_for_polars_is_refused(schema: Any):
    with pytest.raises(ProjectError, match=r"offline\.DataChecks: \w+ is no schema for polars.*pandera\.polars"):
        DataChecks(schema)


def test_a_schema_that_would_drop_rows_is_refused():
    dropping = pa.DataFrameSchema({"x": pa.Column(pl.Float64, coerce=True)}, drop_invalid_rows=True)
    with pytest.raises(ProjectError, match="drops invalid rows"):
        DataChecks(dropping)


# --- what makes two tests the same


def below(limit: float) -> Any:
    return pa.Check(lambda d: d.lazyframe.select(pl.col(d.key) < limit))


def same_frame() -> Any:
    return frame(x=pa.Column(pl.Float64, [pa.Check.in_range(0, 1), below(3)]), app=pa.Column(pl.String))


@pytest.mark.parametrize("member", [DataChecks(same_frame()), DataChecks(Rows)], ids=str)
def test_it_keeps_what_its_family_promises(member: DataChecks):
    check_stage(member)


def test_equal_schemas_are_one_test_and_every_difference_makes_another():
    assert DataChecks(same_frame()) == DataChecks(same_frame())
    assert (
        Strategy(offline=[DataChecks(same_frame())]).digest() == Strategy(offline=[DataChecks(same_frame())]).digest()
    )
    column: Callable[..., Any] = pa.Column
    schemas = [
        same_frame(),
        frame(x=column(pl.Float64, [pa.Check.in_range(0, 2), below(3)]), app=column(pl.String)),
        frame(x=column(pl.Float64, [pa.Check.in_range(0, 1), below(4)]), app=column(pl.String)),
        frame(x=column(pl.Float64, [pa.Check.in_range(0, 1), below(3)]), app=column(pl.String, nullable=True)),
        frame(x=column(pl.Int64, [pa.Check.in_range(0, 1), below(3)]), app=column(pl.String)),
        frame(x=column(pl.Float64, pa.Check(lambda d: d.lazyframe.select(pl.col(d.key) < 3)))),
        frame(x=column(pl.Float64, pa.Check(lambda d: d.lazyframe.select(pl.col(d.key) < 4)))),
        Rows,
    ]
    digests = [DataChecks(schema).digest() for schema in schemas]
    assert len(set(digests)) == len(digests)
    assert all(json.loads(json.dumps(DataChecks(s).to_json())) == DataChecks(s).to_json() for s in schemas)


def test_what_changed_in_a_schema_is_told_by_column():
    def told(old: Any, new: Any) -> list[str]:
        return Strategy(offline=DataChecks(old)).diff(Strategy(offline=DataChecks(new)))

    one = frame(x=pa.Column(pl.Float64, pa.Check.in_range(0, 1)), app=pa.Column(pl.String))
    two = frame(x=pa.Column(pl.Float64, pa.Check.in_range(0, 2)), y=pa.Column(pl.String))
    at = "offline.DataChecks.schema"
    assert told(one, two) == [
        f"{at}: removed column app", f"{at}: added column y",
        f"{at}.x.checks: ('in_range(include_max=True, include_min=True, max_value=1, min_value=0)') -> "
        "('in_range(include_max=True, include_min=True, max_value=2, min_value=0)')",
    ]  # fmt: skip
    assert told(one, one) == []
    assert told(pa.DataFrameSchema(one.columns), pa.DataFrameSchema(one.columns, strict=True)) == [
        f"{at}.strict: False -> True"
    ]


# --- a schema suggested from data

RICH = {
    "text": Text(), "app": Category(tag=True), "kind": Category(["p", "q"]), "x": Number(), "who": Sensitive(),
    "image": Image((2, 2)), "vector": Tensor((2,)),
}  # fmt: skip
finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def tables(draw: st.DrawFn) -> TrainingData:
    """Draw training rows of all input types; the label is a class or any number."""
    num = draw(st.integers(1, 40))
    classes = draw(st.booleans())
    schema = Schema(RICH, Classes(("a'b", 'c"d')) if classes else Value())

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=num, max_size=num))

    few = draw(st.lists(texts, min_size=1, max_size=4))
    inputs = {
        "text": column(texts), "app": column(st.sampled_from(few)), "kind": column(st.sampled_from(["p", "q"])),
        "x": column(finite), "who": ["ab" * 16] * num, "image": [bytes(4)] * num, "vector": [bytes(8)] * num,
    }  # fmt: skip
    targets = np.arange(num) % 2 if classes else np.array(column(finite))
    columns = {name: RICH[name].column(values) for name, values in inputs.items()}
    ids = tuple(map(str, range(num)))
    return TrainingData(schema=schema, columns=columns, targets=targets, weights=np.ones(num), ids=ids)


def written(data: TrainingData) -> Any:
    """Return the schema that the suggested file defines."""
    namespace: dict[str, Any] = {}
    exec(suggest_schema(training_frame(data), data.schema, project="any"), namespace)
    return namespace["schema"]


@given(tables())
@settings(max_examples=60)
def test_a_suggested_schema_holds_for_the_data_that_it_was_written_from(data: TrainingData):
    verdict = judge(written(data), data)
    assert verdict.outcome is Outcome.PASS, verdict.reason


def test_a_suggested_schema_catches_what_the_data_never_held():
    data = rows(x=[float(i % 10) for i in range(100)], app=["v1", "v2"] * 50)
    schema = written(data)
    assert judge(schema, rows(x=[-0.5, 9.5], app=["v1", "v2"])).outcome is Outcome.PASS  # a tenth of room
    other = judge(schema, rows(x=[1e6, 5.0], app=["v1", "v3"]))
    assert other.outcome is Outcome.FAIL
    assert "'x' in_range(-0.9, 9.9): 1 row, such as 1000000.0 (r0)" in other.reason
    assert "'app' isin(['v1', 'v2']): 1 row, such as 'v3' (r1)" in other.reason
