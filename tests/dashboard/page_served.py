"""The page over real HTTP, as tests look at it and press its buttons."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from tidemill.app import App
from tidemill.dashboard.page import Site


@dataclasses.dataclass
class Served:
    """A page that runs: its address, and a client that has been let in."""

    app: App
    url: str
    client: httpx.Client
    site: Site

    def proof(self) -> str:
        """Return the proof that a form of the client's session is the page's own."""
        text = self.client.get("/").text
        return text.partition('name="csrf" content="')[2].partition('"')[0]

    def site_static(self, name: str) -> str:
        """Return where a static file is."""
        return self.site.static.address(name)

    def sign_in(self, token: str) -> None:
        """Sign the client in."""
        proof = self.client.get("/sign-in").text.partition('name="csrf" value="')[2].partition('"')[0]
        answer = self.client.post("/sign-in", data={"csrf": proof, "token": token, "next": "/"})
        assert answer.status_code == 303, answer.text

    def press(self, path: str, **fields: str | list[str]) -> httpx.Response:
        """Press a button, as the page does."""
        return self.client.post(path, data=fields, headers={"X-CSRF-Token": self.proof(), "HX-Request": "true"})

    def file(self, path: str, wait_s: float = 30.0) -> httpx.Response:
        """Return a file, asking again while it is being measured."""
        deadline = time.monotonic() + wait_s
        while (answer := self.client.get(path)).status_code == 503 and time.monotonic() < deadline:
            assert answer.headers["Retry-After"]
            time.sleep(0.05)
        return answer

    def measured(self, path: str, wait_s: float = 30.0) -> str:
        """Return a part of a page once it is measured."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            answer = self.client.get(path, headers={"HX-Request": "true"})
            assert answer.status_code == 200, answer.text
            if 'class="measuring"' not in answer.text:
                return answer.text
            time.sleep(0.05)
        raise AssertionError(f"{path} was never measured")


@contextmanager
def running(site: Site) -> Iterator[Served]:
    """Run a site in a thread, over real HTTP."""
    config = uvicorn.Config(site.starlette(), port=0, log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx.Client(base_url=url, follow_redirects=False, timeout=30) as client:
        yield Served(site.app, url, client, site)
    site.live.let_go()
    server.should_exit = True
    thread.join()


Serve = Callable[..., Served]
