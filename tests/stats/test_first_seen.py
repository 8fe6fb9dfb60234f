"""Which rows are the first of their unit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.stats.first_seen import first_seen, hashed

UNITS = st.lists(st.sampled_from([f"user-{i}" for i in range(30)]), max_size=60)


@given(units=UNITS)
@settings(max_examples=60, deadline=None)
def test_a_unit_is_first_once(units):
    first, _ = first_seen("", units, bits=16)
    distinct = list(dict.fromkeys(units))
    assert [u for u, f in zip(units, first, strict=True) if f] == distinct


@given(units=UNITS, cut=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_batches_of_any_size_give_the_same_answer_and_memory(units, cut):
    whole, memory = first_seen("", units, bits=6)
    head, half = first_seen("", units[:cut], bits=6)
    tail, rest = first_seen(half, units[cut:], bits=6)
    assert whole.tolist() == [*head.tolist(), *tail.tolist()]
    assert rest == memory


def test_thousands_of_units_fit_in_a_few_kilobytes():
    units = [f"u{i}" for i in range(5000)]
    first, memory = first_seen("", units, bits=16)
    assert first.mean() > 0.95  # the others share a bit
    assert len(memory) < 11_000
    again, _ = first_seen(memory, units, bits=16)
    assert not again.any()


def test_a_full_memory_drops_units_whatever_their_arm():
    units = [f"u{i}" for i in range(20_000)]
    arm = np.random.default_rng(3).random(20_000) < 0.05
    first, _ = first_seen("", units, bits=12)
    assert first.sum() <= 4096
    assert abs(arm[first].mean() - 0.05) < 0.012


def test_hashes_do_not_depend_on_the_process():
    assert hashed(["user-1"]).tolist() == [2116437524]
