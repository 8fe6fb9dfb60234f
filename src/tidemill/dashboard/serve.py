"""The page's process: listens, answers until it is told to stop, and lets open pages go."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from tidemill.app import App
from tidemill.dashboard.gateway import LOCAL, Gateway
from tidemill.dashboard.page import Site
from tidemill.dashboard.session import Settings, allowed_hosts
from tidemill.serving.listening import bound, is_loopback
from tidemill.serving.serve import token_table

PORT = 8010
_NEARBY = 20
_GRACE_S = 5


def run(
    app: App, *, host: str = "127.0.0.1", port: int = PORT, hosts: tuple[str, ...] = (), user: str = "somebody",
    gateway: Gateway = LOCAL, ready: Callable[[str], None] | None = None,
) -> None:  # fmt: skip
    """Serve the page of a project until SIGTERM or SIGINT. `port` 0 takes a free one; `ready` is told the address.

    Raises:
        TidemillError: the address is taken; or others than this machine can reach it, and there is no valid token.
    """
    beyond = not is_loopback(host)
    token_table(app.db, app.clock, beyond_loopback=beyond)
    sock = bound(host, port)
    site = Site(app, Settings(user=user, beyond_loopback=beyond, hosts=allowed_hosts(hosts), gateway=gateway))
    config = uvicorn.Config(
        site.starlette(), ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([sock],), name="tidemill-page")
    with _until_told() as stop:
        thread.start()
        while thread.is_alive() and not server.started and not stop.wait(0.02):
            pass  # whoever is told the address may ask at once
        if ready is not None and server.started:
            ready(f"http://{'[' + host + ']' if ':' in host else host}:{sock.getsockname()[1]}")
        while thread.is_alive() and not stop.wait(0.2):
            pass
        site.live.let_go()  # streams would keep the server from ending
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def _until_told() -> Iterator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set."""
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port(host: str, port: int | None) -> int:
    """Return the port to listen on: the one asked for, else the page's own or the next that is free.

    Raises:
        TidemillError: the one asked for is taken, or the host is none of this machine's.
    """
    wanted = [port] if port is not None else [*range(PORT, PORT + _NEARBY), 0]
    for at, one in enumerate(wanted):
        try:
            with bound(host, one) as sock:
                return int(sock.getsockname()[1])
        except Exception:
            if at + 1 == len(wanted):
                raise
    raise AssertionError("there is always a last one")
