"""Scores are found again by what a version reads and nothing else, and never take more memory than they may."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidemill.runtime.cache import Entry, ScoreCache, cache_key

VALUES = st.one_of(st.text(max_size=4), st.binary(max_size=4), st.floats(allow_nan=False))
INPUTS = st.fixed_dictionaries({"x": VALUES, "y": VALUES, "tag": VALUES})


def entry(value: float, num: int = 3, outlier: list[str] | None = None) -> Entry:
    return Entry(np.full(num, value, np.float32), outlier)


@given(INPUTS, INPUTS, st.integers(1, 2), st.integers(1, 2))
def test_a_key_stands_for_the_version_and_what_it_reads(one: Any, other: Any, a: int, b: int) -> None:
    def shown(inputs: Any) -> list[tuple[type, str]]:
        return [(type(inputs[name]), repr(inputs[name])) for name in ("x", "y")]

    same = (a, shown(one)) == (b, shown(other))
    assert (cache_key(a, one, ["x", "y"]) == cache_key(b, other, ["x", "y"])) == same


def test_values_do_not_run_into_each_other() -> None:
    assert cache_key(1, {"x": "ab", "y": "c"}, ["x", "y"]) != cache_key(1, {"x": "a", "y": "bc"}, ["x", "y"])


def test_what_is_kept_is_the_row_alone_and_not_the_batch_it_came_in() -> None:
    batch, cache = np.ones((1000, 3), np.float32), ScoreCache(10_000)
    cache.put(b"k", Entry(batch[5], ["x"]))
    batch[5] = 7
    found = cache.get(b"k")
    assert found is not None and found.scores.base is None
    assert (found.scores.tolist(), found.outlier) == ([1, 1, 1], ["x"])


def test_nothing_is_kept_where_nothing_may_be_and_all_goes_when_that_is_so_from_now_on() -> None:
    cache = ScoreCache(0)
    cache.put(b"k", entry(1))
    assert (len(cache), cache.num_bytes, cache.get(b"k")) == (0, 0, None)
    cache.resize(10_000)
    cache.put(b"k", entry(1))
    assert len(cache) == 1
    cache.resize(0)
    assert (len(cache), cache.num_bytes) == (0, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(1, 400)), max_size=60))
def test_it_holds_what_was_used_last_and_never_more_than_it_may(steps: list[tuple[bool, int, int]]) -> None:
    cache, limit = ScoreCache(3000), 3000
    model: OrderedDict[bytes, int] = OrderedDict()  # sizes
    for is_put, number, num in steps:
        key = bytes([number])
        if not is_put:
            assert (cache.get(key) is not None) == (key in model)
        else:
            cache.put(key, entry(number, num))
            size = 320 + 4 * num
            if key not in model and size <= limit:
                model[key] = size
        if key in model:
            model.move_to_end(key)
        while sum(model.values()) > limit:
            model.popitem(last=False)
        assert (len(cache), cache.num_bytes) == (len(model), sum(model.values()))
        assert cache.num_bytes <= limit
