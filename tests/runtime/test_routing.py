"""Routing: stable for a unit, monotone in the share, and as often the candidate as the share says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tidemill.clock import micros
from tidemill.records import Route
from tidemill.runtime.routing import assign, position, share_in_force

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROUTE = Route(revision=3, stable=1, candidate=2, share=0.25, salt="rollout-7")
shares = st.floats(0, 1)
units = st.text(max_size=40)


@given(units, st.text(max_size=20), shares, st.integers(0, 2**60))
def test_a_unit_gets_the_same_version_every_time(unit, salt, share, now):
    route = replace(ROUTE, salt=salt, share=share)
    assert assign(route, unit, now) == assign(route, unit, now + 1)


@given(units, shares, shares)
def test_a_unit_that_is_in_stays_in_as_the_share_grows(unit, one, other):
    low, high = sorted((one, other))
    if assign(replace(ROUTE, share=low), unit, 0).version == 2:
        assert assign(replace(ROUTE, share=high), unit, 0).version == 2


@given(units)
def test_share_0_is_nobody_and_share_1_is_everybody(unit):
    assert assign(replace(ROUTE, share=0.0), unit, 0) == (1, 0.0)
    assert assign(replace(ROUTE, share=1.0), unit, 0) == (2, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5, 0.9])
def test_the_candidate_gets_its_share_of_units(share):
    """20,000 units; a binomial test at 1e-4, with fixed salts, so that it fails only when the hash is not uniform."""
    for salt in ("a", "b", "c"):
        route = replace(ROUTE, share=share, salt=salt)
        num_in = sum(assign(route, f"user-{i}", 0).version == 2 for i in range(20_000))
        assert stats.binomtest(num_in, 20_000, share).pvalue > 1e-4


def test_positions_are_uniform_over_units_and_independent_between_salts():
    one, other = (np.array([position(salt, str(i)) for i in range(20_000)]) for salt in ("one", "other"))
    table = np.histogram2d(one, other, bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4
    assert 0 <= one.min() <= one.max() < 1


def test_a_lapsed_candidate_answers_nobody_from_that_very_moment():
    route = replace(ROUTE, share=1.0, lapses_at=NOON)
    assert assign(route, "u", micros(NOON - timedelta(microseconds=1))) == (2, 1.0)
    assert assign(route, "u", micros(NOON)) == (1, 0.0)
    assert share_in_force(route, micros(NOON)) == 0.0


def test_without_a_candidate_the_share_in_force_is_none():
    assert assign(replace(ROUTE, candidate=None, share=0.5), "u", 0) == (1, 0.0)
