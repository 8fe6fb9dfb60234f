"""Where calls of the hot path come in: gathered for one turn of the event loop, then taken together."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from tidemill.errors import InvalidRequest
from tidemill.serving.calls import Call, Target
from tidemill.serving.gateway import Gateway
from tidemill.serving.inference import Inference
from tidemill.serving.protocol import InternalError
from tidemill.serving.targets import FeedbackTarget, InferTarget, PredictTarget
from tidemill.serving.tokens import Caller, TokenTable

_MAX_KNOWN = 1024
_MAX_HEAD_BYTES = 2048
_MAX_TARGETS = 256
_ENOUGH = 256  # calls for one turn
_MAX_PASSES = 8

_logger = logging.getLogger(__name__)


class Known(NamedTuple):
    """What a head means that was parsed before: the target, the caller, the sizes of the head and of all."""

    target: Target
    caller: Caller
    num_head: int
    num_bytes: int
    revision: int
    num_json: int | None


class Door:
    """Shared by all connections of one process. Every method is called in the event loop."""

    def __init__(self, gateway: Gateway, inference: Inference, tokens: TokenTable) -> None:
        self._gateway, self._inference, self.tokens = gateway, inference, tokens
        self._turn = gateway.turn
        self._targets: dict[bytes, Target] = {
            b"/v1/predict": PredictTarget(gateway),
            b"/v1/feedback": FeedbackTarget(gateway),
        }
        self._arrived: list[Call] = []
        self._num_seen = self._num_passes = 0  # while they are gathered
        self._callers: dict[bytes, tuple[int, Caller]] = {}
        self.known: dict[bytes, Known] = {}

    # ---- heads

    def target(self, url: bytes) -> Target | None:
        """Return what answers a POST to this path, None when ASGI does."""
        found = self._targets.get(url)
        if found is None and url.startswith(b"/v2/models/") and url.endswith(b"/infer"):
            found = self._infer_target(url.split(b"/")[3:-1])
            if found is not None and len(self._targets) < _MAX_TARGETS:
                self._targets[url] = found
        return found

    def _infer_target(self, parts: list[bytes]) -> Target | None:
        """Return the target of `NAME` or `NAME/versions/NUMBER`; a name that is not served is told by ASGI."""
        name = parts[0].decode("latin-1")
        if name not in self._gateway.deployments:
            return None
        if len(parts) == 1:
            return InferTarget(self._gateway, self._inference, name, None)
        if len(parts) == 3 and parts[1] == b"versions" and parts[2].isdigit() and len(parts[2]) < 10:
            return InferTarget(self._gateway, self._inference, name, int(parts[2]))
        return None

    def caller(self, header: bytes | None) -> Caller:
        """Return who asks.

        Raises:
            Unauthorized: nobody who may.
        """
        if header is None:  # never looked up: no token is nobody's token
            return self.tokens.caller(None)
        revision = self.tokens.revision
        found = self._callers.get(header)
        if found is not None and found[0] == revision:
            return found[1]
        caller = self.tokens.caller(header)
        if len(self._callers) >= _MAX_KNOWN:
            self._callers.clear()
        self._callers[header] = (revision, caller)
        return caller

    def remember(self, head: bytes, call: Call, num_bytes: int) -> None:
        """Know a head, whose caller was let in, when it comes again."""
        if len(head) > _MAX_HEAD_BYTES:
            return
        if len(self.known) >= _MAX_KNOWN:
            self.known.clear()
        self.known[head] = Known(call.target, call.caller, len(head), num_bytes, self.tokens.revision, call.num_json)

    @property
    def max_body_bytes(self) -> int:
        """The largest body that is read at all."""
        return self._gateway.max_body_bytes()

    # ---- calls

    def add(self, call: Call) -> None:
        """Take a call with all others that are about to come in."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._gather)
        self._arrived.append(call)

    def _gather(self) -> None:
        """Look once more at the sockets while that brings calls: who has just had a reply often asks at once."""
        num = len(self._arrived)
        if self._num_seen < num < _ENOUGH and self._num_passes < _MAX_PASSES:
            self._num_seen, self._num_passes = num, self._num_passes + 1
            asyncio.get_running_loop().call_soon(self._gather)
            return
        self._num_seen = self._num_passes = 0
        self._turn.taking(self._take)

    def _take(self) -> None:
        calls, self._arrived = self._arrived, []
        moment = self._gateway.moment()
        parts: dict[Target, list[Call]] = {}
        for call in calls:
            parts.setdefault(call.target, []).append(call)
        for target, part in parts.items():
            try:
                target.take(part, moment)
            except InvalidRequest as error:
                self._refuse(part, error)
            except Exception:
                _logger.exception("calls failed")
                self._refuse(part, InternalError("the gateway failed on this.", "look in its log; please report it"))

    def _refuse(self, calls: list[Call], error: InvalidRequest) -> None:
        """Refuse all that was not replied to."""
        for call in calls:
            call.refuse(error)
