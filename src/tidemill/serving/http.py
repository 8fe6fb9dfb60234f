"""HTTP for the gateway: a plain ASGI application, nothing between it and the core."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from tidemill.errors import InvalidRequest, NotFound, Unauthorized
from tidemill.serving.gateway import Gateway, check_size
from tidemill.serving.infer import problem_v2
from tidemill.serving.inference import LENGTH_HEADER, Inference, Target, model_metadata, server_metadata, target
from tidemill.serving.metrics import Metrics
from tidemill.serving.openapi import document
from tidemill.serving.protocol import InternalError, encode, encode_answer, problem, read_feedback, read_profile
from tidemill.serving.targets import careful_request
from tidemill.serving.tokens import CHALLENGE, Caller, TokenTable
from tidemill.serving.trace import Span, child
from tidemill.stores.tokens import Scope

Connection = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Reply = tuple[int, bytes]

_JSON = b"application/json"
_PROBLEM = b"application/problem+json"
_BYTES = b"application/octet-stream"
_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"

_logger = logging.getLogger(__name__)


class CallerGoneError(Exception):
    """The caller closed the connection before the whole body had come."""


class MethodNotAllowed(InvalidRequest):
    """The path takes another method."""

    status = 405
    title = "Method not allowed"


class UnsupportedEncoding(InvalidRequest):
    """The body is compressed."""

    status = 415
    title = "Unsupported media type"


class Http:
    """The ASGI application. `start` and `stop` are awaited when the server starts and stops."""

    def __init__(
        self,
        gateway: Gateway,
        metrics: Metrics,
        tokens: TokenTable,
        *,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._gateway, self._metrics, self._tokens = gateway, metrics, tokens
        self._start, self._stop = start, stop
        self._posts = {"/v1/predict": self._predict, "/v1/feedback": self._feedback, "/v1/profile": self._profile}
        self.inference = Inference(gateway)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _http(self, scope: Connection, receive: Receive, send: Send) -> None:
        told = problem_v2 if scope["path"].startswith("/v2") else problem
        more: list[tuple[bytes, bytes]] = []
        span = _span(scope)
        try:
            post = self._posts.get(scope["path"])
            if post is not None and scope["method"] == "POST":
                caller = self._tokens.caller(_authorization(scope))
                status, body = await post(await self._body(scope, receive), caller)
                kind = _JSON
            elif scope["method"] == "POST" and (asked := target(scope["path"])) is not None:
                status, body, kind, more = await self._infer(scope, receive, asked)
            else:
                status, body, kind = self._get(scope)
        except CallerGoneError:
            return
        except InvalidRequest as error:
            status, body, kind = error.status, told(error), _PROBLEM
        except Exception:
            _logger.exception("%s %s failed (%s)", scope["method"], scope["path"], span or "no trace")
            status, kind = 500, _PROBLEM
            body = told(InternalError("the gateway failed on this request.", "look in its log; please report it"))
        if span is not None:
            more = [*more, (b"traceresponse", span.header)]
        await _send(send, status, body, kind, more)

    async def _body(self, scope: Connection, receive: Receive) -> bytes:
        """Read the whole body, refusing one that is too large before or while it comes."""
        limit = self._gateway.max_body_bytes()
        for name, value in scope["headers"]:
            if name == b"content-length":
                check_size(int(value), limit)
            if name == b"content-encoding" and value.lower() != b"identity":
                raise UnsupportedEncoding("the body is compressed.", "send it as it is")
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await _rest(body, receive, limit)
        elif message["type"] == "http.disconnect":
            raise CallerGoneError
        check_size(len(body), limit)
        return body

    # ---- POST

    async def _predict(self, body: bytes, caller: Caller) -> Reply:
        request = careful_request(self._gateway, body, caller)
        return 200, encode_answer(await self._gateway.predict(request, num_bytes=len(body)))

    async def _infer(
        self, scope: Connection, receive: Receive, asked: Target
    ) -> tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]:
        caller = self._tokens.caller(_authorization(scope))
        body, length = await self.inference.post(asked, await self._body(scope, receive), scope["headers"], caller)
        if length is None:
            return 200, body, _JSON, []
        return 200, body, _BYTES, [(LENGTH_HEADER, b"%d" % length)]

    async def _feedback(self, body: bytes, caller: Caller) -> Reply:
        caller.enter(None, Scope.FEEDBACK)
        items, listed = read_feedback(body)
        return 202, encode({"accepted": await self._gateway.feedback(items, listed=listed, caller=caller)})

    async def _profile(self, body: bytes, caller: Caller) -> Reply:
        await self._gateway.profile(read_profile(body), caller)
        return 202, encode({"accepted": 1})

    # ---- GET

    def _get(self, scope: Connection) -> tuple[int, bytes, bytes]:
        method, path = scope["method"], scope["path"]
        if path in self._posts or target(path) is not None:
            raise MethodNotAllowed(f"{path} takes POST, not {method}.", "send a POST with a JSON body")
        parts = path.strip("/").split("/")
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(f"{path} takes GET, not {method}.", "send a GET")
        if parts == ["metrics"]:
            if not self._may_operate(scope):
                self._tokens.check(_authorization(scope), None, Scope.OPERATE)
            return 200, self._metrics.page(), _PROMETHEUS
        if parts == ["v1", "models"]:
            caller = self._tokens.caller(_authorization(scope))
            names = [name for name in self._gateway.deployments if caller.may(name, None)]
            return 200, encode({"models": [self._gateway.describe(name) for name in names]}), _JSON
        if parts == ["openapi.json"]:
            caller = self._tokens.caller(_authorization(scope))
            seen = [d.table.manifest for name, d in self._gateway.deployments.items() if caller.may(name, None)]
            return 200, encode(document(seen, tokens=not self._tokens.is_open)), _JSON
        if parts == ["v2"]:
            return 200, encode(server_metadata()), _JSON
        if parts[:2] == ["v2", "health"] and len(parts) == 3:
            return self._health(scope, path, parts[2])
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            if parts[-1] != "ready":
                self._tokens.check(_authorization(scope), parts[2], None)
            return self._model(path, parts[2:])
        raise _no_path(path)

    def _health(self, scope: Connection, path: str, which: str) -> tuple[int, bytes, bytes]:
        if which == "live":
            return 200, encode({"live": True}), _JSON
        if which != "ready":
            raise _no_path(path)
        problems = self._gateway.problems()
        told = {"warnings": self._gateway.warnings(), "log": self._gateway.log_state()}
        body = {"ready": not problems, "problems": problems, **told}
        if not self._may_operate(scope):
            body = {"ready": not problems}
        return 503 if problems else 200, encode(body), _JSON

    def _may_operate(self, scope: Connection) -> bool:
        """Tell whether the caller may see how the gateway does: on this machine anybody may."""
        if not self._tokens.beyond_loopback:
            return True
        try:
            return self._tokens.caller(_authorization(scope)).may_operate
        except Unauthorized:
            return False

    def _model(self, path: str, parts: list[str]) -> tuple[int, bytes, bytes]:
        name, *rest = parts
        table = self._gateway.deployment(name).table
        number = table.route.stable
        if rest[:1] == ["versions"] and len(rest) > 1:
            if not rest[1].isdecimal() or int(rest[1]) not in table.versions:
                raise NotFound(
                    f"version {rest[1][:20]!r} of {name!r} is not served.",
                    f"it serves {', '.join(map(str, table.versions))}",
                )
            number, rest = int(rest[1]), rest[2:]
        if rest == ["ready"]:
            ready = not table.versions[number].problem if len(parts) > 2 else table.is_ready
            return 200 if ready else 503, encode({"name": name, "ready": ready}), _JSON
        if rest:
            raise _no_path(path)
        return 200, encode(model_metadata(name, table.manifest.schema, sorted(table.versions))), _JSON

    # ---- start and end

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:
            _logger.exception("the gateway does not start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})


def _span(scope: Connection) -> Span | None:
    parents = [value for name, value in scope["headers"] if name == b"traceparent"]
    return child(parents[0]) if len(parents) == 1 else None


def _authorization(scope: Connection) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == b"authorization"), None)


async def _rest(body: bytes, receive: Receive, limit: int) -> bytes:
    parts, size, more = [body], len(body), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        check_size(size, limit)
        more = message.get("more_body", False)
    return b"".join(parts)


async def _send(send: Send, status: int, body: bytes, kind: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    if status == 401:
        headers.append((b"www-authenticate", CHALLENGE))
    if status == 405:
        headers.append((b"allow", b"POST" if b"takes POST" in body else b"GET"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _no_path(path: str) -> NotFound:
    return NotFound(
        f"there is nothing at {path[:100]!r}.", "see /v1/predict, /v1/feedback, /v1/models, /v2/health/ready, /metrics"
    )
