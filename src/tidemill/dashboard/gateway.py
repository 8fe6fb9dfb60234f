"""A gateway asked over its REST API, by the page and by `tidemill try`."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tidemill.errors import Forbidden, InvalidInput, InvalidRequest, NotFound, Unauthorized, Unavailable
from tidemill.records import Json

URL = "http://127.0.0.1:8000"
_LIMIT_S = 30.0
_MOST_BYTES = 16 << 20


class Reply(dict[str, Any]):
    """What a gateway answered, and how long it took as its caller saw it."""

    took_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Where a gateway is, and the token for it if it wants one."""

    url: str = URL
    token: str = field(default="", repr=False)

    def predict(
        self, project: str, inputs: Mapping[str, Any], *, unit: str | None = None, version: int | None = None
    ) -> Reply:
        """Return the answer to one row of inputs in their wire form, with `took_s`; `version` pins who answers.

        Raises:
            Unavailable: no gateway answers, or it cannot.
            InvalidRequest: it refuses; the message is its own.
        """
        body = {"model": project, "inputs": dict(inputs), "unit": unit, "version": version}
        return self._post("/v1/predict", body)

    def tell(self, request_id: str, kind: str, value: Any) -> None:
        """Send feedback on an answer: label, confirm, correct, rating or thumbs.

        Raises:
            Unavailable: no gateway answers, or it cannot.
            InvalidRequest: it refuses; the message is its own.
        """
        self._post("/v1/feedback", {"request_id": request_id, kind: value})

    def _post(self, path: str, body: Json) -> Reply:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_LIMIT_S)
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        began = time.perf_counter()
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read(_MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise Unavailable(
                f"no gateway answers at {self.url}: {why}.", "start it with `tidemill up`, or name it with --gateway"
            ) from error
        finally:
            connection.close()
        took_s = time.perf_counter() - began
        said = _json(text)
        if answer.status >= 300 or not isinstance(said, dict):
            raise _refusal(answer.status, said, self.url)
        reply = Reply(said)
        reply.took_s = took_s
        return reply


LOCAL = Gateway()


def _json(text: bytes) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _refusal(status: int, said: Json, url: str) -> InvalidRequest:
    """Return a refusal as the error that it was in the gateway."""
    if not isinstance(said, dict) or "detail" not in said:
        return Unavailable(f"what answers at {url} is no gateway: status {status}.", "name it with --gateway")
    detail, hint = str(said["detail"]), str(said.get("hint", ""))
    if status == 422:
        return InvalidInput(detail, hint, str(said.get("field", "")))
    if status in (401, 403):
        kind = Unauthorized if status == 401 else Forbidden
        hint = "make one with `tidemill token add try`, and give it in TIDEMILL_TOKEN"
        return kind(f"the gateway wants a token for this: {detail}", hint)
    return {404: NotFound, 503: Unavailable}.get(status, InvalidRequest)(detail, hint)
