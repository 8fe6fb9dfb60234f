"""What curation picked, as a frame: an `Example` is made of a row only when somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, overload

import polars as pl

from tidemill.clock import from_micros
from tidemill.records import Example, Trust

REASON, PROBABILITY = "\0reason", "\0probability"  # no input has such a name
KEPT = (
    "request_id", "unit", "subject", "received_at", "decision", "answered_version", "label", "label_trust", "label_at",
    "keep_probability",
)  # fmt: skip
"""What is kept of `matured_frame`, beside the inputs."""


class PickedRows(Sequence[Example]):
    """Picked requests in the order of the picks.

    Args:
        frame: the columns `KEPT` of rows of `matured_frame` with their inputs, and beside them why each was picked
            (`REASON`) and its inclusion probability (`PROBABILITY`), null where it is unknown.
        picked_at: when.
        inputs: the names of the inputs.
    """

    def __init__(self, frame: pl.DataFrame, *, picked_at: datetime, inputs: tuple[str, ...]) -> None:
        self.frame = frame
        self.picked_at = picked_at
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self.frame)

    @overload
    def __getitem__(self, at: int) -> Example: ...

    @overload
    def __getitem__(self, at: slice) -> PickedRows: ...

    def __getitem__(self, at: int | slice) -> Example | PickedRows:
        if isinstance(at, slice):
            return PickedRows(self.frame[at], picked_at=self.picked_at, inputs=self._inputs)
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return self._example(self.frame.row(at, named=True))

    def below(self, trust: Trust) -> list[str]:
        """Return the ids of those that have no label of a trust."""
        enough = [str(one) for one in Trust if one.rank >= trust.rank]
        has = pl.col("label").is_not_null() & pl.col("label_trust").is_in(enough)
        return self.frame.filter(~has.fill_null(value=False))["request_id"].to_list()

    def _example(self, row: dict[str, Any]) -> Example:
        labelled = row["label"] is not None
        return Example(
            id=row["request_id"],
            request_id=row["request_id"],
            unit=row["unit"],
            subject=row.get("subject"),
            received_at=from_micros(row["received_at"]),
            picked_at=self.picked_at,
            reason=row[REASON],
            probability=row[PROBABILITY],
            split="",  # the reservoir fixes it
            inputs={name: row[name] for name in self._inputs},
            decision=row["decision"],
            version=row["answered_version"],
            label=row["label"],
            trust=Trust(row["label_trust"]) if labelled else None,
            source="feedback" if labelled else None,
            labelled_at=from_micros(row["label_at"]) if labelled else None,
        )
