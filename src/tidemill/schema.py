"""What a model takes and gives: the declared inputs and the output, and validation of a request at the edge.

The types of inputs are in `tidemill.inputs`, those of outputs in `tidemill.outputs`; all of them can be had here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, get_args

from tidemill.errors import InvalidInput, ProjectError
from tidemill.inputs import (
    FLOAT32_END,
    INPUT_TYPES,
    Array,
    Category,
    Columns,
    Image,
    Input,
    Number,
    Outliers,
    Sensitive,
    Tensor,
    Text,
    default_of,
    shown,
)
from tidemill.outputs import OUTPUT_TYPES, Classes, Output, Value
from tidemill.records import Json

__all__ = [
    "FLOAT32_END",
    "INPUT_TYPES",
    "OUTPUT_TYPES",
    "RESERVED",
    "Array",
    "Category",
    "Classes",
    "Columns",
    "Image",
    "Input",
    "Number",
    "Outliers",
    "Output",
    "Parsed",
    "Schema",
    "Sensitive",
    "Tensor",
    "Text",
    "Value",
    "keyed_hash",
]

RESERVED = frozenset({
    "request_id", "received_at", "role", "unit", "subject", "rollout", "share", "salt", "route_revision",
    "assigned_version", "answered_version", "fallback_reason", "error", "policy_version", "tags", "inputs", "scores",
    "decision", "abstained", "cached", "latency_ms", "keep_probability", "outlier", "top_k",
    "label", "label_trust", "label_at", "trust", "id", "split", "weight", "probability",
})  # fmt: skip
"""Names of the log's own columns, which an input may not take."""


def _from_json(data: Json, types: Mapping[str, type[Any]]) -> Any:
    kind = types.get(data.get("type"))
    if kind is None:
        raise ProjectError(f"unknown type {data.get('type')!r} in a manifest.", "compile it again with this program")
    known = {f.name for f in fields(kind)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
    return kind(**given)


class Parsed(dict[str, Any]):
    """Inputs of one request that each input's own wire form was read into already: tensors, say, that came as bytes.

    Every declared input is there and canonical, but for the sensitive ones, which are still in the clear.
    """


@dataclass(frozen=True)
class Schema:
    """The declared inputs and the output of a project."""

    inputs: Mapping[str, Input]
    output: Output

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ProjectError("a project has no inputs.", "declare one, such as inputs={'text': tm.Text()}")
        for name, kind in self.inputs.items():
            if not name.isidentifier() or name in RESERVED or name.startswith("_"):
                raise ProjectError(
                    f"input name {name!r} is no plain name, or is taken by the log.", "call it another name"
                )
            if isinstance(kind, type) or not hasattr(kind, "parse"):
                raise ProjectError(f"input {name!r} is {kind!r}, not an input type.", "use tm.Text(), tm.Number(), ...")
            if getattr(kind, "outliers", "flag") not in get_args(Outliers):
                raise ProjectError(f"input {name!r} has outliers={kind.outliers!r}.", "use 'flag' or 'refuse'")  # type: ignore[attr-defined]
        if isinstance(self.output, type) or not hasattr(self.output, "decide"):
            raise ProjectError(f"output is {self.output!r}, not an output type.", "use tm.Classes([...]) or tm.Value()")

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the inputs that describe the request."""
        return tuple(n for n, t in self.inputs.items() if t.tag)

    @property
    def refused(self) -> tuple[str, ...]:
        """Names of the inputs whose outliers are refused."""
        return tuple(n for n, t in self.inputs.items() if getattr(t, "outliers", "flag") == "refuse")

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """What stands for those inputs that may be missing, canonically, by name."""
        return {n: default for n, t in self.inputs.items() if (default := default_of(t)) is not None}

    def filled(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a canonical row with the defaults of what it lacks: it may be older than an input."""
        return {**row, **{n: default for n, default in self.defaults.items() if row.get(n) is None}}

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the inputs that may not be missing."""
        return tuple(n for n in self.inputs if n not in self.defaults)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the inputs that feed the model unless transforms say otherwise."""
        return tuple(n for n, t in self.inputs.items() if not t.tag)

    def validate(self, raw: object, *, key: bytes = b"") -> dict[str, Any]:
        """Return the canonical inputs of one request; `key` hashes sensitive ones.

        Raises:
            InvalidInput: a field is unknown, missing, of the wrong type or shape, NaN or out of range.
        """
        if type(raw) is Parsed:
            return self._hidden(raw, key)
        if not isinstance(raw, dict):
            # Not what was sent: a sensitive value may be in it.
            given = type(raw).__name__
            raise InvalidInput(
                f"inputs are of type {given}, not an object.", f"send {{{', '.join(self.inputs)}}}", "inputs"
            )
        out: dict[str, Any] = {}
        for name, kind in self.inputs.items():
            if name in raw:
                value = kind.parse(raw[name], name)
            elif (value := default_of(kind)) is None:
                raise InvalidInput(f"input {name!r} is missing.", f"send all of {', '.join(self.required)}", name)
            out[name] = keyed_hash(value, key) if isinstance(kind, Sensitive) else value
        if not raw.keys() <= out.keys():
            extra = next(n for n in raw if n not in out)
            raise InvalidInput(
                f"input {shown(extra)} is not declared.", f"send only {', '.join(self.inputs)}", str(extra)
            )
        return out

    def _hidden(self, parsed: Parsed, key: bytes) -> dict[str, Any]:
        """Return parsed inputs with the sensitive ones hashed."""
        hidden = {n: keyed_hash(parsed[n], key) for n, kind in self.inputs.items() if isinstance(kind, Sensitive)}
        return {**parsed, **hidden}

    def columns(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Turn canonical rows into a batch of the named inputs (all by default).

        A row may lack an input that has a default: it may be older than that.
        """
        wanted, missing = self.inputs if names is None else names, self.defaults
        return {
            n: self.inputs[n].column([row.get(n, missing[n]) if n in missing else row[n] for row in rows])
            for n in wanted
        }

    def to_json(self) -> Json:
        """Return the schema as JSON."""
        return {"inputs": {n: t.to_json() for n, t in self.inputs.items()}, "output": self.output.to_json()}

    @classmethod
    def from_json(cls, data: Json) -> Schema:
        """Read what `to_json` wrote."""
        inputs = {n: _from_json(t, INPUT_TYPES) for n, t in data["inputs"].items()}
        return cls(inputs, _from_json(data["output"], OUTPUT_TYPES))


def keyed_hash(value: str, key: bytes) -> str:
    """Return the 32 hex digits that stand for a sensitive value under a deployment's `key`."""
    return hashlib.blake2b(value.encode(), key=key, digest_size=16).hexdigest()
