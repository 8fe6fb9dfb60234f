"""A part of a table: some of its rows, with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from tidemill.schema import Array

Table: TypeAlias = pa.Table
Fields: TypeAlias = pa.Schema


class Lost(NamedTuple):
    """A row that could not even be read as one."""

    row: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of a table: `rows` int64 (N,) says which they are; `lost` are others of this part that are no rows."""

    number: int
    table: Table
    rows: Array
    lost: Sequence[Lost] = ()
