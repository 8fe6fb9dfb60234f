"""Files that the page hands out: parts as they are, and tables as CSV, written a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.responses import Response, StreamingResponse

from tidemill.dashboard.table import Table, to_csv
from tidemill.dashboard.view import File


def handed(shown: File) -> Response:
    """Return a file as an answer."""
    return Response(shown.body, media_type=shown.media, headers=_named(shown.name) if shown.name else {})


def handed_table(name: str, pieces: Iterator[Table], limiter: CapacityLimiter | None) -> Response:
    """Return a table as a CSV file. Its first piece is made here, so that what is wrong is said before it begins.

    Each of the others waits for the `limiter` anew: a long search goes on in turn with others, and ends once nobody
    reads it any more.
    """
    first = to_csv(next(pieces)).encode()
    return StreamingResponse(
        _rest(first, pieces, limiter), media_type="text/csv; charset=utf-8", headers=_named(f"{name}.csv")
    )


async def _rest(first: bytes, pieces: Iterator[Table], limiter: CapacityLimiter | None) -> AsyncIterator[bytes]:
    """Yield a file in pieces, one at a time in memory; no thread waits for who reads it."""
    yield first
    while (piece := await run_sync(_next, pieces, limiter=limiter)) is not None:
        if piece:
            yield piece


def _next(pieces: Iterator[Table]) -> bytes | None:
    """Return the next piece of a file, which may have no rows; None at its end."""
    piece = next(pieces, None)
    return None if piece is None else to_csv(piece, head=False).encode()


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
