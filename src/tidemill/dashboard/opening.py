"""The Python that a page offers to copy: it opens what the page shows, and runs as it stands."""

from __future__ import annotations

from tidemill.app import App


def opening(app: App, line: str, *, before: str = "", after: str = "") -> str:
    """Return Python that opens the home of the page as `app`, and then does what `line` says.

    `before` and `after` are what it imports besides: of the standard library, and of Tidemill.
    """
    imports = [*([before, ""] if before else []), "import tidemill as tm", *([after] if after else [])]
    opened = f"app = tm.App.open({str(app.world.project_file)!r}, {str(app.world.home.folder)!r})"
    return "\n".join([*imports, "", opened, line])
