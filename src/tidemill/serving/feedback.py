"""What somebody learnt about a request, judged before it is written."""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import UNSET

from tidemill.errors import InvalidInput, InvalidRequest, Malformed, NotFound
from tidemill.manifest import Manifest
from tidemill.records import CONFIRM, LABEL_KINDS, Feedback
from tidemill.schema import Output
from tidemill.serving.deployment import Deployment
from tidemill.serving.protocol import FeedbackItem
from tidemill.serving.tokens import ANYBODY, Caller
from tidemill.stores.tokens import Scope

SOURCE = "http"
KINDS = (*LABEL_KINDS, "rating", "thumbs", "event")
"""What an item of feedback may say, one at a time."""
_THUMBS = {"up": True, "down": False, True: True, False: False}
_MAX_VALUE_CHARS = 1_000

Value = str | float | bool | None


def judge(
    item: FeedbackItem,
    deployments: Iterable[Deployment],
    now: int,
    *,
    index: int | None = None,
    caller: Caller = ANYBODY,
) -> tuple[Deployment, Feedback]:
    """Return the deployment that gave the request id, and the row to write.

    Raises:
        NotFound: no deployment here gave that id.
        Malformed: it says nothing, or several things at once.
        InvalidInput: what it says is not as declared. With `index`, the item's place in a list, every error is one,
            and names it.
    """
    try:
        return _judge(item, [d for d in deployments if caller.may(d.name, Scope.FEEDBACK)], now, caller)
    except InvalidRequest as error:
        if index is None:
            raise
        field = getattr(error, "field", "") or "request_id"
        raise InvalidInput(f"item {index}: {error.message}", error.hint, f"[{index}].{field}") from None


def _judge(
    item: FeedbackItem, deployments: Iterable[Deployment], now: int, caller: Caller
) -> tuple[Deployment, Feedback]:
    request_id = item.request_id.lower()
    deployment = next((d for d in deployments if d.ids.issued(request_id)), None)
    if deployment is None:
        raise NotFound(
            f"request id {item.request_id[:60]!r} was not given by this deployment.",
            "send the request_id of a prediction's reply",
        )
    manifest = deployment.table.manifest
    kind, value = _said(item, manifest)
    row = Feedback(
        request_id=request_id,
        received_at=now,
        kind=kind,
        value=value,
        source=caller.name or SOURCE,
        trust=str(caller.trust or manifest.feedback),
    )
    return deployment, row


def _said(item: FeedbackItem, manifest: Manifest) -> tuple[str, Value]:
    """Return what kind of feedback it is, and its canonical value."""
    kinds = [kind for kind in KINDS if getattr(item, kind) is not UNSET]
    if len(kinds) != 1:
        said = " and ".join(kinds) or "nothing"
        raise Malformed(f"feedback says {said}.", f"send one of {', '.join(map(repr, KINDS))}")
    if item.value is not UNSET and kinds != ["event"]:
        raise Malformed('"value" goes with "event" only.', "leave it out")
    (kind,) = kinds
    if kind == CONFIRM:
        return kind, _confirmed(item.confirm)
    if kind in LABEL_KINDS:
        return kind, _label(getattr(item, kind), kind, manifest.schema.output)
    if kinds == ["rating"]:
        return "rating", _number(item.rating, "rating")
    if kinds == ["thumbs"]:
        return "thumbs", _thumbs(item.thumbs)
    return _event(item, manifest)


def _label(value: object, field: str, output: Output) -> str | float:
    try:
        return output.parse_label(value)
    except InvalidInput as error:
        raise InvalidInput(error.message, error.hint, field) from None


def _confirmed(value: object) -> bool:
    if value is not True:
        raise InvalidInput(
            f"'confirm' is {str(value)[:60]!r}, not true.",
            'say what is right by "correct", or that something is wrong by "thumbs": "down"',
            CONFIRM,
        )
    return True


def _number(value: object, field: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidInput(f"{field!r} is {str(value)[:60]!r}, not a finite number.", "send a JSON number", field)
    return number


def _thumbs(value: object) -> bool:
    if not isinstance(value, str | bool) or value not in _THUMBS:
        raise InvalidInput(f"'thumbs' is {str(value)[:60]!r}.", 'send "up", "down", true or false', "thumbs")
    return _THUMBS[value]


def _event(item: FeedbackItem, manifest: Manifest) -> tuple[str, Value]:
    if item.event in LABEL_KINDS:
        raise InvalidInput(f"{item.event!r} is no event.", f'send "{item.event}" with what it says', "event")
    if item.event not in manifest.events:
        raise InvalidInput(
            f"event {str(item.event)[:60]!r} is not declared.",
            f"send one of {', '.join(manifest.events)}" if manifest.events else "declare tm.metrics.EventRate(event)",
            "event",
        )
    value = None if item.value is UNSET else item.value
    if value is None or isinstance(value, bool):
        return str(item.event), value
    if isinstance(value, str) and len(value) <= _MAX_VALUE_CHARS:
        return str(item.event), value
    if isinstance(value, int | float):
        return str(item.event), _number(value, "value")
    raise InvalidInput(
        f"'value' is {str(value)[:60]!r}.",
        f"send a number, true, false or at most {_MAX_VALUE_CHARS} characters",
        "value",
    )
