"""The page as an ASGI application: routes from the list of views, sessions, errors as pages."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tidemill.app import App
from tidemill.dashboard.actions import Answer, act
from tidemill.dashboard.files import handed, handed_table
from tidemill.dashboard.form import sent
from tidemill.dashboard.guard import Guard
from tidemill.dashboard.live import Kept, Live
from tidemill.dashboard.measured import Measured
from tidemill.dashboard.rendered import Rendered
from tidemill.dashboard.session import LASTS, Session, Sessions, Settings
from tidemill.dashboard.static_files import StaticFiles
from tidemill.dashboard.table import Table
from tidemill.dashboard.view import (
    CSV_LIMIT,
    GREATEST,
    Action,
    Asked,
    BeingMeasured,
    File,
    Fragment,
    Posted,
    Role,
    Shown,
    View,
    Who,
    check_role,
    problem_of,
)
from tidemill.dashboard.views import VIEWS
from tidemill.errors import NotFound, TidemillError, Unavailable
from tidemill.stores.searcher import Searcher

_MOST_SEARCHING, _MOST_WAITING = 4, 40
_logger = logging.getLogger(__name__)
_Show = Callable[[Asked], Shown]
_Reply = Callable[[Request, CapacityLimiter | None], Response]


def page(app: App, settings: Settings | None = None) -> Starlette:
    """Return the page of a project; it measures and listens while it runs (ASGI lifespan)."""
    return Site(app, settings or Settings()).starlette()


class Site:
    """One project's page."""

    def __init__(self, app: App, settings: Settings, views: tuple[View, ...] = VIEWS) -> None:
        self.app, self.settings, self.views = replace(app, via="page"), settings, views
        self.sessions, self.static = Sessions(app, settings), StaticFiles()
        self.measured = Measured(app.clock)
        self.live = Live(app, self.measured)
        self.searcher, self._searching = Searcher(), CapacityLimiter(_MOST_SEARCHING)
        self.rendered = Rendered(app.name, views, self.static, Path(__file__).parent / "templates")

    def starlette(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/static/{tag}/{name:path}", self.static.serve),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/-/live", self._live),
            *(route for view in self.views for route in self._routes(view)),
        ]
        middleware = [Middleware(Guard, settings=self.settings), Middleware(GZipMiddleware, minimum_size=800)]
        handlers: Any = {HTTPException: self._missing, TidemillError: self._failed}
        return Starlette(routes=routes, middleware=middleware, lifespan=self._lifespan, exception_handlers=handlers)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(self.rendered.warm)
        self.measured.start()
        await run_in_threadpool(self.live.start)
        try:
            yield
        finally:
            await run_in_threadpool(self.live.stop)
            await run_in_threadpool(self.measured.stop)
            await run_in_threadpool(self.searcher.close)

    # --- routes

    def _routes(self, view: View) -> list[Route]:
        base = view.path.rstrip("/")
        made = [Route(f"{base}/-/{name}", self._fragment(view, part)) for name, part in view.fragments.items()]
        made += [
            Route(f"{base}/-/{name}", self._action(view, one), methods=["POST"]) for name, one in view.actions.items()
        ]
        made += [Route(f"{base}/{name}.csv", self._csv(view, table, name)) for name, table in view.tables.items()]
        made.append(Route(view.path, self._page(view, view.show)))
        made += [Route(f"{base}{rest}", self._page(view, show)) for rest, show in view.pages.items()]
        return made

    def _page(self, view: View, show: _Show) -> Callable[[Request], Any]:
        return self._answer(partial(self._shown, view=view, show=show), view.searches)

    def _answer(self, reply: _Reply, searches: frozenset[str] = frozenset()) -> Callable[[Request], Any]:
        """Return a handler that answers in a thread, and with a page where that fails.

        The reply is given what it waited for, for what it has yet to do once it is under way.
        """

        async def answer(request: Request) -> Response:
            try:
                limiter = self._limiter(request, searches)
                return await run_sync(reply, request, limiter, limiter=limiter)
            except TidemillError:
                raise
            except Exception as error:  # whatever a view raises: the page says so, the log says what
                return await self._failed(request, error)

        return answer

    def _limiter(self, request: Request, searches: frozenset[str]) -> CapacityLimiter | None:
        """Return what a request waits for: searches wait for one another, and hold up nothing else.

        Raises:
            Unavailable: too many wait.
        """
        if not searches & request.query_params.keys():
            return None
        if self._searching.statistics().tasks_waiting >= _MOST_WAITING:
            raise Unavailable(f"{_MOST_WAITING} searches wait already.", "try again in some seconds")
        return self._searching

    def _shown(self, request: Request, _waited: CapacityLimiter | None, view: View, show: _Show) -> Response:
        session, who = self._who(request)
        if who is None:
            return RedirectResponse(self._to_sign_in(request), status_code=303)
        check_role(who, view.role)
        _check_place(request)
        asked = self._asked(request, who)
        shown = show(asked)
        if isinstance(shown, File):
            return handed(shown)
        session = session or self.sessions.anybody()
        body = self.rendered.page(asked, view, shown, self.sessions.proof(session), self.live.counts())
        return self._with_cookie(request, Response(body, media_type="text/html"), session)

    def _fragment(self, view: View, part: Fragment) -> Callable[[Request], Any]:
        role = max(view.role, part.role)

        def show(request: Request, _waited: CapacityLimiter | None) -> Response:
            _, who = self._who(request)
            if who is None:
                return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
            check_role(who, role)
            asked = self._asked(request, who)

            def draw() -> File:
                return self._part(asked, view, part.show(asked))

            key = (request.url.path, request.url.query, who.role)
            return _kept(request, self.live.kept(key, part.topics, draw)) if part.topics else handed(draw())

        return self._answer(show)

    def _part(self, asked: Asked, view: View, shown: Shown) -> File:
        if isinstance(shown, File):
            return shown
        return File(body=self.rendered.fragment(asked, view, shown).encode(), media="text/html")

    def _csv(self, view: View, table: Callable[[Asked], Table], name: str) -> Callable[[Request], Any]:
        def whole(asked: Asked) -> Iterator[Table]:
            yield table(asked)

        pieces = view.files.get(name, whole)

        def written(request: Request, limiter: CapacityLimiter | None) -> Response:
            _, who = self._who(request)
            if who is None:
                return RedirectResponse(self._to_sign_in(request), status_code=303)
            check_role(who, view.role)
            found = pieces(self._asked(request, who, limit=CSV_LIMIT, is_file=True))
            return handed_table(f"{self.app.name}-{name}", found, limiter)

        return self._answer(written, view.searches)

    def _action(self, view: View, action: Action) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return await run_in_threadpool(self._pressed, request, view, action, await sent(request))

        return answer

    def _pressed(self, request: Request, view: View, action: Action, form: dict[str, list[str]]) -> Response:
        session, who = self._who(request)
        if who is None:
            return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
        proof = request.headers.get("x-csrf-token") or form.get("csrf", [""])[-1]
        self.sessions.check_proof(session, proof)
        asked = self._asked(request, who)
        posted = Posted(**vars(asked), form=form, reason=form.get("reason", [""])[-1].strip())
        answer = act(action, posted)
        if answer.done is not None:
            self.live.look()
            if answer.done.shown is not None:
                return handed(self._part(asked, view, answer.done.shown))
        return self._toast(answer)

    def _toast(self, answer: Answer) -> Response:
        done, headers = answer.done, {}
        if done is not None and done.goto:
            headers["HX-Redirect"] = done.goto
        elif done is not None and not done.stay:
            headers["HX-Trigger"] = "tidemill-acted"
        body = self.rendered.toast(answer)
        return Response(body, status_code=answer.status, media_type="text/html", headers=headers)

    # --- sessions

    def _who(self, request: Request) -> tuple[Session | None, Who | None]:
        session = self.sessions.read(request.cookies.get(self.sessions.cookie))
        header = request.headers.get("authorization", "")
        if header[:7].lower() == "bearer " and request.method == "GET":
            return None, self.sessions.bearer(header[7:])
        return session, self.sessions.who(session)

    async def _sign_in(self, request: Request) -> Response:
        if request.method == "POST":
            return await run_in_threadpool(self._signed_in, request, await sent(request))
        return await run_in_threadpool(self._sign_in_page, request, "")

    def _sign_in_page(self, request: Request, problem: str, status: int = 200) -> Response:
        session, who = self._who(request)
        goto = _inside(request.query_params.get("next", "/"))
        if who is not None and self.sessions.is_open:
            return RedirectResponse("/", status_code=303)
        session = session or self.sessions.anybody()
        body = self.rendered.sign_in(self.sessions.proof(session), goto, problem)
        return self._with_cookie(request, Response(body, status_code=status, media_type="text/html"), session)

    def _signed_in(self, request: Request, form: dict[str, list[str]]) -> Response:
        session = self.sessions.read(request.cookies.get(self.sessions.cookie))
        try:
            self.sessions.check_proof(session, form.get("csrf", [""])[-1])
            signed = self.sessions.sign_in(form.get("token", [""])[-1])
        except TidemillError as error:
            return self._sign_in_page(request, str(error), getattr(error, "status", 400))
        goto = _inside(form.get("next", ["/"])[-1])
        return self._with_cookie(request, RedirectResponse(goto, status_code=303), signed)

    async def _sign_out(self, request: Request) -> Response:
        form = await sent(request)
        session = self.sessions.read(request.cookies.get(self.sessions.cookie))
        self.sessions.check_proof(session, form.get("csrf", [""])[-1])
        if session is not None:
            await run_in_threadpool(self.sessions.end, session)
        response = RedirectResponse("/sign-in", status_code=303)
        response.delete_cookie(self.sessions.cookie, path="/")
        return response

    def _with_cookie(self, request: Request, response: Response, session: Session) -> Response:
        written = self.sessions.write(session)
        if request.cookies.get(self.sessions.cookie) != written:
            response.set_cookie(
                self.sessions.cookie, written, max_age=int(LASTS.total_seconds()), httponly=True, samesite="strict",
                secure=request.url.scheme == "https", path="/",
            )  # fmt: skip
        return response

    def _to_sign_in(self, request: Request) -> str:
        asked = Asked(
            app=self.app, who=_NOBODY, now=self.app.clock.now(), path="/sign-in", query={}, place={},
            measured=self.measured, searcher=self.searcher,
        )  # fmt: skip
        query = f"?{request.url.query}" if request.url.query else ""
        return asked.link("/sign-in", next=f"{request.url.path}{query}")

    def _asked(self, request: Request, who: Who, **more: Any) -> Asked:
        return Asked(
            app=self.app, who=who, now=self.app.clock.now(), path=request.url.path, query=dict(request.query_params),
            place=request.path_params, measured=self.measured, searcher=self.searcher, gateway=self.settings.gateway,
            **more,
        )  # fmt: skip

    # --- events and errors

    async def _live(self, request: Request) -> Response:
        _, who = await run_in_threadpool(self._who, request)
        if who is None:
            return Response(status_code=401)
        return self.live.stream(request, lambda: self._who_if_known(request)[1] is not None)

    async def _missing(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        problem = NotFound(f"there is no page {request.url.path[:120]!r}.", "go to the overview")
        return await run_in_threadpool(self._problem, request, problem, status)

    async def _failed(self, request: Request, error: Exception) -> Response:
        status, *_ = problem_of(error)
        if status == 500:
            _logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        answer = await run_in_threadpool(self._problem, request, error, status)
        if isinstance(error, BeingMeasured):
            answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer

    def _problem(self, request: Request, error: Exception, status: int) -> Response:
        _, message, hint = problem_of(error)
        if request.method == "POST":
            return self._toast(Answer(done=None, status=status, problem=message, hint=hint))
        if "hx-request" in request.headers:
            return Response(self.rendered.problem(message, hint), status_code=status, media_type="text/html")
        session, who = self._who_if_known(request)
        session = session or self.sessions.anybody()
        asked = self._asked(request, who or _NOBODY)
        body = self.rendered.error(asked, self.sessions.proof(session), status, message, hint, is_known=who is not None)
        return self._with_cookie(request, Response(body, status_code=status, media_type="text/html"), session)

    def _who_if_known(self, request: Request) -> tuple[Session | None, Who | None]:
        try:
            return self._who(request)
        except TidemillError:
            return None, None


_NOBODY = Who(name="", role=Role.VIEWER)


def _kept(request: Request, kept: Kept) -> Response:
    """Return a part that was drawn before, packed where that is taken: packing costs more than all else."""
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return handed(kept.file)
    headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(kept.packed, media_type=kept.file.media, headers=headers)


def _check_place(request: Request) -> None:
    """Let numbers of the path pass that something could have.

    Raises:
        NotFound: one is too large.
    """
    if any(isinstance(value, int) and value > GREATEST for value in request.path_params.values()):
        raise NotFound(f"there is no page {request.url.path[:120]!r}.", "go to the overview")


def _inside(goto: str) -> str:
    """Return an address of this page, whatever was asked for."""
    is_inside = goto.startswith("/") and not goto.startswith(("//", "/\\")) and goto.isprintable()
    return goto if is_inside else "/"
