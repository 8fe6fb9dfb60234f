"""Whether a version can answer under a declaration that may have changed since it was trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tidemill.errors import ModelError
from tidemill.model import Artefact
from tidemill.records import Json
from tidemill.schema import Input, Output, Schema
from tidemill.transforms import Pipeline

_T = TypeVar("_T", Input, Output)
_AT_THE_EDGE = {"outliers", "low", "high", "max_chars", "values", "tag", "default"}


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


def difference(then: Schema, now: Schema) -> str:
    """Return in words how a declaration differs in form from an earlier one, "" where no model and no caller minds.

    Nobody minds a new input that may be missing.
    """
    before, after = then.to_json(), now.to_json()
    old, new = before["inputs"], after["inputs"]
    said = [f"input {name!r} is new" for name in new if name not in old and name not in now.defaults]
    said += [f"input {name!r} is gone" for name in old if name not in new]
    wanted = [name for name in then.defaults if name in new and name not in now.defaults]
    said += [f"input {name!r} has no default any more" for name in wanted]
    said += [f"input {name!r} has another form" for name in new if name in old and _form(new[name]) != _form(old[name])]
    said += ["the output has another form"] if _form(before["output"]) != _form(after["output"]) else []
    return ", ".join(said)


def taken_over(own: Schema, now: Schema) -> Schema:
    """Return a version's own schema, with what is declared now of each input, and of the output, of the same form."""
    inputs = {name: _newer(kind, now.inputs.get(name)) for name, kind in own.inputs.items()}
    return Schema(inputs, _newer(own.output, now.output))


def _newer(own: _T, now: _T | None) -> _T:
    return now if now is not None and _form(now.to_json()) == _form(own.to_json()) else own


def _form(declared: Json | None) -> Json:
    """Return what of a declaration a model depends on: the form of the values, not which of them are refused."""
    return {name: value for name, value in (declared or {}).items() if name not in _AT_THE_EDGE}
