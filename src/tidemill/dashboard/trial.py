"""Trying a model by hand: the form that a schema makes, what was typed into it as wire values, and the answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tidemill.errors import InvalidInput
from tidemill.inputs import default_of
from tidemill.records import Json
from tidemill.schema import Category, Classes, Image, Input, Number, Output, Schema, Sensitive, Tensor, Text
from tidemill.stores.png import data_url

FieldKind = Literal["text", "word", "choice", "number", "picture", "tensor", "secret"]
_CHANNELS = (1, 3, 4)
MOST_BARS = 12


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of the form: its kind, its bounds, what stands in it, and what stands for it where it is left empty."""

    name: str
    kind: FieldKind
    choices: Sequence[str] = ()
    low: float | None = None
    high: float | None = None
    max_chars: int | None = None
    shape: Sequence[int] = ()
    is_tag: bool = False
    value: str = ""
    picture: str = ""
    default: str | None = None

    @property
    def hint(self) -> str:
        """What may be given, in words."""
        if self.shape:
            return "×".join(map(str, self.shape))
        if self.low is not None or self.high is not None:
            low, high = ("any" if end is None else f"{end:g}" for end in (self.low, self.high))
            return f"{low} to {high}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A class with its score."""

    name: str
    score: float
    is_decision: bool


def fields(schema: Schema, inputs: Mapping[str, Any] | None = None) -> list[Field]:
    """Return the fields of a schema, filled with canonical inputs where they are given."""
    return [_maybe_empty(kind, _field(name, kind, (inputs or {}).get(name))) for name, kind in schema.inputs.items()]


def _maybe_empty(kind: Input, field: Field) -> Field:
    """Return the field of an input that may be missing without what stands for that."""
    default = default_of(kind)
    if default is None:
        return field
    told = f"{default:.15g}" if isinstance(kind, Number) else str(default)
    if field.kind == "choice":
        return replace(field, value=field.value or told, default=told)
    return replace(field, value="" if field.value == told else field.value, default=told)


def _field(name: str, kind: Input, value: Any) -> Field:
    if isinstance(kind, Image):
        return _picture(name, kind, value)
    if isinstance(kind, Tensor):
        text = "" if value is None else json.dumps(_floats(np.frombuffer(value, dtype="<f4").reshape(kind.shape)))
        return Field(name=name, kind="tensor", shape=kind.shape, value=text)
    if isinstance(kind, Number):
        text = "" if value is None else f"{value:.15g}"
        return Field(name=name, kind="number", low=kind.low, high=kind.high, is_tag=kind.tag, value=text)
    if isinstance(kind, Category):
        of: FieldKind = "word" if kind.values is None else "choice"
        return Field(
            name=name, kind=of, choices=kind.values or (), max_chars=kind.max_chars, is_tag=kind.tag, value=value or ""
        )
    if isinstance(kind, Sensitive):  # the log has a hash, which is not what the model is asked with
        return Field(name=name, kind="secret", max_chars=kind.max_chars, is_tag=kind.tag)
    most = kind.max_chars if isinstance(kind, Text) else None
    return Field(name=name, kind="text", max_chars=most, is_tag=kind.tag, value=value or "")


def _picture(name: str, kind: Image, value: bytes | None) -> Field:
    text = "" if value is None else base64.b64encode(value).decode()
    if len(kind.shape) == 3 and kind.shape[2] not in _CHANNELS:  # no picture has so many channels
        return Field(name=name, kind="tensor", shape=kind.shape, value=text)
    pixels = None if value is None else np.frombuffer(value, dtype=np.uint8).reshape(kind.shape)
    return Field(
        name=name, kind="picture", shape=kind.shape, value=text, picture="" if pixels is None else data_url(pixels)
    )


def _floats(values: Any) -> Json:
    if isinstance(values, np.ndarray):
        return [_floats(one) for one in values]
    return float(f"{float(values):.7g}")


def wire(schema: Schema, typed: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what was typed as wire values by input, and what is wrong by input."""
    good: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, kind in schema.inputs.items():
        try:
            good[name] = _wire(name, kind, typed.get(name, ""))
        except InvalidInput as error:
            wrong[name] = str(error)
    return good, wrong


def _wire(name: str, kind: Input, text: str) -> Any:
    text = text.replace("\r\n", "\n")
    if not text and default_of(kind) is not None:
        return None
    value: Any = text
    if isinstance(kind, Image) and not text:
        raise InvalidInput(f"{name!r} has no picture.", "choose one", name)
    if isinstance(kind, Number):
        value = _number(name, text)
    elif isinstance(kind, Tensor | Image) and text.lstrip().startswith("["):
        value = _nested(name, text)
    kind.parse(value, name)
    return value


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{name!r} is {text[:60]!r}, not a number.", "type a number", name) from None


def _nested(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput(
            f"{name!r} is no JSON.", "write nested lists of numbers, as [[1, 2], [3, 4]]", name
        ) from None


def bars(output: Output, reply: Mapping[str, Any]) -> list[Bar]:
    """Return the scores of an answer, the best first; none where the output is a number."""
    scores = reply.get("scores")
    if not isinstance(output, Classes) or not isinstance(scores, Mapping):
        return []
    ordered = sorted(scores.items(), key=lambda one: -one[1])
    return [Bar(name=name, score=score, is_decision=name == reply.get("decision")) for name, score in ordered]


def said(output: Output, kind: str, text: str) -> Any:
    """Return the value of feedback that was pressed or typed.

    Raises:
        InvalidInput: there is no such feedback, or the value does not fit.
    """
    if kind == "confirm":
        return True
    if kind == "thumbs":
        return "up" if text == "up" else "down"
    if kind == "rating":
        return _number("rating", text)
    if kind == "correct":
        return output.parse_label(text if isinstance(output, Classes) else _number("label", text))
    raise InvalidInput(f"there is no feedback {kind[:40]!r}.", "load the page again", "kind")
