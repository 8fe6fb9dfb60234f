"""The page's own scripts and styles: held in memory, told apart by their content, so that a browser keeps them."""

from __future__ import annotations

import gzip
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from tidemill.errors import NotFound

FOLDER = Path(__file__).parent / "static"
_MEDIA = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
_FOREVER = "public, max-age=31536000, immutable"


class _Kept(NamedTuple):
    body: bytes
    packed: bytes
    media: str


class StaticFiles:
    """Hands out the files of the folder `static`, at addresses that change with their content."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _Kept(
                body := path.read_bytes(), gzip.compress(body, mtime=0), _MEDIA[path.suffix]
            )
            for path in sorted(folder.rglob("*"))
            if path.suffix in _MEDIA
        }
        content = b"".join(name.encode() + kept.body for name, kept in self._files.items())
        self.tag = blake2b(content, digest_size=6).hexdigest()

    def address(self, name: str) -> str:
        """Return where a file is.

        Raises:
            NotFound: there is no such file.
        """
        self._kept(name)
        return f"/static/{self.tag}/{name}"

    async def serve(self, request: Request) -> Response:
        """Answer with a file: packed where that is taken, and not at all where the browser has it.

        Raises:
            NotFound: there is no such file.
        """
        kept, tag = self._kept(request.path_params["name"]), f'"{self.tag}"'
        headers = {"ETag": tag, "Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
        if request.path_params["tag"] != self.tag:  # of a page drawn before an upgrade: the newest will do, for now
            headers["Cache-Control"] = "no-cache"
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(kept.packed, media_type=kept.media, headers={**headers, "Content-Encoding": "gzip"})
        return Response(kept.body, media_type=kept.media, headers=headers)

    def _kept(self, name: str) -> _Kept:
        try:
            return self._files[name]
        except KeyError:
            raise NotFound(f"there is no file {name[:80]!r}.") from None
