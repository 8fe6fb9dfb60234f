"""Whether a version can answer under a declaration that may have changed since it was trained."""

from __future__ import annotations

from collections.abc import Iterable

from tidemill.errors import ModelError
from tidemill.model import Artefact
from tidemill.records import Json
from tidemill.schema import Schema
from tidemill.transforms import Pipeline

_AT_THE_EDGE = {"outliers", "low", "high", "max_chars", "values", "tag"}


def reads(artefact: Artefact) -> tuple[str, ...]:
    """Return the names of the inputs that a version reads: of a Python model, whose code may read any, all of them."""
    if artefact.format == "python":
        return tuple(Schema.from_json(artefact.schema).inputs)
    return Pipeline.from_json(artefact.transforms).inputs


def check_fits(then: Schema, inputs: Iterable[str], now: Schema) -> None:
    """Refuse a version that reads inputs otherwise than they are declared now, or gives another output.

    Raises:
        ModelError: it was trained with another declaration of an input it reads, or of the output.
    """
    before, after = then.to_json(), now.to_json()
    changed = [name for name in inputs if _form(after["inputs"].get(name)) != _form(before["inputs"][name])]
    if changed or _form(after["output"]) != _form(before["output"]):
        what = f"input {changed[0]!r}" if changed else "the output"
        raise ModelError(
            f"the version was trained with {what} declared otherwise than now.", "train a version with this schema"
        )


def _form(declared: Json | None) -> Json:
    """Return what of a declaration a model depends on: the form of the values, not which of them are refused."""
    return {name: value for name, value in (declared or {}).items() if name not in _AT_THE_EDGE}
