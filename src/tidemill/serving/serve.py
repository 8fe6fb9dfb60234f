"""The gateway's process: opens the stores, listens, answers until it is told to stop, then seals what it wrote."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Literal

import uvicorn

from tidemill.clock import Clock, SystemClock, micros
from tidemill.errors import MissingExtra, TidemillError
from tidemill.serving.door import Door
from tidemill.serving.gateway import Gateway
from tidemill.serving.heart import BEAT_EVERY_S, Heart
from tidemill.serving.hot import HotProtocol
from tidemill.serving.http import Http
from tidemill.serving.listening import bound, is_loopback
from tidemill.serving.metrics import Metrics
from tidemill.serving.patience import Patience
from tidemill.serving.recorder import Recorder
from tidemill.serving.tokens import TokenTable
from tidemill.serving.versions import VersionWatch
from tidemill.stores.belonging import open_database
from tidemill.stores.blobs import Blobs
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home
from tidemill.stores.listener import Listener
from tidemill.stores.segments import Durability, SegmentWriter
from tidemill.stores.tokens import Tokens

if TYPE_CHECKING:
    from tidemill.serving.grpc import GrpcServer

BACKLOG = 2048
_PATIENCE = Patience()
_SYNC_S = 0.001
_OTHER_FILES = 512  # beside connections: the log, the catalog, models, and connections that are being refused

LogFailure = Literal["refuse", "answer"]

_logger = logging.getLogger(__name__)


class Service:
    """The gateway with its stores, from start to stop."""

    def __init__(
        self,
        home: Home,
        *,
        database: str | None = None,
        durability: Durability = "process",
        on_log_failure: LogFailure = "refuse",
        poll_s: float = 0.5,
        segment_age_s: float = 0.5,
        segment_bytes: int = 32 << 20,
        log_patience_s: float = 1.0,
        startup_s: float = 60.0,
        beyond_loopback: bool = False,
        counts: tuple[Sequence[int], int] | None = None,
        heart: Heart | None = None,
        grpc_at: tuple[str, int] | None = None,
        grace_s: float = 15.0,
        patience: Patience = _PATIENCE,
        clock: Clock | None = None,
    ) -> None:
        if on_log_failure not in ("refuse", "answer"):
            raise TidemillError(f"on_log_failure is {on_log_failure!r}.", "use 'refuse' or 'answer'")
        self._startup_s, self.patience, self._heart = startup_s, patience, heart
        clock, self.metrics = clock or SystemClock(), Metrics()
        self._totals = None if counts is None else self.metrics.share(*counts)
        self._database = open_database(home, database, migrate=False)
        self.tokens = token_table(self._database, clock, beyond_loopback=beyond_loopback)

        def open_writer(low_at: int) -> SegmentWriter:
            name = f"gateway-{os.getpid()}"
            return SegmentWriter(home.segments, name, low_at=low_at, durability=durability, max_bytes=segment_bytes)

        recorder = Recorder(
            open_writer,
            self.metrics,
            now=lambda: micros(clock.now()),
            wait_below_s=_wait_below_s(durability, on_log_failure),
            max_age_s=segment_age_s,
            patience_s=log_patience_s,
        )
        self.gateway = Gateway(recorder, self.metrics, clock, refuse_unlogged=on_log_failure == "refuse")
        self._catalog, self._blobs, self._poll_s = Catalog(self._database), Blobs(home.blobs), poll_s
        self._num_workers = 1 if counts is None else len(counts[0])
        self.on_start: Callable[[], None] = _nothing
        self._grpc_at, self._shared, self._grace_s = grpc_at, counts is not None, grace_s
        self._grpc: GrpcServer | None = None
        self.grpc_port = 0
        """Where gRPC is answered, 0 where it is not."""
        self.app = Http(self.gateway, self.metrics, self.tokens, start=self.start, stop=self.stop)
        self.door = Door(self.gateway, self.app.inference, self.tokens)

    async def start(self) -> None:
        """Load what the routes name, then tick and watch the routes."""
        loop = asyncio.get_running_loop()
        self._time = asyncio.create_task(self.gateway.keep_time())
        if self._totals is not None:
            self._told = asyncio.create_task(self._totals.keep())
        if self._heart is not None:
            self._beating = asyncio.create_task(_keep_beating(self._heart))  # until the loop ends
        self._watch = VersionWatch(
            self._catalog,
            self._blobs,
            self.metrics,
            install=lambda plan: loop.call_soon_threadsafe(partial(self.gateway.install, plan)),
            report=lambda *said: loop.call_soon_threadsafe(partial(self.gateway.note_routes, *said)),
            refresh=self.tokens.refresh,
            poll_s=self._poll_s,
            num_workers=self._num_workers,
        )
        self._listener = Listener(self._database, self._watch.wake)
        await asyncio.to_thread(self._watch.start, wait_s=self._startup_s)
        self._listener.start()
        await asyncio.sleep(0)  # what was installed meanwhile is in force before the first request
        gc.collect()
        gc.freeze()  # what was loaded stays: the collector need not walk it again for every thousand requests
        if self._grpc_at is not None:
            await self._start_grpc(*self._grpc_at)
        self.on_start()

    async def _start_grpc(self, host: str, port: int) -> None:
        from tidemill.serving.grpc import GrpcServer  # noqa: PLC0415 - an optional extra

        self._grpc = GrpcServer(self.gateway, self.tokens, host=host, port=port, shared=self._shared)
        self.grpc_port = await self._grpc.start()
        _logger.info("serving gRPC at %s port %s", host, self.grpc_port)

    async def stop(self) -> None:
        """Answer the calls under way, stop watching, write and seal what there is, let go of all versions."""
        if self._grpc is not None:
            await self._grpc.stop(self._grace_s)
        await asyncio.to_thread(self._listener.stop)
        await asyncio.to_thread(self._watch.stop)
        self._time.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._time
        await self.gateway.close()
        if self._totals is not None:
            self._told.cancel()
            self._totals.save()
        self._database.close()


async def _keep_beating(heart: Heart) -> None:
    while True:
        heart.beat()
        await asyncio.sleep(BEAT_EVERY_S)


def token_table(database: Database, clock: Clock, *, beyond_loopback: bool) -> TokenTable:
    """Return who may ask.

    Raises:
        TidemillError: others than this machine can reach the gateway, and there is no valid token.
    """
    table = TokenTable(Tokens(database), clock.now, beyond_loopback=beyond_loopback)
    table.refresh()
    table.require_one()
    return table


def _wait_below_s(durability: Durability, on_log_failure: LogFailure) -> float:
    """Return how long a thread's write may take that the event loop waits for; infinite where it writes itself.

    Where answers wait for a disk, or must not, a thread writes: one that hangs must not silence health and metrics.
    """
    return _SYNC_S if on_log_failure == "answer" or durability == "power" else float("inf")


def _nothing() -> None:
    """Do nothing."""


def run(
    home: Home,
    *,
    database: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    durability: Durability = "process",
    on_log_failure: LogFailure = "refuse",
    poll_s: float = 0.5,
    segment_age_s: float = 0.5,
    grace_s: float = 15.0,
    ready: Callable[[str], None] | None = None,
    reuse_port: bool = False,
    listener: socket.socket | None = None,
    counts: tuple[Sequence[int], int] | None = None,
    heart: Heart | None = None,
    grpc_port: int | None = None,
    max_connections: int = _PATIENCE.max_connections,
) -> None:
    """Serve every project with a route, until SIGTERM or SIGINT; then finish what was asked, seal the log and return.

    The catalog is in `database`, a URL, or else in the home. `port` 0 takes a free one; `ready` is called with the
    address once requests are answered. `poll_s` is how often the routes are read, `segment_age_s` how old a segment of
    the log gets before it is sealed. Requests that still run `grace_s` after the signal are cut off. Of connections
    beyond `max_connections` each is told 503.

    One of several workers shares the port (`reuse_port`) or takes connections from a `listener` that all have, and adds
    up what they counted: `counts` are the files of `Totals` and its own number. Its `heart` shows the supervisor that
    the event loop goes on. With a `grpc_port` the Open Inference Protocol is served over gRPC too.

    Raises:
        TidemillError: `host` is not a loopback address and there is no valid token, or a port is taken.
        MissingExtra: gRPC is asked for and not installed.
        StoreError: the stores cannot be opened.
    """
    if grpc_port is not None:
        _check_grpc(host, grpc_port, shared=counts is not None)
    with listener or bound(host, port, share=reuse_port) as sock:
        service = Service(
            home,
            database=database,
            durability=durability,
            on_log_failure=on_log_failure,
            poll_s=poll_s,
            segment_age_s=segment_age_s,
            beyond_loopback=not is_loopback(host),
            counts=counts,
            heart=heart,
            grpc_at=None if grpc_port is None else (host, grpc_port),
            grace_s=grace_s,
            patience=replace(_PATIENCE, max_connections=_files_for(max_connections)),
        )
        address = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"

        def started() -> None:
            sock.listen(BACKLOG)  # not before: who connects wants an answer
            _logger.info("serving at %s", address)
            if ready is not None:
                ready(address)

        service.on_start = started
        server = _Server(config(service, grace_s=grace_s), leave=_nothing if heart is None else heart.leave)
        with _signals(server):
            server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """Calls `leave` as soon as it is told to end, whatever the event loop is at."""

    def __init__(self, settings: uvicorn.Config, leave: Callable[[], None]) -> None:
        super().__init__(settings)
        self._leave = leave

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Do what a signal asks for."""
        self._leave()
        super().handle_exit(sig, frame)


def _files_for(num_connections: int) -> int:
    """Let this process open as many files as that takes; return how many connections it may have then."""
    wanted = num_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return num_connections
    _logger.warning("only %s files may be open: raise `ulimit -n` to take %s connections", soft, num_connections)
    return max(1, soft - _OTHER_FILES)


def _check_grpc(host: str, port: int, *, shared: bool) -> None:
    """Say before anything starts why gRPC cannot be served.

    Raises:
        MissingExtra: it is not installed.
        TidemillError: the port is taken, or is any free one where several processes must find the same.
    """
    if find_spec("hpack") is None:
        raise MissingExtra("Serving gRPC", "grpc")
    if shared and port == 0:
        raise TidemillError("several workers need the same port for gRPC, and 0 is any.", "give --grpc-port a number")
    bound(host, port, share=shared).close()


def config(service: Service, *, grace_s: float) -> uvicorn.Config:
    """Return how uvicorn runs the gateway: no access log, no header it need not send."""
    return uvicorn.Config(
        service.app,
        http=partial(HotProtocol, service.door, service.patience),  # type: ignore[arg-type]  # called as a class is
        ws="none",
        proxy_headers=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=math.ceil(grace_s),
        backlog=BACKLOG,
    )


@contextlib.contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the server, and nothing more: uvicorn raises them once again when it has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
