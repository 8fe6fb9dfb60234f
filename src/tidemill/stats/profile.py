"""What the values of many rows were like, without the rows: a sketch per column, which adds up with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tidemill.errors import InvalidInput
from tidemill.schema import Array
from tidemill.stats.sketch import NumberSketch, WordSketch, sketch_from_json

_FORMAT = 1

Sketch = NumberSketch | WordSketch


class Profile:
    """`num_rows` rows, as a sketch for each column."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.columns: dict[str, Sketch] = {}

    def add(self, columns: Mapping[str, Array]) -> Profile:
        """Take rows in, and return itself: float arrays (n,), NaN for missing, or object arrays of str or None.

        Raises:
            InvalidInput: a column was of numbers and is of words, or the other way round.
        """
        self.num_rows += len(next(iter(columns.values()), ()))
        for name, values in columns.items():
            if values.dtype == object:
                known = [str(value) for value in values if value is not None]
                words, counts = np.unique(np.array(known, dtype=str), return_counts=True)
                self.add_words(name, dict(zip(words.tolist(), counts.tolist(), strict=True)), len(values) - len(known))
            else:
                self.add_numbers(name, values.astype(np.float64))
        return self

    def add_numbers(self, name: str, values: Array) -> None:
        """Take numbers of one column in; the rows are counted by `add`, or by the caller."""
        mine = self.columns.setdefault(name, NumberSketch())
        if not isinstance(mine, NumberSketch):
            raise _retyped(name)
        mine.add(values)

    def add_words(self, name: str, counts: Mapping[str, int], num_missing: int = 0) -> None:
        """Take words of one column in, with how often each came."""
        mine = self.columns.setdefault(name, WordSketch())
        if not isinstance(mine, WordSketch):
            raise _retyped(name)
        mine.add(counts, num_missing)

    def merge(self, other: Profile) -> Profile:
        """Take in what another profile has seen, and return itself.

        Raises:
            InvalidInput: a column is of numbers in one and of words in the other; nothing was taken in.
        """
        for name, sketch in other.columns.items():
            if type(self.columns.get(name, sketch)) is not type(sketch):
                raise _retyped(name)
        for name, sketch in other.columns.items():
            mine = self.columns.setdefault(name, type(sketch)())
            mine.merge(sketch)  # type: ignore[arg-type]  # they are of one kind
        self.num_rows += other.num_rows
        return self

    def to_bytes(self) -> bytes:
        """Return it as bytes, at most about 30 kB a column."""
        columns = {name: sketch.to_json() for name, sketch in self.columns.items()}
        return msgspec.msgpack.encode({"format": _FORMAT, "num_rows": self.num_rows, "columns": columns})

    @classmethod
    def from_bytes(cls, body: bytes) -> Profile:
        """Read what `to_bytes` returned.

        Raises:
            InvalidInput: it is no profile, or was made by a newer program.
        """
        try:
            data: Any = msgspec.msgpack.decode(body)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"a profile does not read: {error}.", "send what tm.log.Profile made") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("columns"), dict):
            raise InvalidInput("a profile is of no format that is known here.", "update this program, or the device's")
        profile = cls()
        num_rows = data.get("num_rows")
        if not isinstance(num_rows, int) or num_rows < 0:
            raise InvalidInput(f"a profile holds {num_rows!r} rows.", "send what tm.log.Profile made")
        profile.num_rows = num_rows
        profile.columns = {str(name): sketch_from_json(sketch) for name, sketch in data["columns"].items()}
        return profile


def _retyped(name: str) -> InvalidInput:
    return InvalidInput(
        f"column {name!r} is of numbers in one profile and of words in another.", "give a retyped input a new name"
    )
