"""The OpenAPI 3.1 document of a gateway (`GET /openapi.json`): its paths, with the inputs of the projects it serves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill import __version__
from tidemill.manifest import Manifest
from tidemill.records import CONFIRM, LABEL_KINDS
from tidemill.schema import (
    FLOAT32_END,
    Category,
    Classes,
    Image,
    Input,
    Number,
    Output,
    Schema,
    Sensitive,
    Tensor,
    Text,
    Value,
)  # fmt: skip
from tidemill.serving.infer import OUTPUTS
from tidemill.serving.protocol import MAX_FEEDBACK_ITEMS, MAX_NAME_CHARS
from tidemill.serving.tensors import MAX_ROWS

Json = dict[str, Any]

_MAX_DOUBLE = 1.7976931348623157e308
_TEXT: Json = {"type": "string"}
_WORD: Json = {"type": "boolean"}
_NAME: Json = {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_NAME_CHARS}
_SCALAR: Json = {"type": ["string", "number"]}
_LENGTH_HEADER = "Inference-Header-Content-Length"


def document(manifests: Sequence[Manifest], *, tokens: bool) -> Json:
    """Return the document of a gateway that serves these projects; with `tokens` every call needs one."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidemill", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": _paths(manifests),
        "components": {
            "schemas": _schemas(manifests),
            "responses": {"problem": _content("What is wrong, and what to do.", "Problem", "application/problem+json")},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if tokens else [],
    }


# ---- paths


def _paths(manifests: Sequence[Manifest]) -> Json:
    name = _parameter("name", {"type": "string", **({"enum": [m.project for m in manifests]} if manifests else {})})
    version = _parameter("version", {"type": "integer", "minimum": 1, "maximum": 999_999_999})
    model, pinned = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    read = {"get": _get("What is said of a model.", "ModelMetadata", 400, 404, 503)}
    ready = {"get": _get("Whether a model can answer.", "ModelReady", 400, 404, also={"503": "ModelReady"})}
    infer = {"post": _infer()}
    return {
        "/v1/predict": {"post": _post("Predict one row of named inputs.", "Predict", 200, "Answer", 404, 422)},
        "/v1/feedback": {"post": _post("Say what became known of requests.", "Feedback", 202, "Accepted", 404, 422)},
        "/v1/profile": {"post": _post("Say what a device saw, as sketches.", "Profile", 202, "Accepted", 404, 422)},
        "/v1/models": {"get": _get("The routes, and the state of their versions.", "Models")},
        "/v2": {"get": _get("The server.", "ServerMetadata")},
        "/v2/health/live": {"get": _get("Whether the process lives.", "Live")},
        "/v2/health/ready": {"get": _get("Whether predictions can be answered.", "Ready", also={"503": "Ready"})},
        model: {"parameters": [name], **read},
        f"{model}/ready": {"parameters": [name], **ready},
        f"{model}/infer": {"parameters": [name], **infer},
        pinned: {"parameters": [name, version], **read},
        f"{pinned}/ready": {"parameters": [name, version], **ready},
        f"{pinned}/infer": {"parameters": [name, version], **infer},
        "/metrics": {"get": _get_text("What Prometheus reads.")},
        "/openapi.json": {"get": _get("This document.", "Document")},
    }


def _parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _get(summary: str, reply: str, *problems: int, also: Mapping[str, str] | None = None) -> Json:
    more = {status: _content("Not now.", name) for status, name in (also or {}).items()}
    return {"summary": summary, "responses": {"200": _content("As asked.", reply), **_problems(*problems), **more}}


def _get_text(summary: str) -> Json:
    page = {"description": "The page.", "content": {"text/plain": {"schema": _TEXT}}}
    return {"summary": summary, "responses": {"200": page, **_problems()}}


def _post(summary: str, body: str, status: int, reply: str, *problems: int) -> Json:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}},
        "responses": {str(status): _content("Done, and logged.", reply), **_problems(400, 413, 415, 503, *problems)},
    }


def _infer() -> Json:
    said = _post("Predict rows of tensors (Open Inference Protocol).", "Infer", 200, "Inferred", 404)
    length = {"description": "How long the JSON is that binary tensors follow.", "schema": {"type": "integer"}}
    answered = said["responses"]["200"]
    answered["headers"] = {_LENGTH_HEADER: length}
    answered["content"]["application/octet-stream"] = {}
    return said


def _problems(*statuses: int) -> Json:
    return {str(s): {"$ref": "#/components/responses/problem"} for s in (*statuses, 401, 403, 405, 408, 429, 431, 500)}


def _content(description: str, schema: str, kind: str = "application/json") -> Json:
    return {"description": description, "content": {kind: {"schema": _ref(schema)}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


# ---- bodies


def _schemas(manifests: Sequence[Manifest]) -> Json:
    return {
        **{f"inputs.{m.project}": _inputs(m.schema) for m in manifests},
        "Predict": _any_of([_predict(m, alone=len(manifests) == 1) for m in manifests]),
        "Answer": _any_of([_answer(m) for m in manifests]),
        "FeedbackItem": _any_of([_item(m) for m in manifests]),
        "Feedback": _any_of([
            _ref("FeedbackItem"),
            {"type": "array", "items": _ref("FeedbackItem"), "maxItems": MAX_FEEDBACK_ITEMS},
        ]),
        "Profile": _object(
            {
                "device": {"type": "string", "minLength": 1, "maxLength": 100},
                "after": {"type": "string", "format": "date-time"}, "until": {"type": "string", "format": "date-time"},
                "profile": {"type": "string", "contentEncoding": "base64"},
            },
            {"model": _NAME},
        ),
        "Accepted": _object({"accepted": {"type": "integer", "minimum": 0}}),
        "Problem": _object(
            {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT, "hint": _TEXT},
            {"field": _TEXT, "request_id": _TEXT, "error": _TEXT},
        ),
        "Models": _object({"models": _array(_object({"name": _TEXT, "route": _open(), "versions": _array(_open())}))}),
        "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _array(_TEXT)}),
        "Live": _object({"live": _WORD}),
        "Ready": _object({"ready": _WORD}, {"problems": _array(_TEXT), "warnings": _array(_TEXT), "log": _open()}),
        "ModelReady": _any_of([_object({"name": _TEXT, "ready": _WORD}), _ref("Problem")]),
        "TensorMetadata": _object({"name": _TEXT, "datatype": _TEXT, "shape": _array({"type": "integer"})}),
        "ModelMetadata": _object({
            "name": _TEXT, "versions": _array(_TEXT), "platform": _TEXT,
            "inputs": _array(_ref("TensorMetadata")), "outputs": _array(_ref("TensorMetadata")),
        }),
        "Infer": _infer_body(),
        "Inferred": _inferred(),
        "Document": _open(),
    }  # fmt: skip


def _any_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas} if schemas else _open()


def _object(required: Json, optional: Json | None = None) -> Json:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _open() -> Json:
    return {"type": "object"}


def _predict(manifest: Manifest, *, alone: bool) -> Json:
    inputs, model = {"inputs": _ref(f"inputs.{manifest.project}")}, {"const": manifest.project}
    more: Json = {"unit": _NAME, "subject": _NAME, "version": {"type": ["integer", "null"], "minimum": 1}}
    if alone:
        return _object(inputs, {"model": {"enum": [manifest.project, None]}, **more})
    return _object({**inputs, "model": model}, more)


def _inputs(schema: Schema) -> Json:
    forms = {name: _input(kind) for name, kind in schema.inputs.items()}
    missing = {
        name: {"anyOf": [forms[name], {"enum": [default, None]}], "default": default}
        for name, default in schema.defaults.items()
    }
    return _object({name: forms[name] for name in schema.required}, missing)


def _input(kind: Input) -> Json:
    if isinstance(kind, Category) and kind.values is not None:
        return {"type": "string", "enum": list(kind.values)}
    if isinstance(kind, Text | Category | Sensitive):
        return {"type": "string", "maxLength": kind.max_chars}
    if isinstance(kind, Number):
        return _number(kind.low, kind.high)
    if isinstance(kind, Image):
        pixel = {"type": "integer", "minimum": 0, "maximum": 255}
        return {"anyOf": [_nested(pixel, kind.shape), _base64(math.prod(kind.shape), "the pixels, in C order")]}
    if isinstance(kind, Tensor):
        number = {"type": "number", "exclusiveMinimum": -FLOAT32_END, "exclusiveMaximum": FLOAT32_END}
        raw = _base64(4 * math.prod(kind.shape), "finite float32, little-endian, in C order")
        return {"anyOf": [_nested(number, kind.shape), raw]}
    return {}


def _number(low: float | None, high: float | None) -> Json:
    return {
        "type": "number",
        "minimum": -_MAX_DOUBLE if low is None else low,
        "maximum": _MAX_DOUBLE if high is None else high,
    }


def _nested(element: Json, shape: Sequence[int]) -> Json:
    for size in reversed(shape):
        element = {"type": "array", "items": element, "minItems": size, "maxItems": size}
    return element


def _base64(num_bytes: int, of: str) -> Json:
    num_chars = 4 * math.ceil(num_bytes / 3)
    pad = -num_bytes % 3
    pattern = f"^[A-Za-z0-9+/]{{{num_chars - pad}}}{'=' * pad}$"
    return {"type": "string", "contentEncoding": "base64", "pattern": pattern, "description": f"base64 of {of}"}


def _label(output: Output) -> Json:
    if isinstance(output, Classes):
        return {"enum": list(output.names)}
    return _number(output.low, output.high) if isinstance(output, Value) else {}


def _answer(manifest: Manifest) -> Json:
    output = manifest.schema.output
    score: Json = {"type": "number"}
    scores: Json = {"type": "array", "items": score, "minItems": output.num_scores, "maxItems": output.num_scores}
    if isinstance(output, Classes):
        scores = _object(dict.fromkeys(output.names, score))
    return {
        "type": "object",
        "properties": {
            "request_id": {"type": "string", "format": "uuid"},
            "model": {"const": manifest.project},
            "version": {"type": "integer"},
            "decision": _SCALAR | {"type": ["string", "number", "null"]},
            "scores": scores,
            "abstained": _WORD,
            "fallback": {"type": ["string", "null"]},
            "policy": {"type": "integer"},
            "top_k": _array(_TEXT),
            "logged": _WORD,
        },
        "required": ["request_id", "model", "version", "decision", "scores", "abstained", "fallback", "policy"],
    }


def _item(manifest: Manifest) -> Json:
    """Return what one item of feedback may be: a request id and one thing that it says."""
    label: Json = _label(manifest.schema.output)
    said: list[Json] = [{kind: {"const": True} if kind == CONFIRM else label} for kind in LABEL_KINDS]
    said += [{"rating": _number(None, None)}, {"thumbs": {"enum": ["up", "down", True, False]}}]
    items = [_object({"request_id": _TEXT, **one}) for one in said]
    if manifest.events:
        value = {"anyOf": [{"type": ["boolean", "null"]}, _number(None, None), {**_TEXT, "maxLength": 1_000}]}
        events = {"enum": [event for event in manifest.events if event not in LABEL_KINDS]}
        items.append(_object({"request_id": _TEXT, "event": events}, {"value": value}))
    return {"anyOf": items}


def _infer_body() -> Json:
    parameters = {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}}
    tensor = {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
            "datatype": _TEXT,
            "data": {"type": "array", "description": "flat, or nested as the shape says"},
            "parameters": parameters,
        },
        "required": ["name", "shape", "datatype"],
    }
    output = {"type": "object", "properties": {"name": {"enum": list(OUTPUTS)}}, "required": ["name"]}
    said = {"unit": _NAME, "subject": _NAME, "binary_data_output": _WORD}
    return {
        "type": "object",
        "description": f"The tensors of GET /v2/models/NAME, with as many rows each, at most {MAX_ROWS}.",
        "properties": {
            "id": _TEXT,
            "inputs": {**_array(tensor), "minItems": 1},
            "outputs": _array(output),
            "parameters": {"type": "object", "properties": said},
        },
        "required": ["inputs"],
    }


def _inferred() -> Json:
    output = {
        "name": {"enum": list(OUTPUTS)},
        "datatype": _TEXT,
        "shape": _array({"type": "integer", "minimum": 1}),
    }
    data = {"data": {"type": "array"}, "parameters": _object({"binary_data_size": {"type": "integer"}})}
    outputs = _array(_object(output, data))
    return _object({"model_name": _TEXT, "model_version": _TEXT, "outputs": outputs}, {"id": _TEXT})
