"""What answers the calls of the hot path: one target for each path, which takes all calls of a turn together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec import Struct

from tidemill.errors import InvalidRequest
from tidemill.serving.calls import JSON_HEAD, Call
from tidemill.serving.deployment import Deployment
from tidemill.serving.gateway import Gateway, check_size
from tidemill.serving.infer import InferForm, problem_v2
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
from tidemill.serving.rows import Asked, Moment, Told
from tidemill.serving.tokens import Caller
from tidemill.stores.tokens import Scope


class _Single(Told, eq=False):
    """A call of one row, whose reply is `head` and `body` once they are made."""

    call: Call
    head: bytes = b""
    body: bytes = b""

    def __call__(self, answer: Answer | InvalidRequest) -> None:
        """Reply."""
        call = self.call
        if not isinstance(answer, Answer):
            call.refuse(answer)
            return
        if not self.body or not answer.logged:
            self.prepare(answer)
        call.connection.send(call, self.head, self.body)


class _Plain(_Single, eq=False):
    def prepare(self, answer: Answer) -> None:
        body = self.body = encode_answer(answer)
        self.head = JSON_HEAD % len(body)


class _Tensors(_Single, eq=False):
    def prepare(self, answer: Answer) -> None:
        call = self.call
        body = self.body = call.form.one(answer, call.id)
        self.head = JSON_HEAD % len(body)


class PredictTarget:
    """`POST /v1/predict`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.problem = problem
        self._let_in: Caller | None = None  # who may, and whom of: most calls are like the last
        self._of: Deployment | None = None

    def take(self, calls: Sequence[Call], moment: Moment) -> None:
        """Read bodies in one go where they are as declared, else slowly, to tell what is wrong with them."""
        asked: dict[Deployment, list[Asked]] = {}
        for call in calls:
            try:
                found, request = self._read(call.body, call.caller)
                if found is None:
                    self._gateway.submit(request, moment, call.told, num_bytes=len(call.body))
                else:
                    asked.setdefault(found, []).append((request, _Plain(call)))
            except InvalidRequest as error:
                call.refuse(error)
        for deployment, requests in asked.items():
            deployment.take(requests, moment)

    def _read(self, body: bytes, caller: Caller) -> tuple[Deployment | None, PredictRequest]:
        gateway = self._gateway
        found = gateway.only or gateway.deployments.get(peek_model(body) or "")
        request = None
        if found is not None and len(body) <= found.table.manifest.limits.max_body_bytes:
            request = found.table.reader.read(body)
        if found is None or request is None or (request.model or found.name) != found.name:
            return None, careful_request(gateway, body, caller)
        if caller is not self._let_in or found is not self._of:
            caller.enter(found.name, Scope.PREDICT)
            self._let_in, self._of = caller, found
        return found, request

    def told(self, call: Call, answer: Answer) -> None:
        """Reply with an answer."""
        call.answer(encode_answer(answer))


def careful_request(gateway: Gateway, body: bytes, caller: Caller) -> PredictRequest:
    """Read the body of a prediction so that whatever is wrong with it is told.

    Raises:
        InvalidRequest: the caller may not, or it is not as expected.
    """
    caller.enter(None, Scope.PREDICT)
    try:
        request = read_predict(body)
    except InvalidRequest as malformed:
        raise _counted(gateway, _named_nan(gateway, body, caller) or malformed) from None
    request.model = caller.enter(request.model, Scope.PREDICT)
    return request


def _counted(gateway: Gateway, error: InvalidRequest) -> InvalidRequest:
    gateway.count_refusal("", error)
    return error


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
    """`POST /v2/models/NAME/infer` and `/v2/models/NAME/versions/NUMBER/infer`."""

    def __init__(self, gateway: Gateway, inference: Inference, model: str, version: int | None) -> None:
        self._gateway, self._inference, self._model, self._version = gateway, inference, model, version
        self.problem = problem_v2
        self._let_in: Caller | None = None  # who may: most calls come from the same one as the last

    def take(self, calls: Sequence[Call], moment: Moment) -> None:
        """Ask for each row of each request; one is answered when all its rows are."""
        deployment, form = self._gateway.deployment(self._model), self._inference.form(self._model)
        limit = deployment.table.manifest.limits.max_body_bytes
        asked: list[Asked] = []
        model, version, read = self._model, self._version, form.quick
        for call in calls:
            try:
                if call.caller is not self._let_in:
                    call.caller.enter(model, Scope.PREDICT)
                    self._let_in = call.caller
                body = call.body
                quick = read(body) if len(body) <= limit and call.num_json is None else None
                if quick is None:
                    asked += self._read(call, form, limit)
                    continue
                row, call.id = quick
                call.form = form
                asked.append((PredictRequest(row, None, None, model, version), _Tensors(call)))
            except InvalidRequest as error:
                self._gateway.count_refusal(self._model, error)
                call.refuse(error)
        deployment.take(asked, moment)

    def _read(self, call: Call, form: InferForm, limit: int) -> Sequence[Asked]:
        check_size(len(call.body), limit)
        call.form = form
        request = call.asked = form.read(call.body, call.num_json)
        wanted = request.predictions(self._model, self._version)
        if len(wanted) == 1:
            return ((wanted[0], call.told),)
        rows = _Rows(call, [None] * len(wanted), len(wanted))
        return [(one, partial(rows.told, number)) for number, one in enumerate(wanted)]

    def told(self, call: Call, answer: Answer) -> None:
        """Reply with the answer to the only row."""
        _reply(call, (answer,))


def _reply(call: Call, answers: Sequence[Answer]) -> None:
    body, num_json = call.form.write(call.asked, answers)
    if num_json is None:
        call.answer(body)
    else:
        call.answer_bytes(body, num_json)


class _Rows(Struct, eq=False):
    """The answers to a request of several rows as they come in."""

    call: Call
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
        _reply(self.call, answers)


class FeedbackTarget:
    """`POST /v1/feedback`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.problem = problem

    def take(self, calls: Sequence[Call], moment: Moment) -> None:
        """Acknowledge feedback once it is written."""
        for call in calls:
            try:
                call.caller.enter(None, Scope.FEEDBACK)
                items, listed = read_feedback(call.body)
                self._gateway.give(items, partial(_given, call, len(items)), listed=listed, caller=call.caller)
            except InvalidRequest as error:
                call.refuse(error)

    def told(self, call: Call, answer: Answer) -> None:
        """Feedback gets no answer of a version."""
        raise AssertionError("feedback was answered as a prediction")


def _given(call: Call, num: int, refusal: InvalidRequest | None) -> None:
    if refusal is None:
        call.accept(encode({"accepted": num}))
    else:
        call.refuse(refusal)
