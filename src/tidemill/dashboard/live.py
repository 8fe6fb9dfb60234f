"""What changes, told to open pages: one look at the stores a second, however many pages there are."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tidemill.app import App
from tidemill.dashboard.measured import Measured
from tidemill.dashboard.view import File
from tidemill.errors import StoreError
from tidemill.stores.revisions import Revisions

EVERY_S = 1.0
_BEAT_S = 15.0
_MOST_KEPT, _MOST_BYTES = 500, 32 << 20  # parts, and what they weigh together
_logger = logging.getLogger(__name__)


class Kept(NamedTuple):
    """A part as it was drawn, and the same packed, for all who fetch it."""

    file: File
    packed: bytes


@dataclass
class _Place:
    """Where a part is kept: who draws it has the lock, and others wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    revision: Hashable = None
    kept: Kept | None = None

    @property
    def num_bytes(self) -> int:
        """How much it holds."""
        return 0 if self.kept is None else len(self.kept.file.body) + len(self.kept.packed)


class Live:
    """Looks at the stores in a thread of its own, tells open pages which topics changed, keeps what was drawn of them.

    Topics: `route`, `cycle` (with steps and verdicts), `commands`, `alerts`, `queue`, `log`, `models`, `audit`,
    `loop` (which process turns it), and `measured`.
    """

    def __init__(self, app: App, measured: Measured, *, every_s: float = EVERY_S) -> None:
        self._app, self._measured, self._every_s = app, measured, every_s
        self._revisions = Revisions(app.db)
        self._seen: Mapping[str, Hashable] = {}
        self._counts: Mapping[str, int] = {}
        self._open: dict[asyncio.Queue[str], asyncio.AbstractEventLoop] = {}
        self._kept: OrderedDict[Hashable, _Place] = OrderedDict()
        self._lock, self._wake, self._stopping = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="tidemill-live", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, and end the streams."""
        self.let_go()
        if self._thread.is_alive():
            self._thread.join()

    def let_go(self) -> None:
        """End the streams: open pages try again, and find whoever comes next."""
        self._stopping = True
        self._wake.set()
        self._tell("")

    def look(self) -> None:
        """Look now: something was just done."""
        self._wake.set()

    def counts(self) -> Mapping[str, int]:
        """Return how many alerts are open (`alerts`) and how many examples wait (`queue`), as of the last look."""
        return self._counts

    def kept(self, key: Hashable, topics: tuple[str, ...], draw: Callable[[], File]) -> Kept:
        """Return what was drawn for a key since its topics changed, else draw it: once, whoever else asks meanwhile."""
        revision = tuple(self._now(topic) for topic in topics)
        with self._lock:
            place = self._kept.setdefault(key, _Place())
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        with place.lock:
            if place.kept is None or place.revision != revision:
                file = draw()
                place.kept = Kept(file, gzip.compress(file.body, compresslevel=6, mtime=0))
                place.revision = revision
                self._make_room()
            return place.kept

    def _make_room(self) -> None:
        """Let parts go, those that nobody asked for the longest first, until the rest are few and light enough."""
        with self._lock:
            num_bytes = sum(place.num_bytes for place in self._kept.values())
            while num_bytes > _MOST_BYTES:
                num_bytes -= self._kept.popitem(last=False)[1].num_bytes

    def stream(self, request: Request, may: Callable[[], bool]) -> Response:
        """Return an answer that lasts: an event for each change, and a sign of life when there is none.

        It ends before the next of them once `may` says no.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(request, may), media_type="text/event-stream", headers=headers)

    async def _events(self, request: Request, may: Callable[[], bool]) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=100)
        with self._lock:
            self._open[queue] = asyncio.get_running_loop()
        try:
            yield f"retry: 2000\nevent: hello\ndata: {json.dumps(dict(self._counts))}\n\n"
            while not self._stopping:
                data = None
                with contextlib.suppress(TimeoutError):
                    data = await asyncio.wait_for(queue.get(), _BEAT_S)
                if data == "" or await request.is_disconnected() or not await run_in_threadpool(may):
                    return
                yield ": still here\n\n" if data is None else f"event: changed\ndata: {data}\n\n"
        finally:
            with self._lock:
                self._open.pop(queue, None)

    def _now(self, topic: str) -> Hashable:
        return self._measured.revision if topic == "measured" else self._seen.get(topic)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._every_s)
            self._wake.clear()
            if not self._stopping:
                self._look()

    def _look(self) -> None:
        try:
            found, turning = self._revisions.read(self._app.name), self._app.turning()
        except StoreError as error:
            _logger.warning("changes are not told: %s", error)
            return
        seen: dict[str, Hashable] = {**found.topics, "measured": self._measured.revision, "loop": turning}
        changed = [topic for topic, revision in seen.items() if self._seen.get(topic) != revision]
        is_first, self._seen, self._counts = not self._seen, seen, found.counts
        if changed and not is_first:
            self._tell(json.dumps({"topics": changed, "counts": dict(found.counts)}))

    def _tell(self, data: str) -> None:
        with self._lock:
            waiting = list(self._open.items())
        for queue, loop in waiting:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                loop.call_soon_threadsafe(_put, queue, data)


def _put(queue: asyncio.Queue[str], data: Any) -> None:
    with contextlib.suppress(asyncio.QueueFull):  # a page that does not read is told nothing more
        queue.put_nowait(data)
