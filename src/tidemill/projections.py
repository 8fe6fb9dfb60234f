"""Projections: named functions of one example to a value, defined once and used by monitoring, curation and suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tidemill.errors import ProjectError
from tidemill.schema import Array, Columns

Projection = Callable[[Mapping[str, Any]], float | str | bool]
"""Takes one example's inputs by name (images and tensors as arrays) and returns a number, a string or a bool."""


def project_columns(projections: Mapping[str, Projection], columns: Columns, num_rows: int) -> dict[str, Array]:
    """Return one array (N,) per projection over a batch of inputs.

    Raises:
        ProjectError: a projection raised, or gave no single value; the message names it and the row.
    """
    rows = [{name: column[i] for name, column in columns.items()} for i in range(num_rows)]
    return {
        name: _column(name, [_value(name, function, row, i) for i, row in enumerate(rows)])
        for name, function in projections.items()
    }


def _column(name: str, values: list[float | str | bool]) -> Array:
    if len({isinstance(value, str) for value in values}) > 1:  # NumPy would make text of the numbers
        raise ProjectError(f"projection {name!r} gave numbers and strings.", "give values of one kind")
    return np.array(values)


def _value(name: str, function: Projection, row: Mapping[str, Any], index: int) -> float | str | bool:
    try:
        value = function(row)
    except Exception as error:
        raise ProjectError(
            f"projection {name!r} raised {type(error).__name__}: {error} on row {index}.", "mend the function"
        ) from error
    if not isinstance(value, str | bool | int | float | np.bool_ | np.number):
        raise ProjectError(
            f"projection {name!r} gave a {type(value).__name__} on row {index}.", "return a number, a string or a bool"
        )
    return value
