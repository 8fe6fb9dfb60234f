"""What people may write in a cohort, and what they may not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.stores.conditions import MAX_CHARS, check_condition, condition_columns, evaluate

FRAME = pl.DataFrame(
    {
        "account_age_days": [5.0, 29.9, 30.0, None, 400.0],
        "app_version": ["v1", "v2", "v2", "v3", None],
        "has_emoji": [True, False, None, True, False],
        "text": ["Hello", "", "a;b -- c", "grüße", "x"],
        "never": pl.Series([None] * 5, dtype=pl.Null),
        "odd name": [1.0, 2.0, 3.0, 4.0, float("nan")],
    }
)


def rows(condition: str) -> list[int]:
    return [int(i) for i in np.flatnonzero(evaluate({"it": condition}, FRAME)["it"])]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("account_age_days < 30", [0, 1]),
        ("app_version = 'v2'", [1, 2]),
        ("has_emoji", [0, 3]),
        ("NOT has_emoji", [1, 4]),
        ("account_age_days < 30 AND app_version = 'v2' OR has_emoji", [0, 1, 3]),
        ("app_version IN ('v1', 'v3')", [0, 3]),
        ("app_version NOT IN ('v1', 'v3')", [1, 2]),
        ("account_age_days BETWEEN 29.9 AND 30", [1, 2]),
        ("account_age_days IS NULL", [3]),
        ("app_version is not null and account_age_days is not null", [0, 1, 2]),
        ("app_version LIKE 'v%' AND text NOT LIKE '%e%'", [1, 2]),
        ("text ILIKE 'HEL_O'", [0]),
        ("CASE WHEN has_emoji THEN account_age_days < 10 ELSE app_version = 'v2' END", [0, 1, 2]),
        ("length(text) = 5", [0, 3]),
        ("lower(text) = 'hello'", [0]),
        ("starts_with(text, 'gr')", [3]),
        ("regexp_matches(text, '^[a-z]$')", [4]),
        ("CAST(account_age_days AS INTEGER) = 5", [0]),
        ("try_cast(text AS double) > 1", []),
        ("has_emoji IS NOT TRUE", [1, 2, 4]),
        ("coalesce(account_age_days, 0) % 2 = 0", [2, 3, 4]),
        ("-account_age_days / 2 < -100", [4]),
        ("text = 'a;b -- c'", [2]),
        ('"odd name" >= 4', [3]),
        ("Account_Age_Days < 30 OR 1 = 1", None),
        ("never = 'x' OR never > 3 OR never LIKE 'a'", []),
        ("never", []),
        ("1", [0, 1, 2, 3, 4]),
        ("NULL", []),
        ("text = 'grüße'", [3]),
    ],
)
def test_a_condition_selects_the_rows_that_meet_it_and_unknown_is_no(
    condition: str, expected: list[int] | None
) -> None:
    if expected is None:
        with pytest.raises(ProjectError, match="Account_Age_Days"):
            evaluate({"it": condition}, FRAME)
    else:
        assert rows(condition) == expected


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        ("text IN (SELECT content FROM read_text('/etc/passwd'))", "SELECT content"),
        ("read_csv('/etc/passwd') = 1", "read_csv"),
        ("(SELECT 1) = 1", "SELECT 1"),
        ("EXISTS (SELECT 1)", "EXISTS"),
        ("1 = ANY(SELECT 1)", "SELECT 1"),
        ("getenv('HOME') = 'x'", "getenv"),
        ("current_setting('threads') = 'x'", "current_setting"),
        ("current_user = 'x'", "current_user"),
        ("version() = 'x'", "version"),
        ("COPY (SELECT 1) TO '/tmp/x'", "COPY"),
        ("PRAGMA version", "version"),
        ("text = 'a'; DROP TABLE rows", ";"),
        ("has_emoji;", ";"),
        ("has_emoji -- and more", "comment"),
        ("has_emoji /* and more */", "comment"),
        ("has_emoji /*", "comment"),
        ("row_number() OVER () = 1", "row_number() OVER ()"),
        ("sum(account_age_days) OVER (PARTITION BY text) > 1", "OVER"),
        ("count(*) > 1", "count(*)"),
        ("max(account_age_days) > 1", "max(account_age_days)"),
        ("nothing = 1", "nothing"),
        ("rows.text = 'a'", "rows.text"),
        ("text) FROM rows WHERE (1 = 1", "not one expression"),
        ("text), (text", "not one expression"),
        ("text) UNION SELECT (1", "not one expression"),
        ("text) ORDER BY (1", "not one expression"),
        ("text) GROUP BY ALL HAVING (true", "not one expression"),
        ("text), (SELECT 1", "not one expression"),
        ("text, has_emoji", "text, has_emoji"),
        ("*", "*"),
        ("COLUMNS('.*') IS NULL", "COLUMNS"),
        ("text = ?", "?"),
        ("text = $1", "$1"),
        ("#1 = 'a'", "#1"),
        ("text = 'a' COLLATE nocase", "COLLATE"),
        ("list_transform([1], lambda y: y)[1] = 1", "list_transform"),
        ("text[1] = 'H'", "text[1]"),
        ("repeat(text, 1000000000) = ''", "repeat"),
        ("text::STRUCT(a INTEGER) IS NULL", "STRUCT"),
        ("system.main.lower(text) = 'a'", "system.main.lower"),
        ("random() < 0.5", "random"),
        ("now() > 1", "now"),
        ("", "0 characters"),
        ("  \n", "3 characters"),
        ("text =", "syntax error"),
        ("x" * (MAX_CHARS + 1), "characters"),
    ],
)
def test_what_is_not_a_plain_expression_is_refused_by_name(condition: str, named: str) -> None:
    with pytest.raises(ProjectError) as refusal:
        check_condition(condition, FRAME.columns)
    assert named in refusal.value.message
    assert refusal.value.hint
    with pytest.raises(ProjectError):
        evaluate({"it": condition}, FRAME)


@pytest.mark.parametrize(
    "deep", ["NOT " * 450 + "has_emoji", "+" * 1900 + "1", "1" + "+1" * 900, "(" * 900 + "1" + ")" * 900]
)
def test_a_deeply_nested_condition_is_refused_and_not_a_crash(deep: str) -> None:
    with pytest.raises(ProjectError):
        check_condition(deep, FRAME.columns)


@pytest.mark.parametrize("condition", ["text", "text || 'a'", "text < 3", "text = 5", "account_age_days = 'young'"])
def test_a_condition_that_cannot_be_computed_names_the_cohort(condition: str) -> None:
    with pytest.raises(ProjectError, match="'young_people'"):
        evaluate({"young_people": condition}, FRAME)


def test_columns_that_differ_only_in_case_are_not_mixed_up() -> None:
    frame = pl.DataFrame({"a": [1.0], "A": [2.0]})
    assert evaluate({"it": "A = 2"}, frame)["it"].tolist() == [True]
    with pytest.raises(ProjectError, match="tell apart"):
        evaluate({"it": "A = 2 AND a = 1"}, frame)


def test_a_condition_says_which_columns_it_reads() -> None:
    assert condition_columns("has_emoji AND lower(text) = 'a' AND has_emoji", FRAME.columns) == ["has_emoji", "text"]
    assert condition_columns("1 = 1", []) == []


def test_no_rows_give_no_answers() -> None:
    assert evaluate({"it": "has_emoji"}, FRAME.clear())["it"].shape == (0,)


def test_many_conditions_are_answered_in_the_order_of_the_rows() -> None:
    n = 50_000
    frame = pl.DataFrame({"x": np.arange(n, dtype=np.float64)})
    answers = evaluate({"low": "x < 100", "even": "x % 2 = 0"}, frame)
    assert np.array_equal(answers["low"], np.arange(n) < 100)
    assert np.array_equal(answers["even"], np.arange(n) % 2 == 0)


WORDS = """has_emoji text account_age_days ( ) , ; -- /* */ 'a' 1 = < AND OR NOT IN SELECT FROM rows WHERE lower(
read_text( getenv( '/etc/passwd' CASE WHEN THEN END OVER * :: INTEGER [ ] { } ? $1 . " '"""
PIECES = st.sampled_from([*WORDS.split(), "\n"])


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=12).map(" ".join) | st.text(max_size=30))
def test_any_text_is_either_refused_or_gives_one_answer_per_row(condition: str) -> None:
    try:
        answers = evaluate({"it": condition}, FRAME)["it"]
    except ProjectError:
        return
    assert answers.shape == (5,)
    assert answers.dtype == np.bool_
    assert "SELECT" not in condition
    assert "getenv(" not in condition
