"""What tests of the page stand on: a home with a past, the page over real HTTP, and a browser."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import chromium
import httpx
import pytest
from page_served import Serve, Served, running
from story import Story, end_of, tell

from tidemill.app import App
from tidemill.dashboard.page import Site
from tidemill.dashboard.session import Settings
from tidemill.stores.tokens import Scope, Tokens


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the story's home, made once for all workers; look at it, or take a copy with `home`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "told"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "stopped_at").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
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


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that runs the page of an App, open or for a token, over real HTTP."""
    with ExitStack() as stack:

        def run(app: App, *, token: str | None = None, settings: Settings | None = None) -> Served:
            served = stack.enter_context(running(Site(app, settings or Settings(user="ann"))))
            if token is not None:
                served.sign_in(token)
            return served

        yield run


@pytest.fixture(scope="session")
def shared(shared_app: App) -> Iterator[Served]:
    """The page of the story's home, open as operator, for tests that change nothing."""
    with running(Site(shared_app, Settings(user="ann"))) as served:
        yield served


@pytest.fixture
def serve_site() -> Iterator[Callable[[Site], httpx.Client]]:
    """Return a function that runs a site with views of its own."""
    with ExitStack() as stack:
        yield lambda site: stack.enter_context(running(site)).client


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; where there is none the test is skipped with the reason, and fails where CI is true.

    One for each module: while it is there an event loop runs in this thread, and other suites want one of their own.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = chromium.found()
    if path is None:
        reason = "there is no Chromium: `python tests/dashboard/chromium.py` installs one, or says why it cannot"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
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
