"""A receiver of webhooks: a real HTTP server that keeps what it was sent, and answers what it is told to."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "sixteen letters or more"


@dataclass
class Receiver:
    """`answers` are given one by one, the last for ever; None hangs until the receiver closes. `tls` makes it HTTPS."""

    answers: list[int | None] = field(default_factory=lambda: [204])
    got: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> Receiver:
        closing, receiver = threading.Event(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(body, dict(self.headers.items()))
                status = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
                if status is None:
                    closing.wait(30)
                    return
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server, self._closing = ThreadingHTTPServer(("127.0.0.1", 0), Handler), closing
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        scheme, host = ("http", "127.0.0.1") if self.tls is None else ("https", "localhost")
        return f"{scheme}://{host}:{self._server.server_address[1]}/hook?team=ml"

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """Check the signature as a receiver does, and keep the letter."""
        signed = headers["Tidemill-Timestamp"].encode() + b"." + body
        wanted = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(headers["Tidemill-Signature"], f"v1={wanted}")
        self.keys.append(headers["Idempotency-Key"])
        self.headers.append(headers)
        self.got.append(json.loads(body))
