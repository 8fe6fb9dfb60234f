"""Projections: named functions of one example to a value, defined once and used by monitoring, curation and suites."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tidemill.errors import ProjectError
from tidemill.schema import Array, Columns

_logger = logging.getLogger(__name__)
_SURELY = 20  # rows; fewer may all be strange

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


def project_known(
    projections: Mapping[str, Projection], columns: Columns, num_rows: int
) -> dict[str, list[float | str | bool | None]]:
    """Return the values (N,) per projection over logged traffic, None for a row on which the function fails.

    One strange request must not stop what reads the log, so such rows are logged and left out.

    Raises:
        ProjectError: a projection fails on every one of 20 rows or more: it is the function that is wrong.
    """
    rows = [{name: column[i] for name, column in columns.items()} for i in range(num_rows)]
    return {name: _known(name, function, rows) for name, function in projections.items()}


def _known(name: str, function: Projection, rows: Sequence[Mapping[str, Any]]) -> list[float | str | bool | None]:
    values: list[float | str | bool | None] = []
    failed: list[ProjectError] = []
    for i, row in enumerate(rows):
        try:
            values.append(_value(name, function, row, i))
        except ProjectError as error:
            failed.append(error)
            values.append(None)
    if failed:
        if len(failed) == len(rows) >= _SURELY:
            raise failed[0]
        _logger.warning("%d of %d rows are left out: %s", len(failed), len(rows), failed[0].message)
    _check_one_kind(name, [value for value in values if value is not None])
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _column(name: str, values: list[float | str | bool]) -> Array:
    _check_one_kind(name, values)
    return np.array(values)


def _check_one_kind(name: str, values: Sequence[float | str | bool]) -> None:
    if len({isinstance(value, str) for value in values}) > 1:  # NumPy would make text of the numbers
        raise ProjectError(f"projection {name!r} gave numbers and strings.", "give values of one kind")


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
