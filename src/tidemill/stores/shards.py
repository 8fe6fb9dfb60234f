"""The rows of a dataset version as typed columns: what a shard holds, and which examples fit into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import msgspec
import numpy as np
import pyarrow as pa

from tidemill.clock import micros
from tidemill.errors import InvalidInput
from tidemill.records import Example
from tidemill.schema import Input, Number, Schema

Kind = Literal["text", "number", "bytes"]
Row = Mapping[str, Any]

_ARROW = {"text": pa.large_string(), "number": pa.float64(), "bytes": pa.large_binary()}
_PYTHON = {"text": str, "number": float, "bytes": bytes}
_OWN = {
    "id": pa.large_string(), "split": pa.string(), "weight": pa.float64(), "label": None, "trust": pa.string(),
    "unit": pa.large_string(), "received_at": pa.int64(), "probability": pa.float64(),
}  # fmt: skip


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The kinds of the inputs, in order, and of the label."""

    inputs: dict[str, Kind]
    label: Kind

    @classmethod
    def of(cls, schema: Schema) -> Self:
        """Return the form of the datasets for a schema."""
        (decision,) = schema.output.decide(np.zeros((1, schema.output.num_scores)))
        return cls(
            inputs={name: _kind(given) for name, given in schema.inputs.items()},
            label="text" if isinstance(decision, str) else "number",
        )

    def covers(self, schema: Schema) -> bool:
        """Say whether rows of this form have all inputs of a schema, in its types."""
        wanted = Form.of(schema)
        return wanted.label == self.label and wanted.inputs.items() <= self.inputs.items()


def fitting(example: Example, weight: float, schema: Schema) -> Row | None:
    """Return an example as a row, or None when it lacks an input, has one of another type, or an unknown label."""
    try:
        label = schema.output.parse_label(example.label)
        if not all(_fits(example.inputs[name], given) for name, given in schema.inputs.items()):
            return None
    except (KeyError, InvalidInput):
        return None
    return {
        "id": example.id, "split": example.split, "weight": float(weight), "label": label,
        "trust": str(example.trust), "unit": example.unit, "received_at": micros(example.received_at),
        "probability": example.probability, **{name: example.inputs[name] for name in schema.inputs},
    }  # fmt: skip


def table(rows: Sequence[Row], form: Form) -> pa.Table:
    """Return rows of a form as a table; no rows give its columns."""
    types = {**_OWN, "label": _ARROW[form.label], **{name: _ARROW[kind] for name, kind in form.inputs.items()}}
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()})


def _kind(given: Input) -> Kind:
    if hasattr(given, "shape"):
        return "bytes"
    return "number" if isinstance(given, Number) else "text"


def _fits(value: Any, given: Input) -> bool:
    if not isinstance(value, _PYTHON[_kind(given)]):
        return False
    try:
        given.column([value])
    except ValueError:
        return False  # bytes of another shape
    return True
