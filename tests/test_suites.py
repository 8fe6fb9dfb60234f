"""Suites: which cases they ask, what passes, what is refused, and what makes another version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ProjectError
from tidemill.review.suites import run_suite
from tidemill.schema import Category, Classes, Image, Number, Schema, Sensitive, Text, Value
from tidemill.suites import Answer, Case, Cases, Directional, Invariant, MinimumFunctionality, Sources, Suite

SCHEMA = Schema({"text": Text(), "age": Number()}, Classes(("ok", "toxic")))
NUMBERS = Schema({"text": Text(), "age": Number()}, Value())


def shout(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**inputs, "text": inputs["text"].upper()}


def swear(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any] | None:
    return None if "damn" in inputs["text"] else {**inputs, "text": inputs["text"] + " damn"}


def jitter(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**inputs, "age": inputs["age"] + rng.normal()}


def in_place(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    inputs["age"] += 1
    return inputs


def nothing(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return inputs


def raising(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    raise KeyError("txt")


def forgetful(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {"text": inputs["text"] + "!"}


def greetings() -> list[tuple[Mapping[str, Any], str]]:
    return [({"text": f"{word}, {name}", "age": 3}, "ok") for word in ("hello", "hi") for name in ("Ada", "Bo")]


def sources(rows: Sequence[Mapping[str, Any]], schema: Schema = SCHEMA, read: Any = None) -> Sources:
    kept = [dict(row) for row in rows]
    ids = [f"e{i}" for i in range(len(kept))]
    return Sources(schema=schema, ids=ids, take=lambda index: [kept[i] for i in index], read=read)


ROWS = [{"text": f"words {i}", "age": float(i)} for i in range(50)]
THERE = sources(ROWS)


def version(toxic: Callable[[str, float], float], *, abstain: float = 0.0) -> Callable[..., list[Answer]]:
    """Return a version that gives each row a probability of being toxic, and abstains near one half."""

    def decide(columns: Mapping[str, np.ndarray], num_rows: int) -> list[Answer]:
        chances = [toxic(t, a) for t, a in zip(columns["text"], columns["age"], strict=True)]
        assert len(chances) == num_rows
        said = [None if abs(p - 0.5) < abstain else ("toxic" if p >= 0.5 else "ok") for p in chances]
        return [Answer(s, np.array([1 - p, p], dtype=np.float32)) for s, p in zip(said, chances, strict=True)]

    return decide


READS = version(lambda text, age: 0.9 if "damn" in text.lower() else 0.1)
CASE_BLIND = version(lambda text, age: 0.9 if "damn" in text or text.isupper() else 0.1)


# --- invariance


def test_a_version_whose_decision_holds_passes_and_one_whose_decision_changes_does_not():
    suite = Invariant("shouting", shout)
    good = run_suite(suite, THERE, candidate=READS)
    bad = run_suite(suite, THERE, candidate=CASE_BLIND, live=READS)
    assert (good.num_cases, good.num_failed, good.share) == (50, 0, 1.0)
    assert (bad.num_cases, bad.num_failed, bad.num_failed_live, bad.num_new) == (50, 50, 0, 50)
    assert bad.failed[0].new
    assert bad.failed[0].wanted == "'ok', as before"
    assert bad.failed[0].candidate == "'toxic' (score 0.90 -> 0.10)"


def test_who_abstains_before_and_after_has_not_changed_and_who_abstains_once_has():
    always = version(lambda text, age: 0.5, abstain=0.1)
    after = version(lambda text, age: 0.5 if text.isupper() else 0.1, abstain=0.1)
    suite = Invariant("shouting", shout)
    assert run_suite(suite, THERE, candidate=always).num_failed == 0
    changed = run_suite(suite, THERE, candidate=after)
    assert changed.num_failed == 50
    assert changed.failed[0].candidate == "abstains"


def test_a_number_may_change_by_the_tolerance():
    def decide(columns: Mapping[str, np.ndarray], num_rows: int) -> list[Answer]:
        return [Answer(float(a), np.array([a], dtype=np.float32)) for a in columns["age"]]

    there = sources(ROWS, NUMBERS)
    assert run_suite(Invariant("older", in_place, tolerance=1.0), there, candidate=decide).num_failed == 0
    assert run_suite(Invariant("older", in_place, tolerance=0.9), there, candidate=decide).num_failed == 50


# --- direction


def test_a_score_that_goes_the_wanted_way_passes_and_one_that_stays_does_too_unless_it_has_to_move():
    up, stays = READS, version(lambda text, age: 0.3)
    suite = Directional("swearing", swear, "up", of="toxic")
    for candidate, num_failed in ((up, 0), (stays, 0)):
        assert run_suite(suite, THERE, candidate=candidate).num_failed == num_failed
    moving = replace(suite, by=0.5)
    assert run_suite(moving, THERE, candidate=up).num_failed == 0
    assert run_suite(moving, THERE, candidate=stays).num_failed == 50
    assert run_suite(replace(suite, expect="down"), THERE, candidate=up).num_failed == 50
    assert run_suite(replace(suite, expect="down", of="ok"), THERE, candidate=up).num_failed == 0
    assert run_suite(replace(suite, expect="down", by=-0.9), THERE, candidate=up).num_failed == 0


def test_of_a_number_the_number_itself_goes_up():
    def decide(columns: Mapping[str, np.ndarray], num_rows: int) -> list[Answer]:
        return [Answer(-float(a), np.array([-a], dtype=np.float32)) for a in columns["age"]]

    there = sources(ROWS, NUMBERS)
    assert run_suite(Directional("older", in_place, "down"), there, candidate=decide).num_failed == 0
    assert run_suite(Directional("older", in_place, "up"), there, candidate=decide).num_failed == 50


# --- right answers


def test_minimum_functionality_takes_pairs_or_a_function_that_fills_templates():
    pairs = [({"text": "damn", "age": 1}, "toxic"), ({"text": "hello", "age": 1}, "ok")]
    for suite, num in ((MinimumFunctionality("basic", pairs), 2), (MinimumFunctionality("polite", greetings), 4)):
        result = run_suite(suite, THERE, candidate=READS)
        assert (result.num_cases, result.num_failed) == (num, 0)
    worse = run_suite(MinimumFunctionality("basic", pairs), THERE, candidate=version(lambda text, age: 0.1), live=READS)
    assert (worse.num_failed, worse.num_new, worse.failed[0].id) == (1, 1, "case 1")
    assert str(worse.failed[0]) == "case 1 (text='damn', age=1): 'ok', wanted 'toxic'"


def test_who_abstains_has_not_answered_and_a_number_may_be_off_by_the_tolerance():
    unsure = version(lambda text, age: 0.45, abstain=0.1)
    assert run_suite(MinimumFunctionality("polite", greetings), THERE, candidate=unsure).num_failed == 4
    near = MinimumFunctionality("near", [({"text": "", "age": 1}, 3.0)], tolerance=0.5)

    def decide(columns: Mapping[str, np.ndarray], num_rows: int) -> list[Answer]:
        return [Answer(3.4, np.array([3.4], dtype=np.float32))] * num_rows

    assert run_suite(near, sources([], NUMBERS), candidate=decide).num_failed == 0
    assert run_suite(replace(near, tolerance=0.3), sources([], NUMBERS), candidate=decide).num_failed == 1


def test_cases_come_from_their_file():
    known = Case(id="line 1", inputs={"text": "damn", "age": 1.0}, label="toxic", note="seen in May")
    asked: list[str] = []

    def read(path: str) -> Sequence[Case]:
        asked.append(path)
        return [known]

    result = run_suite(
        Cases("bugs", "suites/bugs.jsonl"), sources([], read=read), candidate=version(lambda text, age: 0.1)
    )
    assert asked == ["suites/bugs.jsonl"]
    assert (result.num_failed, result.failed[0].note) == (1, "seen in May")


# --- which rows are changed


def test_the_same_rows_are_changed_in_the_same_way_each_time_and_more_rows_only_add():
    suite = Invariant("jitter", jitter, num=20)
    one, two = suite.ask(THERE), suite.ask(THERE)
    assert one == two
    assert len(one) == 20
    grown = {c.id: c.inputs for c in replace(suite, num=1000).ask(sources([*ROWS, *ROWS]))}
    assert all(grown[case.id] == case.inputs for case in one)
    assert {c.id for c in Invariant("other", jitter, num=20).ask(THERE)} != {c.id for c in one}


@given(st.integers(1, 60), st.integers(0, 60))
def test_a_dataset_that_grows_keeps_most_of_the_rows_that_are_asked(num: int, more: int):
    """Consistent choice: a row goes only where a new one comes before it."""
    suite = Invariant("jitter", jitter, num=num)
    before = {c.id for c in suite.ask(THERE)}
    after = {c.id for c in suite.ask(sources([*ROWS, *[{"text": "x", "age": 0.0}] * more]))}
    assert len(before - after) <= len(after - before)
    assert after - before <= {f"e{i}" for i in range(50, 50 + more)}


def test_rows_that_stay_as_they_were_are_no_cases():
    assert Invariant("nothing", nothing).ask(THERE) == ()
    some = sources([{"text": "damn it", "age": 1.0}, {"text": "well", "age": 1.0}])
    assert [c.original["text"] for c in Directional("swearing", swear, "up", of="toxic").ask(some)] == ["well"]
    empty = run_suite(Invariant("nothing", nothing), THERE, candidate=READS)
    assert (empty.share, empty.problem, str(empty)) == (None, "", "nothing: no cases")


def test_a_function_may_change_what_it_is_given_in_place():
    cases = Invariant("older", in_place).ask(THERE)
    assert {c.inputs["age"] - c.original["age"] for c in cases} == {1.0}


def brighter(inputs: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    inputs["image"][0, 0] = 255
    return inputs


def test_images_are_arrays_and_sensitive_inputs_stay_the_hashes_they_are():
    schema = Schema({"image": Image((2, 2)), "who": Sensitive(), "kind": Category()}, Classes(("a", "b")))
    rows = [{"image": bytes([1, 2, 3, 4]), "who": "ab" * 16, "kind": "x"}]
    (case,) = Invariant("bright", brighter).ask(sources(rows, schema))
    assert case.inputs == {"image": bytes([255, 2, 3, 4]), "who": "ab" * 16, "kind": "x"}
    assert case.original == rows[0]


# --- what goes wrong


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Invariant("typos", lambda inputs, rng: inputs), "is a lambda"),
        (lambda: Invariant("Typos!", shout), "is called 'Typos!'"),
        (lambda: Invariant("typos", shout, num=0), "has num=0"),
        (lambda: Invariant("typos", shout, at_least=1.2), "has at_least=1.2"),
        (lambda: Invariant("typos", "swap"), "has perturb='swap'"),
        (lambda: Cases("bugs", "bugs.csv"), "has the file 'bugs.csv'"),
        (lambda: MinimumFunctionality("basic", []), "has no cases"),
        (lambda: Directional("d", swear, "sideways", of="ok"), "has expect='sideways'"),
        (lambda: Directional("d", swear, "up", of="ok", by=float("nan")), "has by=nan"),
        (lambda: Directional("d", swear, "up", of="rude").check(SCHEMA.output), "has of='rude'. Next: name one of ok"),
        (lambda: Directional("d", swear, "up").check(SCHEMA.output), "has of=None"),
        (lambda: Directional("d", swear, "up", of="ok").check(NUMBERS.output), "the output is a number"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once_with_the_next_move(make: Callable[[], Suite], told: str):
    with pytest.raises(ProjectError) as raised:
        make()
    assert told in str(raised.value)
    assert raised.value.hint


def wrong_pairs() -> list[Any]:
    return [({"text": "hi"}, "ok")]


@pytest.mark.parametrize(
    ("suite", "told"),
    [
        (Invariant("typos", raising), "suite 'typos': perturb, on example e"),
        (Invariant("typos", forgetful), "input 'age' is missing"),
        (MinimumFunctionality("basic", [({"text": "hi", "age": 1}, "rude")]), "case 1 does not fit: label 'rude'"),
        (MinimumFunctionality("basic", ["hello"]), "case 1 does not fit"),
        (MinimumFunctionality("basic", wrong_pairs), "input 'age' is missing"),
    ],
)
def test_a_suite_that_cannot_be_asked_has_a_problem_and_no_cases(suite: Suite, told: str):
    result = run_suite(suite, THERE, candidate=READS)
    assert told in result.problem
    assert result.num_cases == 0


# --- versions


def test_a_suite_has_another_version_when_content_source_or_a_parameter_is_another():
    pairs = [({"text": "damn", "age": 1}, "toxic"), ({"text": "hello", "age": 1}, "ok")]
    suites = [
        Invariant("typos", shout),
        Invariant("typos", in_place),
        Invariant("typos", shout, num=100),
        Directional("typos", shout, "up", of="ok"),
        MinimumFunctionality("typos", pairs),
        MinimumFunctionality("typos", pairs[:1]),
        MinimumFunctionality("typos", greetings),
    ]
    versions = [suite.version(suite.ask(THERE)) for suite in suites]
    assert len(set(versions)) == len(versions)
    again = MinimumFunctionality("typos", pairs[::-1])
    assert again.version(again.ask(THERE)) == versions[4]  # the order says nothing
