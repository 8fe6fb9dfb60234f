"""A condition is answered in another process as here, and nothing that it asks for takes longer than its time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from tidemill.errors import ProjectError, Unavailable
from tidemill.stores.conditions import evaluate
from tidemill.stores.searcher import Searcher

FRAME = pl.DataFrame({"x": [1.0, 2.0, None, float("nan")], "text": ["a", "", "grüße\x00", None]})
# One value takes it a minute, in which DuckDB does not look whether it was interrupted.
HOSTILE = f"regexp_matches(text, '{'(a?b?){1000}' * 50}z')"
LONG = pl.DataFrame({"text": ["a" * 10_000]})


@pytest.fixture(scope="module")
def searcher() -> Iterator[Searcher]:
    made = Searcher(most=1)
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize("sql", ["x > 1", "text = ''", "length(text) > 1", "1 = 1", "x IS NULL OR text IS NULL"])
def test_it_answers_as_this_process_does(searcher: Searcher, sql: str) -> None:
    for frame in (FRAME, FRAME.clear()):
        wanted = evaluate({"one": sql, "other": "x < 2"}, frame)
        found = searcher.evaluate({"one": sql, "other": "x < 2"}, frame)
        assert {name: met.tolist() for name, met in found.items()} == {n: m.tolist() for n, m in wanted.items()}
        assert all(met.dtype == np.bool_ for met in found.values())


@pytest.mark.parametrize("sql", ["read_text('/etc/passwd') = ''", "x > ", "x || 'a'", "CAST(text AS INTEGER) > 1"])
def test_what_is_refused_here_is_refused_there_with_the_same_words(searcher: Searcher, sql: str) -> None:
    frame = FRAME.with_columns(text=pl.lit("word"))
    with pytest.raises(ProjectError) as here:
        evaluate({"it": sql}, frame)
    with pytest.raises(ProjectError) as there:
        searcher.evaluate({"it": sql}, frame)
    assert there.value.hint == here.value.hint
    assert searcher.evaluate({"it": "x = 1"}, FRAME)["it"].tolist() == [True, False, False, False]


def test_a_pattern_that_nothing_interrupts_ends_with_its_time_and_the_next_is_answered(searcher: Searcher) -> None:
    with pytest.raises(ProjectError, match=r"the search for .*regexp_matches.* took longer than 10 s") as told:
        searcher.evaluate({"it": HOSTILE}, LONG, left_s=1.0)
    assert "look at less time" in told.value.hint
    assert searcher.evaluate({"it": "x = 1"}, FRAME)["it"].tolist() == [True, False, False, False]


def test_who_finds_no_process_within_the_time_is_told_to_try_again(searcher: Searcher) -> None:
    def search() -> None:
        with contextlib.suppress(ProjectError):
            searcher.evaluate({"it": HOSTILE}, LONG, left_s=1.0)

    slow = threading.Thread(target=search)
    slow.start()
    while not searcher._free.empty():
        time.sleep(0.005)
    with pytest.raises(Unavailable, match="other searches"):
        searcher.evaluate({"it": "x = 1"}, FRAME, left_s=0.1)
    slow.join()
    assert searcher.evaluate({"it": "x = 1"}, FRAME)["it"].any()


@pytest.mark.parametrize(("program", "said"), [("/bin/false", "died"), ("/nowhere/python", "could be started")])
def test_a_process_that_dies_or_does_not_start_is_the_moments_fault_and_not_the_conditions(
    monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    made = Searcher(most=1)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", program)
        with pytest.raises(Unavailable, match=said):
            made.evaluate({"it": "x = 1"}, FRAME)
    assert made.evaluate({"it": "x = 1"}, FRAME)["it"].any()
    made.close()
