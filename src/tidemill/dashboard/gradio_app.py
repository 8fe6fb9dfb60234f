"""The try page as a Gradio app, made of the same schema over the same REST API (extra `gradio`)."""

from __future__ import annotations

import base64
import os
from typing import Any

import numpy as np

from tidemill.dashboard.gateway import Gateway
from tidemill.dashboard.trial import Field, bars, fields, said, wire
from tidemill.errors import InvalidRequest, MissingExtra
from tidemill.records import Json
from tidemill.schema import Classes, Schema

_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def run(project: str, schema: Schema, gateway: Gateway, *, host: str, port: int) -> None:
    """Serve the app until it is stopped.

    Raises:
        MissingExtra: gradio is not installed.
    """
    build(project, schema, gateway).launch(server_name=host, server_port=port or None, share=False, quiet=False)


def build(project: str, schema: Schema, gateway: Gateway) -> Any:
    """Return the app, a `gradio.Blocks`, to launch or to mount; it sends nothing to its makers.

    Raises:
        MissingExtra: gradio is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # read when gradio is imported
    try:
        import gradio as gr  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("`tidemill try --gradio`", "gradio") from error
    return _blocks(gr, project, schema, Trial(project, schema, gateway))


class Trial:
    """What the app's buttons do, in terms of its components' values."""

    def __init__(self, project: str, schema: Schema, gateway: Gateway) -> None:
        self._project, self._schema, self._gateway = project, schema, gateway

    def ask(self, *values: Any) -> tuple[Json, str, str]:
        """Return what is shown of the answer: scores or the number, a line about it, and the request's id.

        Raises:
            InvalidRequest: an input does not fit, or the gateway does not answer.
        """
        shown = fields(self._schema)
        typed = {one.name: _typed(one, value) for one, value in zip(shown, values, strict=True)}
        inputs, wrong = wire(self._schema, typed)
        if wrong:
            raise InvalidRequest(" ".join(wrong.values()))
        reply = self._gateway.predict(self._project, inputs)
        found = bars(self._schema.output, reply)
        answer = {one.name: one.score for one in found} if found else str(reply.get("decision"))
        sure = "not sure enough (abstained); " if reply.get("abstained") else ""
        line = f"{sure}version {reply.get('version')}, policy {reply.get('policy')}, {reply.took_s * 1000:.0f} ms"
        return answer, line, str(reply["request_id"])

    def tell(self, request_id: str, kind: str, text: Any) -> str:
        """Send feedback, and say so.

        Raises:
            InvalidRequest: there is no answer yet, it does not fit, or the gateway does not take it.
        """
        if not request_id:
            raise InvalidRequest("There is no answer yet.", "ask the model first")
        value = said(self._schema.output, kind, "" if text is None else str(text))
        self._gateway.tell(request_id, kind, value)
        return f"Kept as feedback: {kind} {value}."


def _typed(one: Field, value: Any) -> str:
    """Return a component's value as it would be typed."""
    if value is None:
        return ""
    if one.kind != "picture":
        return str(value)
    resized = np.asarray(value.resize((one.shape[1], one.shape[0])), dtype=np.uint8)  # a PIL image, as gradio gives it
    return base64.b64encode(resized.tobytes()).decode()


def _component(gr: Any, one: Field) -> Any:
    label = f"{one.name} ({one.hint})" if one.hint else one.name
    empty = None if one.default is None else f"{one.default} where it is left empty"
    if one.kind == "picture":
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[(*one.shape, 1)[2]]
        return gr.Image(label=label, image_mode=mode, type="pil")
    if one.kind == "choice":
        return gr.Dropdown(list(one.choices), label=label, value=one.value or one.choices[0])
    if one.kind == "number":
        return gr.Number(label=label, minimum=one.low, maximum=one.high, placeholder=empty)
    is_long = one.kind in ("text", "tensor")
    return gr.Textbox(label=label, lines=4 if is_long else 1, max_length=one.max_chars, placeholder=empty)


def _blocks(gr: Any, project: str, schema: Schema, trial: Trial) -> Any:
    output = schema.output
    with gr.Blocks(title=f"{project}: try it", analytics_enabled=False) as blocks:
        gr.Markdown(f"# {project}")
        request_id = gr.State("")
        with gr.Row():
            with gr.Column():
                given = [_component(gr, one) for one in fields(schema)]
                asked = gr.Button("Ask the model", variant="primary")
            with gr.Column():
                names = list(output.names) if isinstance(output, Classes) else []
                answer = gr.Label(label="Answer", num_top_classes=5) if names else gr.Textbox(label="Answer")
                about = gr.Textbox(label="About", interactive=False)
                with gr.Row():
                    right, wrong = gr.Button("Right"), gr.Button("Wrong")
                label = gr.Dropdown(names, label="It should be") if names else gr.Number(label="It should be")
                correct = gr.Button("Correct it")
                stars = gr.Radio(["1", "2", "3", "4", "5"], label="Rate it, 5 is best")
                kept = gr.Textbox(label="Feedback", interactive=False)
        asked.click(_told(gr, trial.ask), given, [answer, about, request_id], api_name="ask")
        _says(gr, trial, right, "confirm", None, request_id, kept)
        _says(gr, trial, wrong, "thumbs", None, request_id, kept)
        _says(gr, trial, correct, "correct", label, request_id, kept)
        stars.input(_told(gr, _teller(trial, "rating")), [request_id, stars], kept, api_name="rating")
    return blocks


def _says(gr: Any, trial: Trial, button: Any, kind: str, value: Any, request_id: Any, kept: Any) -> None:
    given = [request_id] if value is None else [request_id, value]
    button.click(_told(gr, _teller(trial, kind)), given, kept, api_name=kind)


def _teller(trial: Trial, kind: str) -> Any:
    def tell(request_id: str, value: Any = None) -> str:
        return trial.tell(request_id, kind, value)

    return tell


def _told(gr: Any, do: Any) -> Any:
    """Return a function whose refusals Gradio shows as they are."""

    def told(*values: Any) -> Any:
        try:
            return do(*values)
        except InvalidRequest as error:
            raise gr.Error(str(error)) from None

    return told
