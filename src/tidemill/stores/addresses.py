"""What people write for a table: the path of a file, or `URL#table`."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from tidemill.errors import ProjectError
from tidemill.stores.engines import shown
from tidemill.stores.places import WANTED, Place, file_place


def read_place(text: str, folder: Path | None = None) -> Place:
    """Read what somebody wrote for a table; a relative path starts in `folder`, by default where this process stands.

    Raises:
        ProjectError: it is neither such a file nor `URL#table`.
    """
    folder = Path.cwd() if folder is None else folder
    return _sql(text, folder) if "://" in text else file_place((folder / Path(text).expanduser()).absolute())


def _sql(text: str, folder: Path) -> Place:
    url, _, table = text.partition("#")
    hidden = re.sub("//.*@", "//...@", url.partition("?")[0])  # no password in a message
    if not table:
        raise ProjectError(f"{hidden!r} names no table.", f"write it behind a '#': {hidden}#table")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ProjectError(f"{hidden!r} is not a database URL.", WANTED) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        parsed = parsed.set(database=str((folder / parsed.database).absolute()))
    elif parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    url = parsed.render_as_string(hide_password=False)
    return Place(kind="sql", shown=f"{shown(parsed)}#{table}", url=url, table=table)
