"""What answers the calls of the hot path: one target for each path."""

from __future__ import annotations

from functools import partial

from msgspec import Struct

from tidemill.errors import InvalidRequest
from tidemill.serving.calls import Call
from tidemill.serving.gateway import Gateway, check_size
from tidemill.serving.infer import InferForm, InferRequest, problem_v2
from tidemill.serving.inference import Inference
from tidemill.serving.protocol import (
    Answer,
    PredictRequest,
    encode,
    encode_answer,
    peek_model,
    problem,
    read_feedback,
    read_lenient,
    read_predict,
)
from tidemill.serving.rows import Moment
from tidemill.serving.tokens import ANYBODY, Caller
from tidemill.stores.tokens import Scope


class PredictTarget:
    """`POST /v1/predict`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.problem = problem

    def take(self, call: Call, moment: Moment) -> None:
        """Read a body in one go where it is as declared, else slowly, to tell what is wrong with it."""
        gateway, body, caller = self._gateway, call.body, call.caller
        found = gateway.deployments.get(peek_model(body)) if len(gateway.deployments) > 1 else gateway.only
        request = None if found is None else found.table.reader.read(body)
        if found is None or request is None or len(body) > found.table.manifest.limits.max_body_bytes:
            request = careful_request(gateway, body, caller)
            gateway.submit(request, moment, partial(_told, call), num_bytes=len(body))
            return
        if caller is not ANYBODY:
            caller.enter(request.model or found.name, Scope.PREDICT)
        if request.model is not None and request.model != found.name:
            found = gateway.deployment(request.model)
        gateway.enter(found, request, moment, partial(_told, call))


def _told(call: Call, answer: Answer | InvalidRequest) -> None:
    if isinstance(answer, Answer):
        call.answer(encode_answer(answer))
    else:
        call.refuse(answer)


def careful_request(gateway: Gateway, body: bytes, caller: Caller) -> PredictRequest:
    """Read the body of a prediction so that whatever is wrong with it is told.

    Raises:
        InvalidRequest: the caller may not, or it is not as expected.
    """
    caller.enter(None, Scope.PREDICT)
    try:
        request = read_predict(body)
    except InvalidRequest as malformed:
        error = _named_nan(gateway, body, caller) or malformed
        gateway.count_refusal("", error)
        raise error from None
    request.model = caller.enter(request.model, Scope.PREDICT)
    return request


def _named_nan(gateway: Gateway, body: bytes, caller: Caller) -> InvalidRequest | None:
    """Return what is wrong with the field of a NaN or infinity, which is no JSON but which some libraries write."""
    data = read_lenient(body)
    if data is None:
        return None
    model = data.get("model")
    try:
        named = caller.enter(model if isinstance(model, str) else None, Scope.PREDICT)
        gateway.deployment(named).table.manifest.schema.validate(data.get("inputs"))
    except InvalidRequest as error:
        return error
    return None


class InferTarget:
    """`POST /v2/models/NAME/infer` and `/v2/models/NAME/versions/NUMBER/infer`, with JSON alone."""

    def __init__(self, gateway: Gateway, inference: Inference, model: str, version: int | None) -> None:
        self._gateway, self._inference, self._model, self._version = gateway, inference, model, version
        self.problem = problem_v2

    def take(self, call: Call, moment: Moment) -> None:
        """Ask for each row of the request, and answer when all are answered."""
        gateway, model = self._gateway, self._model
        if call.caller is not ANYBODY:
            call.caller.enter(model, Scope.PREDICT)
        try:
            deployment, form = gateway.deployment(model), self._inference.form(model)
            check_size(len(call.body), deployment.table.manifest.limits.max_body_bytes)
            request = form.read(call.body)
        except InvalidRequest as error:
            gateway.count_refusal(model if model in gateway.deployments else "", error)
            raise
        wanted = request.predictions(model, self._version)
        if len(wanted) == 1:
            gateway.submit(wanted[0], moment, partial(_inferred, call, form, request))
            return
        rows = _Rows(call, form, request, [None] * len(wanted), len(wanted))
        for number, one in enumerate(wanted):
            gateway.submit(one, moment, partial(rows.told, number))


def _inferred(call: Call, form: InferForm, request: InferRequest, answer: Answer | InvalidRequest) -> None:
    if isinstance(answer, Answer):
        _reply(call, form, request, [answer])
    else:
        call.refuse(answer)


def _reply(call: Call, form: InferForm, request: InferRequest, answers: list[Answer]) -> None:
    body, num_head = form.write(request, answers)
    if num_head is None:
        call.answer(body)
    else:
        call.answer_bytes(body, num_head)


class _Rows(Struct, eq=False):
    """The answers to a request of several rows as they come in."""

    call: Call
    form: InferForm
    request: InferRequest
    answers: list[Answer | InvalidRequest | None]
    num_missing: int

    def told(self, number: int, answer: Answer | InvalidRequest) -> None:
        """Keep one; reply with the last, or with the first refusal."""
        self.answers[number] = answer
        self.num_missing -= 1
        if self.num_missing:
            return
        answers = []
        for row, one in enumerate(self.answers):
            if isinstance(one, InvalidRequest):
                one.message = f"row {row}: {one.message}"
                self.call.refuse(one)
                return
            assert one is not None
            answers.append(one)
        _reply(self.call, self.form, self.request, answers)


class FeedbackTarget:
    """`POST /v1/feedback`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.problem = problem

    def take(self, call: Call, moment: Moment) -> None:
        """Acknowledge feedback once it is written."""
        call.caller.enter(None, Scope.FEEDBACK)
        items, listed = read_feedback(call.body)

        def told(refusal: InvalidRequest | None) -> None:
            if refusal is None:
                call.accept(encode({"accepted": len(items)}))
            else:
                call.refuse(refusal)

        self._gateway.give(items, told, listed=listed, caller=call.caller)
