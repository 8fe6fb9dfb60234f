"""Label Studio's JSON: tasks to import there, and what comes back from its export.

A task carries its example's id in `data.tidemill_id`, by which the answer is known again. Format:
https://labelstud.io/guide/export (JSON), and https://labelstud.io/guide/tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np

from tidemill.errors import ProjectError
from tidemill.records import Example, Json
from tidemill.schema import Classes, Image, Schema, Tensor, Text
from tidemill.stores.png import data_url

_ID = "tidemill_id"
_FROM = "label"


class Answer(NamedTuple):
    """One annotation: which example, what was said, and by whom."""

    id: str
    label: str | float
    by: str


def to_tasks(examples: Sequence[Example], schema: Schema) -> list[Json]:
    """Return examples as Label Studio tasks, the model's decision as a pre-annotation; images are data URIs."""
    shown = _first_shown(schema)
    tasks = []
    for example in examples:
        data = {
            name: _shown(schema.inputs[name], value) for name, value in example.inputs.items() if name in schema.inputs
        }
        task: dict[str, Json] = {"data": {_ID: example.id, **data}}
        if example.decision is not None:
            said = {"from_name": _FROM, "to_name": shown, **_value(example.decision)}
            task["predictions"] = [{"model_version": f"version {example.version}", "result": [said]}]
        tasks.append(task)
    return tasks


def to_config(schema: Schema, rulebook: str) -> str:
    """Return the labelling interface that fits the tasks, as Label Studio's XML; the rulebook stands on top."""
    lines = ["<View>"]
    lines += [f"  <Header value={quoteattr(line)}/>" for line in rulebook.splitlines() if line.strip()]
    for name, kind in schema.inputs.items():
        tag = "Image" if isinstance(kind, Image) else "Text"
        lines.append(f"  <{tag} name={quoteattr(name)} value={quoteattr('$' + name)}/>")
    shown = quoteattr(_first_shown(schema))
    if isinstance(schema.output, Classes):
        choices = [f"    <Choice value={quoteattr(name)}/>" for name in schema.output.names]
        lines += [
            f'  <Choices name="{_FROM}" toName={shown} choice="single" required="true">',
            *choices,
            "  </Choices>",
        ]
    else:
        lines.append(f'  <Number name="{_FROM}" toName={shown} required="true"/>')
    return "\n".join([*lines, "</View>"]) + "\n"


def from_export(tasks: Json) -> list[Answer]:
    """Return the annotations of a JSON export in its order; skipped tasks and other people's tasks are left out.

    Raises:
        ProjectError: it is no JSON export of Label Studio; the message names the task.
    """
    if not isinstance(tasks, list):
        raise ProjectError("this is no list of Label Studio tasks.", "export the project as JSON, not JSON-MIN")
    answers = []
    for number, task in enumerate(tasks):
        try:
            id_ = task["data"].get(_ID)
            kept = [one for one in task.get("annotations", ()) if not one.get("was_cancelled") and one["result"]]
            answers += [Answer(id_, _label(one["result"]), _who(one)) for one in kept if id_]
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ProjectError(
                f"task {number} is no exported task: {error!r}.", "export the project as JSON"
            ) from error
    return answers


def _label(result: Sequence[Mapping[str, Any]]) -> str | float:
    """Return what was chosen or typed in the one control that answers."""
    (value,) = [one["value"] for one in result if one.get("from_name", _FROM) == _FROM]
    if "choices" in value:
        (choice,) = value["choices"]
        return str(choice)
    return float(value["number"])


def _who(annotation: Mapping[str, Any]) -> str:
    by = annotation.get("completed_by")
    return (
        str(by.get("email") or by["id"]) if isinstance(by, Mapping) else f"label-studio {by}" if by else "label-studio"
    )


def _first_shown(schema: Schema) -> str:
    """Return the input that the answer is attached to: an image, else text, else the first."""
    inputs = schema.inputs
    for kind in (Image, Text):
        for name in inputs:
            if isinstance(inputs[name], kind):
                return name
    return next(iter(inputs))


def _value(decision: str | float) -> Json:
    if isinstance(decision, str):
        return {"type": "choices", "value": {"choices": [decision]}}
    return {"type": "number", "value": {"number": decision}}


def _shown(kind: object, value: Any) -> Json:
    if isinstance(kind, Image):
        pixels = np.frombuffer(value, dtype=np.uint8).reshape(kind.shape)
        return data_url(pixels)
    if isinstance(kind, Tensor):
        return " ".join(f"{v:g}" for v in np.frombuffer(value, dtype="<f4")[:100])
    return value if isinstance(value, str) or math.isfinite(value) else None
