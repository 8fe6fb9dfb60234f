"""Forms: the fields that a button sends, of a size that a form has."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request

from tidemill.errors import Malformed, TooLarge

_MOST_BYTES, _MOST_FIELDS = 8 << 20, 5000


async def sent(request: Request) -> dict[str, list[str]]:
    """Return the fields that were sent.

    Raises:
        TooLarge: they are more than a form has.
        Malformed: they are no fields.
    """
    text = (await _body(request)).decode("utf-8", "replace")
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Malformed("what was sent is no form.", "use the page itself") from None


async def _body(request: Request) -> bytes:
    """Return what was sent.

    Raises:
        TooLarge: it is more than a form has.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise TooLarge(f"more than {_MOST_BYTES >> 20} MB were sent.", "send less")
    return bytes(body)
