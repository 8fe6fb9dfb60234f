"""What tests of the page stand on: a home with a past, the page over real HTTP, and a browser."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from story import Story, end_of, tell

from tidemill.app import App
from tidemill.dashboard.page import page
from tidemill.dashboard.session import Settings
from tidemill.stores.tokens import Scope, Tokens

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the story's home, made once; look at it, or take a copy with `home`."""
    folder = tmp_path_factory.mktemp("told")
    tell(folder)
    return folder


@pytest.fixture(scope="session")
def shared_app(told: Path) -> Iterator[App]:
    """The story's home, opened at its end, for tests that change nothing."""
    story = Story.open(told, now=end_of(told))
    yield story.app
    story.app.close()


@pytest.fixture
def home(told: Path, tmp_path: Path) -> Iterator[App]:
    """A copy of the story's home, to change."""
    folder = tmp_path / "home-copy"
    shutil.copytree(told, folder)
    story = Story.open(folder, now=end_of(told))
    yield story.app
    story.app.close()


@dataclasses.dataclass
class Served:
    """A page that runs: its address, and a client that has been let in."""

    app: App
    url: str
    client: httpx.Client
    site: Any

    def proof(self) -> str:
        """Return the proof that a form of the client's session is the page's own."""
        text = self.client.get("/").text
        return text.partition('name="csrf" content="')[2].partition('"')[0]

    def press(self, path: str, **fields: str | list[str]) -> httpx.Response:
        """Press a button, as the page does."""
        return self.client.post(path, data=fields, headers={"X-CSRF-Token": self.proof(), "HX-Request": "true"})

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


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that runs the page of an App, open or for a token, over real HTTP."""
    running: list[tuple[uvicorn.Server, threading.Thread, httpx.Client]] = []

    def run(app: App, *, token: str | None = None, settings: Settings | None = None) -> Served:
        served, server, thread = _started(app, settings)
        running.append((server, thread, served.client))
        if token is not None:
            text = served.client.get("/sign-in").text
            proof = text.partition('name="csrf" value="')[2].partition('"')[0]
            answer = served.client.post("/sign-in", data={"csrf": proof, "token": token, "next": "/"})
            assert answer.status_code == 303, answer.text
        return served

    yield run
    for server, thread, client in running:
        client.close()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def shared(shared_app: App) -> Iterator[Served]:
    """The page of the story's home, open as operator, for tests that change nothing."""
    served, server, thread = _started(shared_app, None)
    yield served
    served.client.close()
    server.should_exit = True
    thread.join()


def _started(app: App, settings: Settings | None) -> tuple[Served, uvicorn.Server, threading.Thread]:
    site = page(app, settings or Settings(user="ann"))
    config = uvicorn.Config(site, port=0, log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, follow_redirects=False, timeout=30)
    return Served(app, url, client, site), server, thread


@pytest.fixture
def token() -> Callable[..., str]:
    """Return a function that makes a token for an App: `token(app, Scope.VIEW)`."""

    def make(app: App, *scopes: Scope, name: str = "") -> str:
        with app.db.begin() as conn:
            return Tokens(app.db).add(
                conn, name or "-".join(sorted(scopes)), scopes=scopes, now=app.clock.now(), by="test"
            )

    return make


# --- the browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium; where there is none the test is skipped, and fails where CI is true."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = os.environ.get("TIDEMILL_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            reason = f"no Chromium: {str(error).splitlines()[0]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A new tab of 1280 × 800 pixels; whatever a page reports as an error, or asks of another host, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    opened, problems = context.new_page(), list[str]()
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    opened.on("request", lambda sent: _check_host(sent.url, problems))
    opened.problems = problems
    opened.set_default_timeout(15_000)
    yield opened
    context.close()
    assert problems == []


def _check_host(url: str, problems: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "http://localhost:", "data:", "blob:")):
        problems.append(f"asked {url}")
