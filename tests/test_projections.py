"""A projection is a named function of one example; what it gives is a column that conditions can be written over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tidemill.errors import ProjectError
from tidemill.projections import Projection, project_columns

COLUMNS = {
    "text": np.array(["hi :)", "hello"], dtype=object),
    "image": np.array([np.zeros((2, 2)), np.full((2, 2), 255)], dtype=np.uint8),
}


def projected(function: Projection) -> np.ndarray[Any, Any]:
    return project_columns({"it": function}, COLUMNS, 2)["it"]


def test_each_row_is_shown_to_the_function_by_input_name_with_images_as_arrays() -> None:
    seen = []

    def look(row: Any) -> float:
        seen.append((row["text"], row["image"].shape))
        return 1.0

    projected(look)
    assert seen == [("hi :)", (2, 2)), ("hello", (2, 2))]


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (lambda row: ":)" in row["text"], [True, False]),
        (lambda row: row["image"].mean() > 100, [False, True]),
        (lambda row: row["image"].mean(), [0.0, 255.0]),
        (lambda row: len(row["text"]), [5, 5]),
        (lambda row: row["text"][:2], ["hi", "he"]),
    ],
    ids=["bool", "bool of numpy", "number of numpy", "int", "text"],
)
def test_a_projection_gives_one_bool_number_or_string_a_row(function: Projection, values: list[Any]) -> None:
    assert projected(function).tolist() == values


def test_no_rows_are_a_column_of_length_0() -> None:
    empty = {name: column[:0] for name, column in COLUMNS.items()}
    assert len(project_columns({"it": lambda row: True}, empty, 0)["it"]) == 0


def test_a_projection_that_raises_is_named_with_the_row_and_the_cause() -> None:
    with pytest.raises(ProjectError, match=r"'it' raised ValueError: .*row 1") as caught:
        projected(lambda row: float(row["text"].count(":") or row["text"]))
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    "function",
    [lambda row: None, lambda row: row["image"], lambda row: [1, 2], lambda row: b"x", lambda row: {"a": 1}],
    ids=["nothing", "array", "list", "bytes", "dict"],
)
def test_what_is_no_single_value_is_refused_with_the_name_and_the_value(function: Projection) -> None:
    with pytest.raises(ProjectError, match=r"'it' gave .*row 0") as caught:
        projected(function)
    assert caught.value.hint


def test_numbers_and_strings_in_one_column_are_refused() -> None:
    with pytest.raises(ProjectError, match="'it' gave numbers and strings"):
        projected(lambda row: 1.0 if ":" in row["text"] else "none")
