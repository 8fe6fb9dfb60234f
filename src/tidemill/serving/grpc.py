"""The Open Inference Protocol's gRPC service, in the gateway's process and event loop, beside HTTP.

All calls that come in one turn of the loop are taken together, as over HTTP. An error is a status with what is wrong
and the next move as its message; a fault of the gateway's own says no more than that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from tidemill.errors import InvalidRequest, Malformed, TidemillError
from tidemill.serving import grpc_wire
from tidemill.serving.deployment import Deployment
from tidemill.serving.gateway import Gateway, check_size
from tidemill.serving.grpc_messages import SERVICE, messages
from tidemill.serving.http2 import Http2
from tidemill.serving.http2_stream import Allowance, Shared, Stream
from tidemill.serving.infer import InferRequest
from tidemill.serving.inference import Inference, server_metadata, version_number
from tidemill.serving.protocol import Answer, InternalError
from tidemill.serving.rows import Asked, Moment
from tidemill.serving.tokens import ANYBODY, Caller, TokenTable
from tidemill.serving.trace import child
from tidemill.stores.tokens import Scope

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 3, 4, 5, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED, UNKNOWN = 12, 13, 14, 16, 2
_CODES: Mapping[int, int] = {
    400: INVALID_ARGUMENT, 401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 404: NOT_FOUND, 408: DEADLINE_EXCEEDED,
    413: RESOURCE_EXHAUSTED, 415: UNIMPLEMENTED, 422: INVALID_ARGUMENT, 429: RESOURCE_EXHAUSTED, 500: INTERNAL,
    503: UNAVAILABLE,
}  # fmt: skip
_MAX_DETAILS = 1_000
_OVERHEAD_BYTES = 1 << 16  # of a message beside its tensors
_INFER = f"/{SERVICE}/ModelInfer"
_LOST = "the gateway failed on this request. Next: look in its log; please report it"
_OTHERS = (
    "this call is not served: versions come and go by the route. Next: use ServerLive, ServerReady, ModelReady, "
    "ServerMetadata, ModelMetadata or ModelInfer"
)

_logger = logging.getLogger(__name__)

Method = Callable[[bytes, Stream], bytes]
"""What answers a call at once: takes the message and the call, returns the message of the reply."""


class CompressedMessage(InvalidRequest):
    """The message is compressed."""

    status = 415
    title = "Compressed message"


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a header as HPACK writes it without a table."""
    return b"\0" + _sized(name) + _sized(value)


def _sized(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    head, rest = bytearray((127,)), len(text) - 127
    while rest >= 0x80:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((*head, rest)) + text


_OK = b"\x88"  # :status 200, by its number in HPACK's table
_HEAD = _OK + _literal(b"content-type", b"application/grpc")
_TRAILERS = _literal(b"grpc-status", b"0")
_NO_GRPC = _literal(b":status", b"415")


class GrpcServer:
    """Listens for gRPC. Made, started and stopped in the event loop.

    With `shared`, other processes of the same gateway listen on the port too.
    """

    def __init__(
        self, gateway: Gateway, tokens: TokenTable, *, host: str = "127.0.0.1", port: int = 0, shared: bool = False,
        allowance: Allowance | None = None,
    ) -> None:  # fmt: skip
        max_bytes = gateway.max_body_bytes() + _OVERHEAD_BYTES
        self._connections = Shared(Calls(gateway, tokens), allowance or Allowance(max_bytes=max_bytes))
        self._host, self._port, self._shares_port = host, port, shared
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            TidemillError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                partial(Http2, self._connections), self._host, self._port, reuse_port=self._shares_port or None
            )
        except OSError as error:
            raise TidemillError(
                f"cannot listen for gRPC on {self._host}:{self._port}: {error.strerror}.", "choose another port"
            ) from error
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end when those under way are answered, or after `grace_s`."""
        if self._server is None:
            return
        self._server.close()
        loop = asyncio.get_running_loop()
        ends = loop.time() + grace_s
        open_ = self._connections.connections
        for connection in list(open_):
            connection.drain()
        while open_ and loop.time() < ends:
            await asyncio.sleep(0.01)
        for connection in list(open_):
            connection.abort()


class Calls:
    """Answers the calls of all connections. Every method is called in the event loop."""

    def __init__(self, gateway: Gateway, tokens: TokenTable) -> None:
        self._gateway, self._tokens = gateway, tokens
        self._inference = Inference(gateway)
        self._writers: dict[str, grpc_wire.Writer] = {}
        self._parse = grpc_wire.parser("ModelInferRequest")
        self._arrived: list[tuple[Stream, bytes]] = []
        self._methods: dict[str, Method] = {
            f"/{SERVICE}/ServerLive": self._live,
            f"/{SERVICE}/ServerReady": self._ready,
            f"/{SERVICE}/ServerMetadata": self._server_metadata,
            f"/{SERVICE}/ModelReady": self._model_ready,
            f"/{SERVICE}/ModelMetadata": self._model_metadata,
        }

    def call(self, stream: Stream, body: bytes) -> None:
        """Take a whole call."""
        head = stream.head
        _join_trace(stream)
        if head.method != b"POST" or not head.kind.startswith(b"application/grpc"):
            stream.end(_NO_GRPC)
        elif head.path == _INFER:
            if not self._arrived:
                asyncio.get_running_loop().call_soon(self._take)
            self._arrived.append((stream, body))
        else:
            self._at_once(stream, body)

    def refuse(self, stream: Stream, too_large: bool) -> None:
        """Refuse a call whose message is too large, or did not come in time."""
        _join_trace(stream)
        if too_large:
            _refuse(stream, RESOURCE_EXHAUSTED, "the message is too large. Next: send less, or raise max_body_bytes")
        else:
            _refuse(stream, DEADLINE_EXCEEDED, "the message did not come in time. Next: send it at once")

    # ---- inference

    def _take(self) -> None:
        """Take all calls that have come in this turn of the loop."""
        arrived, self._arrived = self._arrived, []
        moment, asked = self._gateway.moment(), dict[Deployment, list[Asked]]()
        for stream, body in arrived:
            try:
                self._enter(stream, body, asked)
            except Exception as error:
                _failed(stream, error)
        for deployment, wanted in asked.items():
            self._ask(deployment, wanted, moment)

    def _ask(self, deployment: Deployment, wanted: Sequence[Asked], moment: Moment) -> None:
        try:
            deployment.take(wanted, moment)
        except Exception:
            _logger.exception("gRPC calls failed")
            for _, done in wanted:
                done(InternalError("the gateway failed on this request.", "look in its log; please report it"))

    def _enter(self, stream: Stream, body: bytes, asked: dict[Deployment, list[Asked]]) -> None:
        """Read a call, and ask for each of its rows."""
        caller = self._caller(stream)
        if caller is not ANYBODY:
            caller.enter(None, Scope.PREDICT)
        message = _parsed(self._parse, _message_of(stream, body))
        model: str = message.model_name
        if caller is not ANYBODY:
            caller.enter(model, Scope.PREDICT)
        try:
            deployment, form = self._gateway.deployment(model), self._inference.form(model)
            check_size(len(body) - 5, deployment.table.manifest.limits.max_body_bytes)
            version = version_number(message.model_version)
            request = grpc_wire.read(form, message)
        except InvalidRequest as error:
            self._gateway.count_refusal(model if model in self._gateway.deployments else "", error)
            raise
        writer = self._writers.get(model)
        if writer is None or writer.form is not form:
            writer = self._writers[model] = grpc_wire.Writer(form)
        wanted = request.predictions(model, version)
        rows = Rows(stream, writer, request, [None] * len(wanted), len(wanted))
        told = rows.only if len(wanted) == 1 else None
        asked.setdefault(deployment, []).extend(
            (one, told or partial(rows.told, number)) for number, one in enumerate(wanted)
        )

    # ---- everything else

    def _at_once(self, stream: Stream, body: bytes) -> None:
        method = self._methods.get(stream.head.path)
        if method is None:
            _refuse(stream, UNIMPLEMENTED, _OTHERS)
            return
        try:
            _send(stream, method(_message_of(stream, body), stream))
        except Exception as error:
            _failed(stream, error)

    def _model_ready(self, raw: bytes, stream: Stream) -> bytes:
        asked = _parsed(grpc_wire.parser("ModelReadyRequest"), raw)
        ready = self._inference.is_ready(asked.name, version_number(asked.version))
        return _message("ModelReadyResponse", ready=ready)

    def _model_metadata(self, raw: bytes, stream: Stream) -> bytes:
        asked = _parsed(grpc_wire.parser("ModelMetadataRequest"), raw)
        self._caller(stream).enter(asked.name, None)
        about = self._inference.metadata(asked.name, version_number(asked.version))
        return _message("ModelMetadataResponse", **about)

    def _live(self, raw: bytes, stream: Stream) -> bytes:
        return _message("ServerLiveResponse", live=True)

    def _ready(self, raw: bytes, stream: Stream) -> bytes:
        return _message("ServerReadyResponse", ready=not self._gateway.problems())

    def _server_metadata(self, raw: bytes, stream: Stream) -> bytes:
        return _message("ServerMetadataResponse", **server_metadata())

    def _caller(self, stream: Stream) -> Caller:
        return ANYBODY if self._tokens.is_open else self._tokens.caller(stream.head.authorization)


class Rows(Struct, eq=False):
    """The answers to a call as they come in."""

    stream: Stream
    writer: grpc_wire.Writer
    request: InferRequest
    answers: list[Answer | InvalidRequest | None]
    num_missing: int

    def only(self, answer: Answer | InvalidRequest) -> None:
        """Reply with the answer to the only row."""
        if isinstance(answer, Answer):
            _send(self.stream, self.writer.write(self.request, (answer,)))
        else:
            _failed(self.stream, answer)

    def told(self, number: int, answer: Answer | InvalidRequest) -> None:
        """Keep one; reply with the last, or with the first refusal."""
        self.answers[number] = answer
        self.num_missing -= 1
        if self.num_missing:
            return
        answers: list[Answer] = []
        for row, one in enumerate(self.answers):
            if isinstance(one, InvalidRequest):
                _failed(self.stream, one, where=f"row {row}: ")
                return
            assert one is not None
            answers.append(one)
        _send(self.stream, self.writer.write(self.request, answers))


def _message_of(stream: Stream, body: bytes) -> bytes:
    """Return the only message of a body.

    Raises:
        CompressedMessage: it is compressed.
        Malformed: there is none, or more than one.
    """
    if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise Malformed("the call has not exactly one message.", "send one, behind its length")
    if body[0]:
        encoding = stream.head.encoding.decode("latin-1")[:20]
        raise CompressedMessage(f"the message is compressed ({encoding}).", "send it as it is")
    return body[5:]


def _parsed(parse: grpc_wire.Parse, raw: bytes) -> Any:
    try:
        return parse(raw)
    except Exception:  # protobuf's DecodeError is no public name of every version
        raise Malformed("the message is not of the protocol.", f"send the messages of {SERVICE}") from None


def _send(stream: Stream, message: bytes) -> None:
    stream.reply(_headers(stream), b"\0%b%b" % (len(message).to_bytes(4, "big"), message), _TRAILERS)


def _join_trace(stream: Stream) -> None:
    if stream.head.parent:
        stream.span = child(stream.head.parent)


def _headers(stream: Stream) -> bytes:
    return _HEAD if stream.span is None else _HEAD + _literal(b"traceresponse", stream.span.header)


def _failed(stream: Stream, error: Exception, *, where: str = "") -> None:
    """Tell of an error; one that is not on purpose is told in the log alone."""
    if not isinstance(error, InvalidRequest):
        _logger.error("a gRPC call failed (%s)", stream.span or "no trace", exc_info=error)
        _refuse(stream, INTERNAL, _LOST)
        return
    _refuse(stream, _CODES.get(error.status, UNKNOWN), f"{where}{error}", getattr(error, "request_id", ""))


def _refuse(stream: Stream, code: int, details: str, request_id: str = "") -> None:
    """Reply with a status alone."""
    told = quote(details[:_MAX_DETAILS], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}").encode()
    more = _literal(b"tidemill-request-id", request_id.encode()) if request_id else b""
    stream.end(_headers(stream) + _literal(b"grpc-status", b"%d" % code) + _literal(b"grpc-message", told) + more)


def _message(kind: str, /, **fields: Any) -> bytes:
    made: bytes = messages()[kind](**fields).SerializeToString()
    return made
