"""Tables as CSV: every cell in a form that a program reads, and none that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from tidemill.dashboard.table import Column, Interval, Link, Row, Table, to_csv


def of(cell: object, kind: str = "text") -> list[list[str]]:
    table = Table(name="t", title="T", columns=[Column(key="a", title="A", kind=kind)], rows=[Row(cells={"a": cell})])  # type: ignore[arg-type, dict-item]
    return list(csv.reader(io.StringIO(to_csv(table))))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\n=1"])
def test_no_cell_is_taken_for_a_formula(text: str) -> None:
    assert of(text)[1] == [f"'{text}"]


def test_an_interval_is_four_columns() -> None:
    assert of(Interval(0.5, 0.4, 0.6, 10, "share"), "interval") == [
        ["a", "a_low", "a_high", "a_n"],
        ["0.5", "0.4", "0.6", "10"],
    ]
    assert of(None, "interval")[1] == ["", "", "", ""]


def test_times_are_iso_links_are_their_words_and_pictures_are_left_out() -> None:
    assert of(datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "when")[1] == ["2026-01-02T03:04:00+00:00"]
    assert of(Link("version 2", "/models/2"))[1] == ["version 2"]
    assert of(Markup("<svg></svg>"), "picture") == [[], []]
    assert of(-0.5, "number")[1] == ["-0.5"]


@given(text=st.text(max_size=50))
def test_no_text_is_a_formula_and_all_of_it_is_there(text: str) -> None:
    read = of(text.replace("\r", "").replace("\x00", ""))
    cell = read[1][0] if len(read) > 1 and read[1] else ""
    assert not cell.startswith(("=", "+", "-", "@", "\t"))
    assert cell.removeprefix("'") == text.replace("\r", "").replace("\x00", "").removeprefix("'")
