"""Reads the body of a prediction and checks its inputs in one go: the JSON decoder itself knows the declared types.

What it cannot read, for whatever reason, `read_predict` and `Schema.validate` read again, to say what is wrong.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tidemill.errors import InvalidInput
from tidemill.inputs import default_of
from tidemill.schema import Category, Number, Parsed, Schema, Sensitive, Tensor, Text
from tidemill.serving.protocol import MAX_NAME_CHARS, PredictRequest

_MOST = 1.7976931348623157e308
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)] | None

Finish = Callable[[Any], Any]


class Reader:
    """Reads bodies of `POST /v1/predict` for one schema."""

    def __init__(self, schema: Schema) -> None:
        forms = {name: _form(kind, name) for name, kind in schema.inputs.items()}
        required = [(name, forms[name][0]) for name in schema.required]
        optional = [(name, forms[name][0] | None, None) for name in schema.defaults]
        inputs = msgspec.defstruct("Inputs", [*required, *optional], forbid_unknown_fields=True, gc=False)
        body = msgspec.defstruct(
            "Body",
            [("inputs", inputs), *((name, _Name, None) for name in ("unit", "subject", "model")), _VERSION],
            forbid_unknown_fields=True,
            gc=False,
        )
        self._decode = msgspec.json.Decoder(body).decode
        self._parts = [(name, finish) for name, (_, finish) in forms.items()]

    def read(self, body: bytes) -> PredictRequest | None:
        """Return the request with parsed inputs, or None when it is not as declared."""
        try:
            read: Any = self._decode(body)
            inputs, parsed = read.inputs, Parsed()
            for name, finish in self._parts:
                value = getattr(inputs, name)
                parsed[name] = value if finish is None else finish(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError, InvalidInput):
            return None
        return PredictRequest(parsed, read.unit, read.subject, read.model, read.version)


_VERSION = ("version", int | None, None)


def _form(kind: Any, name: str) -> tuple[Any, Finish | None]:
    """Return the type that an input has in JSON, and what makes it canonical, None where it is so already."""
    wire, finish = _wire(kind, name)
    default = default_of(kind)
    return (wire, finish) if default is None else (wire, partial(_or, default))


def _or(default: Any, value: Any) -> Any:
    return default if value is None else value


def _wire(kind: Any, name: str) -> tuple[Any, Finish | None]:
    if isinstance(kind, Number):
        low, high = (-_MOST if kind.low is None else kind.low), (_MOST if kind.high is None else kind.high)
        return Annotated[float, Meta(ge=low, le=high)], None
    if isinstance(kind, Tensor):
        return _nested(kind.shape), partial(_packed, struct.Struct(f"<{math.prod(kind.shape)}f"), len(kind.shape) - 1)
    if isinstance(kind, Category) and kind.values is not None:
        return Literal[tuple(value for value in kind.values if len(value) <= kind.max_chars) or ("",)], None
    if isinstance(kind, Text | Category | Sensitive):
        return Annotated[str, Meta(max_length=kind.max_chars)], None
    return Any, partial(_parsed, kind, name)


def _nested(shape: Sequence[int]) -> Any:
    wire: Any = float
    for size in reversed(shape):
        wire = Annotated[list[wire], Meta(min_length=size, max_length=size)]
    return wire


def _packed(form: struct.Struct, depth: int, values: list[Any]) -> bytes:
    """Return the float32 bytes of nested lists.

    Raises:
        OverflowError: a number is beyond float32.
    """
    for _ in range(depth):
        values = list(chain.from_iterable(values))
    return form.pack(*values)


def _parsed(kind: Any, name: str, value: Any) -> Any:
    return kind.parse(value, name)
