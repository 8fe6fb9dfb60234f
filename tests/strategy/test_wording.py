"""How verdicts write numbers for people."""

from __future__ import annotations

import math

import pytest

from tidemill.strategy.wording import about, against, counted, evidence, more, percent, span, times


@pytest.mark.parametrize(
    ("num", "text"),
    [(0.2, "about 1"), (3.1, "about 4"), (10, "about 10"), (1234, "about 1,200"), (98_700, "about 99,000")],
)
def test_about_keeps_two_figures(num, text):
    assert about(num) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "1 s"), (42, "42 s"), (150, "2.5 min"), (5400, "90 min"), (9000, "2.5 h"), (864_000, "10 days")],
)
def test_a_span_is_told_in_the_unit_people_would_use(seconds, text):
    assert span(seconds) == text


def test_more_of_one_thing_is_not_plural():
    assert (more(0.4, "error"), more(14.2, "error")) == ("about 1 more error", "about 14 more errors")


def test_counts_shares_and_ratios():
    assert (counted(1, "error"), counted(1200, "error")) == ("1 error", "1,200 errors")
    assert (percent(0.05), percent(0.0025), times(1.25)) == ("5 %", "0.25 %", "×1.25")


@pytest.mark.parametrize(
    ("log_evidence", "text"),
    [(0.0, "1 of 20"), (math.log(4.123), "4.12 of 20"), (math.log(1234), "1,230 of 20")],
)
def test_evidence_is_told_beside_what_is_wanted(log_evidence, text):
    assert against(log_evidence, 20) == text


def test_evidence_beyond_counting_is_cut_off():
    assert evidence(1e6) == 1e9
    assert against(1e6, 20) == "over 1,000,000,000 of 20"
    assert evidence(-1e6) == 0.0
