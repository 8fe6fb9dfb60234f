"""What goes over the wire: the bodies of requests and replies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tidemill.errors import InvalidInput, InvalidRequest, Malformed, Unavailable

MAX_FEEDBACK_ITEMS = 1_000
MAX_NAME_CHARS = 256
"""Of a unit or a subject."""


class PredictRequest(Struct, forbid_unknown_fields=True, gc=False):
    """The body of `POST /v1/predict`. `model` may be left out where one project is served.

    `version` pins the version that answers, whatever the route says; none stands in for it.
    """

    inputs: Any
    unit: str | None = None
    subject: str | None = None
    model: str | None = None
    version: int | None = None


class FeedbackItem(Struct, forbid_unknown_fields=True, gc=False):
    """The body of `POST /v1/feedback`, or one item of it: a request id, and one thing that it says."""

    request_id: str
    label: Any = UNSET
    confirm: Any = UNSET
    correct: Any = UNSET
    override: Any = UNSET
    rating: Any = UNSET
    thumbs: Any = UNSET
    event: str | UnsetType = UNSET
    value: Any = UNSET


class ProfileItem(Struct, forbid_unknown_fields=True, gc=False):
    """The body of `POST /v1/profile`: what a device saw in (after, until], as sketches (base64 of their bytes)."""

    device: str
    after: datetime
    until: datetime
    profile: bytes
    model: str | None = None


class Answer(Struct, gc=False):
    """What a version answered. `fallback` says why the version it was meant for did not.

    `named` makes of `scores` what a JSON reply shows: an object by class, or None for the list as it is. `logged` is
    False only where the log failed and the gateway was told to answer all the same.
    """

    request_id: str
    model: str
    version: int
    decision: str | float | None
    scores: list[float]
    abstained: bool
    fallback: str | None
    policy: int = 1
    top_k: list[str] | None = None
    named: Callable[..., Any] | None = None
    logged: bool = True


class _Shown(Struct, gc=False, omit_defaults=True):
    """The reply to `POST /v1/predict`.

    `top_k` is left out where it was not asked for, and `logged` where it is true.
    """

    request_id: str
    model: str
    version: int
    decision: str | float | None
    scores: Any
    abstained: bool
    fallback: str | None
    policy: int
    top_k: list[str] | None = None
    logged: bool = True


class Problem(Struct, omit_defaults=True):
    """The body of an error (RFC 9457), with the next move and, where one is to blame, the field."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
    field: str = ""
    request_id: str = ""


class Unanswered(Unavailable):
    """No version could answer; the log has the request as `request_id`."""

    def __init__(self, message: str, hint: str, request_id: str) -> None:
        super().__init__(message, hint)
        self.request_id = request_id


class InternalError(InvalidRequest):
    """A fault of the gateway's own; what happened is in its log."""

    status = 500
    title = "Internal error"


class _Peeked(Struct, gc=False):
    """So much of a body as says which model it is for."""

    model: str | None = None


encode = msgspec.json.Encoder().encode
_peek = msgspec.json.Decoder(_Peeked).decode
_predict = msgspec.json.Decoder(PredictRequest)
_feedback = msgspec.json.Decoder(FeedbackItem | list[FeedbackItem])
_profile = msgspec.json.Decoder(ProfileItem)


def encode_answer(answer: Answer) -> bytes:
    """Return the body of the reply to `POST /v1/predict`."""
    scores = answer.scores
    return encode(
        _Shown(
            answer.request_id,
            answer.model,
            answer.version,
            answer.decision,
            scores if answer.named is None else answer.named(*scores),
            answer.abstained,
            answer.fallback,
            answer.policy,
            answer.top_k,
            answer.logged,
        )
    )


def by_name(names: Sequence[str]) -> Callable[..., Any]:
    """Return what makes an object of scores by their names: a type of its own, which is made faster than a dict."""
    fields = [f"s{i}" for i in range(len(names))]
    try:
        kind: Callable[..., Any] = msgspec.defstruct(
            "Scores", [(field, float) for field in fields], rename=dict(zip(fields, names, strict=True)), gc=False
        )
    except ValueError:  # a name that JSON must escape
        return lambda *scores: dict(zip(names, scores, strict=True))
    return kind


def read_predict(body: bytes) -> PredictRequest:
    """Read the body of a prediction.

    Raises:
        Malformed: it is not JSON, or not the envelope.
    """
    try:
        return _predict.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(error, 'send {"inputs": {...}}, and if you like "unit", "subject" and "model"') from None


def peek_model(body: bytes) -> str | None:
    """Return the model that a body names, None where there is none or the body is no such JSON."""
    try:
        return _peek(body).model
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def read_lenient(body: bytes) -> dict[str, Any] | None:
    """Return an object that is JSON but for NaN and infinity, None where that is not what is wrong.

    `json.dumps` writes NaN, which is no JSON: a caller who sent one wants to hear which field it is in.
    """
    strange: list[str] = []

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            strange.append(text)
        return value

    try:
        data = json.loads(body, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError):
        return None
    return data if strange and isinstance(data, dict) else None


def read_feedback(body: bytes) -> tuple[list[FeedbackItem], bool]:
    """Read the body of feedback: the items, and whether they came as a list.

    Raises:
        Malformed: it is not JSON, or not the envelope.
        InvalidInput: the list is too long.
    """
    try:
        items = _feedback.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        hint = 'send {"request_id": ..., and one of "label", "confirm", "correct", "override", "rating", "thumbs", '
        hint += '"event"}, or a list of such'
        raise _malformed(error, hint) from None
    if not isinstance(items, list):
        return [items], False
    if len(items) > MAX_FEEDBACK_ITEMS:
        raise InvalidInput(f"{len(items)} items of feedback in one body.", f"send at most {MAX_FEEDBACK_ITEMS}")
    return items, True


def read_profile(body: bytes) -> ProfileItem:
    """Read the body of a profile.

    Raises:
        Malformed: it is not JSON, or not the envelope.
    """
    try:
        return _profile.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(error, 'send {"device": ..., "after": ..., "until": ..., "profile": base64}') from None


def _malformed(error: Exception, hint: str) -> InvalidRequest:
    if isinstance(error, RecursionError):
        return Malformed("the body is nested too deeply.", hint)
    if isinstance(error, msgspec.ValidationError):
        return Malformed(f"the body is not as expected: {error}.", hint)
    return Malformed(f"the body is not JSON: {error}.", hint)


def problem(error: InvalidRequest) -> bytes:
    """Return the body that tells a caller of an error."""
    return encode(
        Problem(
            type=f"urn:tidemill:problem:{type(error).__name__.lower()}",
            title=error.title,
            status=error.status,
            detail=error.message,
            hint=error.hint,
            field=getattr(error, "field", ""),
            request_id=getattr(error, "request_id", ""),
        )
    )
