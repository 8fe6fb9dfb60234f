"""What every answer of the page goes through: the host it was asked by, the headers that bind the browser, errors."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.dashboard.session import Settings, check_host
from tidemill.dashboard.view import Refused

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_MOST_PATH = 2_000


class Guard:
    """Refuses requests that were not meant for the page, and sends headers that keep strangers' scripts out."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        given = Headers(scope=scope)
        origin = given.get("origin") if scope["method"] not in ("GET", "HEAD") else None
        try:
            check_host(given.get("host", ""), origin, self._settings)
        except Refused as error:
            await PlainTextResponse(f"{error}\n", status_code=error.status)(scope, receive, guarded)
            return
        if len(scope["path"]) > _MOST_PATH:
            too_long = PlainTextResponse("this address is too long: begin at /\n", status_code=414)
            await too_long(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)
