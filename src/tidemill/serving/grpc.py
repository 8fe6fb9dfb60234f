"""The Open Inference Protocol's gRPC service, in the gateway's process and event loop, beside HTTP.

Calls are taken as bytes by one generic handler, so that all calls of a tick meet in one batch of the core. An error is
a status with what is wrong and the next move as its details; a fault of the gateway's own says no more than that.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from tidemill.errors import InvalidRequest, Malformed, TidemillError
from tidemill.serving import grpc_wire
from tidemill.serving.gateway import Gateway, check_size
from tidemill.serving.grpc_messages import SERVICE, messages
from tidemill.serving.inference import Inference, server_metadata, version_number
from tidemill.serving.tokens import ANYBODY, Caller, TokenTable
from tidemill.stores.tokens import Scope

MAX_CALLS = 8_192
"""At once, of all connections: beyond it a call is RESOURCE_EXHAUSTED."""
_MAX_STREAMS = 1_024
_HANDSHAKE_MS = 10_000
_MAX_DETAILS = 1_000
_OVERHEAD_BYTES = 1 << 16  # of a message beside its tensors

_logger = logging.getLogger(__name__)

Method = Callable[[bytes, Any], Awaitable[bytes]]
"""What answers a call: takes the message and grpcio's context, returns the message of the reply."""

_CODES: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


class GrpcServer:
    """Listens for gRPC. Made, started and stopped in the event loop.

    With `shared`, other processes of the same gateway listen on the port too.
    """

    def __init__(
        self, gateway: Gateway, tokens: TokenTable, *, host: str = "127.0.0.1", port: int = 0, shared: bool = False
    ) -> None:
        self._service = _Service(gateway, tokens)
        self._host, self._port, self._shared = host, port, shared
        self._max_bytes = gateway.max_body_bytes() + _OVERHEAD_BYTES
        self._server: Any = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            TidemillError: the port is taken.
        """
        options = [
            ("grpc.so_reuseport", int(self._shared)),
            ("grpc.max_receive_message_length", self._max_bytes),
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ]
        self._server = grpc.aio.server(handlers=(self._service,), options=options, maximum_concurrent_rpcs=MAX_CALLS)
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            port: int = self._server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError as error:
            raise TidemillError(f"cannot listen for gRPC on {host}:{self._port}.", "choose another port") from error
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end when those under way are answered, or after `grace_s`."""
        if self._server is not None:
            await self._server.stop(grace_s)


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Finds what answers a call by its path."""

    def __init__(self, gateway: Gateway, tokens: TokenTable) -> None:
        self._gateway, self._tokens = gateway, tokens
        self._inference = Inference(gateway)
        self._writers: dict[str, grpc_wire.Writer] = {}
        self._read_infer = grpc_wire.parser("ModelInferRequest")
        answered: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        self._methods = {f"/{SERVICE}/{name}": _unary(method) for name, method in answered.items()}

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call; None leaves it to grpcio to say that there is no such service."""
        path: str = handler_call_details.method
        found = self._methods.get(path)
        if found is None and path.startswith(f"/{SERVICE}/"):
            return grpc.stream_stream_rpc_method_handler(_unimplemented)
        return found

    # ---- the model

    async def _infer(self, raw: bytes, context: Any) -> bytes:
        caller = self._caller(context)
        caller.enter(None, Scope.PREDICT)
        message = self._parsed(self._read_infer, raw)
        model: str = message.model_name
        caller.enter(model, Scope.PREDICT)
        try:
            form = self._inference.form(model)
            check_size(len(raw), self._gateway.deployment(model).table.manifest.limits.max_body_bytes)
            version = version_number(message.model_version)
            request = grpc_wire.read(form, message)
        except InvalidRequest as error:
            self._gateway.count_refusal(model if model in self._gateway.deployments else "", error)
            raise
        writer = self._writers.get(model)
        if writer is None or writer.form is not form:
            writer = self._writers[model] = grpc_wire.Writer(form)
        return writer.write(request, await self._inference.answers(model, version, request))

    async def _model_ready(self, raw: bytes, context: Any) -> bytes:
        asked = self._parsed(grpc_wire.parser("ModelReadyRequest"), raw)
        ready = self._inference.is_ready(asked.name, version_number(asked.version))
        return _message("ModelReadyResponse", ready=ready)

    async def _model_metadata(self, raw: bytes, context: Any) -> bytes:
        asked = self._parsed(grpc_wire.parser("ModelMetadataRequest"), raw)
        self._caller(context).enter(asked.name, None)
        about = self._inference.metadata(asked.name, version_number(asked.version))
        return _message("ModelMetadataResponse", **about)

    # ---- the server

    async def _live(self, raw: bytes, context: Any) -> bytes:
        return _message("ServerLiveResponse", live=True)

    async def _ready(self, raw: bytes, context: Any) -> bytes:
        return _message("ServerReadyResponse", ready=not self._gateway.problems())

    async def _server_metadata(self, raw: bytes, context: Any) -> bytes:
        return _message("ServerMetadataResponse", **server_metadata())

    # ---- who asks, and for what

    def _caller(self, context: Any) -> Caller:
        if self._tokens.is_open:
            return ANYBODY
        shown = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), None)
        return self._tokens.caller(shown.encode("latin-1", "replace") if isinstance(shown, str) else shown)

    def _parsed(self, parse: grpc_wire.Parse, raw: bytes) -> Any:
        try:
            return parse(raw)
        except Exception:  # protobuf's DecodeError is no public name of every version
            raise Malformed("the message is not of the protocol.", f"send the messages of {SERVICE}") from None


def _unary(method: Method) -> Any:
    """Return the handler of a method: what it raises becomes a status."""

    async def answer(raw: bytes, context: Any) -> bytes:
        try:
            return await method(raw, context)
        except InvalidRequest as error:
            request_id = getattr(error, "request_id", "")
            code, details = _CODES.get(error.status, grpc.StatusCode.UNKNOWN), str(error)[:_MAX_DETAILS]
            trailing = (("tidemill-request-id", request_id),) if request_id else ()
        except Exception:
            _logger.exception("a gRPC call failed")
            code, trailing = grpc.StatusCode.INTERNAL, ()
            details = "the gateway failed on this request. Next: look in its log; please report it"
        await context.abort(code, details, trailing)
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(answer)


async def _unimplemented(calls: Any, context: Any) -> None:
    """Refuse a call that belongs to other servers of the protocol: repositories, statistics, streams, shared memory."""
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        "this call is not served: versions come and go by the route. Next: use ServerLive, ServerReady, ModelReady, "
        "ServerMetadata, ModelMetadata or ModelInfer",
    )


def _message(kind: str, /, **fields: Any) -> bytes:
    made: bytes = messages()[kind](**fields).SerializeToString()
    return made
