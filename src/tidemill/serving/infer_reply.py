"""The reply to one row with all outputs, by the Open Inference Protocol (v2): most of it is always the same."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tidemill.serving.protocol import Answer, encode
from tidemill.serving.tensors import packed

OneRow = Callable[[Answer, "str | None"], bytes]
OneRowAsBytes = Callable[[Answer, "str | None"], tuple[bytes, int]]

_HEAD = b'{"model_name":%b,"model_version":"%%d",%%b"outputs":['


def one_row(model: str, num_scores: int, decision: str) -> OneRow:
    """Return what writes a reply as JSON, of an answer and the id of its request; `decision` is its datatype."""
    form = (_HEAD + (
        b'{"name":"scores","datatype":"FP32","shape":[1,%d],"data":%%b},'
        b'{"name":"decision","datatype":"%b","shape":[1],"data":[%%b]},'
        b'{"name":"abstained","datatype":"BOOL","shape":[1],"data":[%%b]},'
        b'{"name":"request_id","datatype":"BYTES","shape":[1],"data":["%%b"]},'
        b'{"name":"version","datatype":"INT64","shape":[1],"data":[%%d]}]}'
    )) % (_quoted(model), num_scores, decision.encode())  # fmt: skip

    def one(answer: Answer, id_: str | None) -> bytes:
        return form % (
            answer.version,
            b"" if id_ is None else b'"id":%b,' % encode(id_),
            encode(answer.scores),
            encode(answer.decision),
            b"true" if answer.abstained else b"false",
            answer.request_id.encode(),
            answer.version,
        )

    return one


def one_row_as_bytes(model: str, num_scores: int, decision: str) -> OneRowAsBytes:
    """Return what writes a reply whose outputs are bytes behind the JSON; it tells the length of the JSON, too."""
    form = (_HEAD + (
        b'{"name":"scores","datatype":"FP32","shape":[1,%d],"parameters":{"binary_data_size":%d}},'
        b'{"name":"decision","datatype":"%b","shape":[1],"parameters":{"binary_data_size":%%d}},'
        b'{"name":"abstained","datatype":"BOOL","shape":[1],"parameters":{"binary_data_size":1}},'
        b'{"name":"request_id","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%%d}},'
        b'{"name":"version","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}}]}'
    )) % (_quoted(model), num_scores, 4 * num_scores, decision.encode())  # fmt: skip
    scores = struct.Struct(f"<{num_scores}f").pack
    others = struct.Struct("<?I").pack  # abstained, and the length of the request id
    version = struct.Struct("<q").pack

    def one(answer: Answer, id_: str | None) -> tuple[bytes, int]:
        decided, request_id = packed(decision, (answer.decision,)), answer.request_id.encode()
        named = b"" if id_ is None else b'"id":%b,' % encode(id_)
        head = form % (answer.version, named, len(decided), 4 + len(request_id))
        tail = (scores(*answer.scores), decided, others(answer.abstained, len(request_id)), request_id)
        return b"".join((head, *tail, version(answer.version))), len(head)

    return one


def _quoted(model: str) -> bytes:
    return encode(model).replace(b"%", b"%%")
