"""The drift view: each feature beside its reference, or plainly that there are too few rows."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import polars as pl
from page_served import Served

from tidemill.monitor.shapes import shape_of

ONES = np.ones(100)
MOVED = "period=20s&reference=1h"


def test_features_come_with_their_pictures_and_what_moved_first(shared: Served) -> None:
    text = shared.measured(f"/drift/-/look?{MOVED}")
    assert "app: reference and now" in text and "x: reference and now" in text
    assert "Rank of this window" in text and "psi" in text
    assert text.index('aria-label="app"') < text.index('aria-label="x"'), "users got a new app"


def test_the_rows_of_the_file_are_those_of_the_look(shared: Served) -> None:
    rows = list(csv.DictReader(io.StringIO(shared.file(f"/drift/features.csv?{MOVED}").text)))
    app = next(row for row in rows if row["feature"] == "app")
    assert app["is"] == "moved" and float(app["js"]) > 0.1
    unusual = [float(row["unusual"]) for row in rows if row["is"] == "moved"]
    assert unusual == sorted(unusual, reverse=True)


def test_too_few_rows_are_said_plainly_with_other_references(shared: Served) -> None:
    text = shared.measured("/drift/-/look?period=1s")
    assert "Too few rows to tell" in text and "at least 100 are needed" in text and "the 7 days before" in text


def test_the_windows_before_say_since_when(shared: Served, tab: Any) -> None:
    tab.goto(f"{shared.url}/drift?{MOVED}")
    tab.get_by_text("windows before, the last is now").wait_for()
    tab.get_by_role("region", name="app").get_by_text("moved since").wait_for()


def test_numbers_have_equal_bins_words_the_most_frequent_and_the_rest() -> None:
    numbers = shape_of(pl.Series(np.arange(100.0)), pl.Series(np.arange(100.0) + 50), ONES, ONES)
    assert numbers is not None and len(numbers.names) == len(numbers.now) == 16
    assert abs(sum(numbers.reference) - 1) < 1e-9 and numbers.reference[0] > numbers.now[0] == 0
    words = [f"w{i % 20}" for i in range(100)]
    spoken = shape_of(pl.Series(words), pl.Series(["w0"] * 60 + [None] * 40), ONES, ONES)
    assert spoken is not None and spoken.names[0] == "w0" and spoken.names[-1] == "10 others"
    assert spoken.now[0] == 1.0 and spoken.missing == (0.0, 0.4)


def test_rows_kept_with_a_probability_count_by_its_inverse() -> None:
    values, weights = pl.Series(["a"] * 50 + ["b"] * 50), np.repeat([1.0, 3.0], 50)
    found = shape_of(values, values, weights, ONES)
    assert found is not None
    shares = dict(zip(found.names, zip(found.reference, found.now, strict=True), strict=True))
    assert shares == {"a": (0.25, 0.5), "b": (0.75, 0.5)}
