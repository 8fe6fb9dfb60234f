"""Templates turned into HTML: whole pages in their frame, fragments, toasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, DictLoader

from tidemill import __version__
from tidemill.dashboard.actions import Answer
from tidemill.dashboard.shown import environment
from tidemill.dashboard.static_files import StaticFiles
from tidemill.dashboard.view import Asked, Page, View


class Rendered:
    """Draws what views show."""

    def __init__(self, project: str, views: Sequence[View], static: StaticFiles, folder: Path) -> None:
        self._project, self._views = project, [view for view in views if not view.hidden]
        self._templates = environment(str(folder))
        self._templates.globals |= {"static": static.address, "project": project, "release": __version__}

    def warm(self) -> None:
        """Compile every template, so that nobody waits for it."""
        for name in self._templates.list_templates():
            self._templates.get_template(name)

    def add(self, name: str, template: str) -> None:
        """Add a template that is in no file, before those that are: for a view of your own."""
        own = ChoiceLoader([DictLoader({name: template}), self._templates.loader or DictLoader({})])
        self._templates.loader = own

    def page(self, asked: Asked, view: View, shown: Page, proof: str, counts: Mapping[str, int]) -> str:
        """Return a whole page."""
        return self._draw(
            shown.template, asked=asked, view=view, title=shown.title or view.name, proof=proof, counts=counts,
            rail=self._rail(asked), **shown.data,
        )  # fmt: skip

    def fragment(self, asked: Asked, view: View, shown: Page) -> str:
        """Return a part of a page."""
        return self._draw(shown.template, asked=asked, view=view, title=shown.title, **shown.data)

    def toast(self, answer: Answer) -> str:
        """Return a word on what came of an action."""
        return self._draw("_toast.html", answer=answer)

    def problem(self, message: str, hint: str) -> str:
        """Return what stands where a part of a page could not be drawn."""
        return self._draw("_problem.html", message=message, hint=hint)

    def sign_in(self, proof: str, goto: str, problem: str) -> str:
        """Return the page that asks for a token."""
        return self._draw("sign_in.html", title="Sign in", proof=proof, goto=goto, problem=problem)

    def error(self, asked: Asked, proof: str, status: int, message: str, hint: str, *, is_known: bool) -> str:
        """Return the page that stands where another could not; who is not signed in sees no rail."""
        return self._draw(
            "error.html", asked=asked, view=None, title=f"{status}", status=status, message=message, hint=hint,
            proof=proof, counts={}, rail=self._rail(asked) if is_known else [],
        )  # fmt: skip

    def _rail(self, asked: Asked) -> list[tuple[str, list[View]]]:
        seen = [view for view in self._views if asked.who.may(view.role)]
        return [(group, list(of)) for group, of in groupby(seen, key=lambda view: view.group)]

    def _draw(self, template: str, **data: Any) -> str:
        return self._templates.get_template(template).render(data)
