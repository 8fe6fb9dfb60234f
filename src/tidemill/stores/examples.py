"""How an `Example` lies in SQL, and the split that is fixed when it is inserted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from sqlalchemy import RowMapping

from tidemill.clock import from_micros, micros
from tidemill.errors import StoreError
from tidemill.records import Example, Trust
from tidemill.stores.database import dumps, loads

TEST_SHARE = 0.2
INDEX: Mapping[str, Any] = {
    "id": pl.String(), "request_id": pl.String(), "unit": pl.String(), "received_at": pl.Int64(),
    "picked_at": pl.Int64(), "reason": pl.String(), "probability": pl.Float64(), "split": pl.String(),
    "duplicates": pl.String(), "decision": None, "version": pl.Int64(), "label": None, "trust": pl.String(),
    "source": pl.String(), "labelled_at": pl.Int64(),
}  # fmt: skip
"""The columns of `Reservoir.index`; decision and label have the type of their values."""


def canonical(example: Example) -> dict[str, Any]:
    """Return the inputs in the form they are stored in, by name.

    Raises:
        StoreError: there is none, or one is not canonical, so that it could not be given back as it is.
    """
    if not example.inputs:
        raise StoreError(f"example {example.id!r} has no inputs.", "add only requests whose inputs were kept")
    inputs = {}
    for name, value in sorted(example.inputs.items()):
        if isinstance(value, bool) or not isinstance(value, str | float | int | bytes):
            raise StoreError(
                f"input {name!r} of example {example.id!r} is {type(value).__name__}.", "store text, numbers or bytes"
            )
        inputs[name] = float(value) + 0.0 if isinstance(value, float | int) else value  # 0.0 and -0.0 are one number
    return inputs


def split_of(example: Example, group: str) -> str:
    """Return the split of an example whose duplicate group is new: by its unit, or by the group where it has none.

    A fifth of units and groups is for tests.
    """
    has_unit = example.unit and example.unit not in (example.request_id, example.id)
    key = example.unit if has_unit else group
    drawn = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"tidemill split").digest(), "big")
    return "test" if drawn < TEST_SHARE * 2**64 else "train"


def to_row(example: Example, **stored: Any) -> dict[str, Any]:
    """Return the SQL row of an example; `stored` says project, split, content, duplicates, chunk and chunk_row.

    Raises:
        StoreError: it has a label without trust, source or time.
    """
    labelled = example.label is not None
    trust, at = example.trust, example.labelled_at
    if labelled and (trust is None or at is None or example.source is None):
        raise StoreError(f"the label of example {example.id!r} has no source, trust or time.", "give all three")
    return {
        "id": example.id, "request_id": example.request_id, "unit": example.unit, "subject": example.subject,
        "received_at": micros(example.received_at), "picked_at": micros(example.picked_at), "reason": example.reason,
        "probability": example.probability, "version": example.version,
        "decision": None if example.decision is None else dumps(example.decision),
        "label": dumps(example.label) if labelled else None, "trust": str(trust) if labelled else None,
        "source": example.source if labelled else None, "labelled_at": micros(at) if labelled and at else None,
        **stored,
    }  # fmt: skip


def from_row(row: RowMapping, inputs: Mapping[str, Any]) -> Example:
    """Read what `to_row` wrote."""
    return Example(
        id=row["id"], request_id=row["request_id"], unit=row["unit"], received_at=from_micros(row["received_at"]),
        picked_at=from_micros(row["picked_at"]), reason=row["reason"], probability=row["probability"],
        split=row["split"], inputs=inputs, version=row["version"],
        decision=None if row["decision"] is None else loads(row["decision"]),
        label=None if row["label"] is None else loads(row["label"]),
        trust=None if row["trust"] is None else Trust(row["trust"]), source=row["source"],
        labelled_at=None if row["labelled_at"] is None else from_micros(row["labelled_at"]), subject=row["subject"],
    )  # fmt: skip


def index_frame(rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Return rows of the columns of `INDEX` as a frame, labels and decisions decoded."""
    values = dict(zip(INDEX, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(INDEX, ())
    return pl.DataFrame(
        [
            decoded(name, values[name]) if kind is None else pl.Series(name, values[name], dtype=kind)
            for name, kind in INDEX.items()
        ]
    )


def decoded(name: str, texts: Iterable[str | None]) -> pl.Series:
    """Return JSON texts as their values: float64 where all are numbers, else text."""
    texts = list(texts)
    known = {text: loads(text) for text in set(texts) if text is not None}
    if known and not any(isinstance(value, str) for value in known.values()):
        return pl.Series(name, [None if text is None else float(known[text]) for text in texts], dtype=pl.Float64)
    return pl.Series(name, [None if text is None else str(known[text]) for text in texts], dtype=pl.String)
