"""`tidemill token`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tidemill.cli.screen import show_table
from tidemill.cli.settings import DEFAULT_HOME, ByOption, DatabaseOption, HomeOption, JsonOption, who
from tidemill.clock import SystemClock, duration
from tidemill.errors import NotFound
from tidemill.records import Trust
from tidemill.stores.belonging import open_database
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.home import Home
from tidemill.stores.tokens import Scope, Token, Tokens

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

ScopeOption = Annotated[
    list[Scope], typer.Option("--scope", help="What it is good for; may be given again for another.")
]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="PROJECT", help="The project; by default every one.", show_default=False),
]
TrustOption = Annotated[
    Trust | None,
    typer.Option("--trust", help="Of the feedback sent with it; by default as the project says.", show_default=False),
]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="DURATION", help="After how long, such as 90d.", show_default=False)
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose it is; the source of the feedback sent with it.")],
    scope: ScopeOption = [Scope.PREDICT, Scope.FEEDBACK],  # noqa: B006  typer copies it
    project: ForOption = None,
    trust: TrustOption = None,
    expires: ExpiresOption = None,
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    by: ByOption = "",
) -> None:
    """Make a token and print it, once: only a hash of it is kept. From the first on, gateways want one."""
    now = SystemClock().now()
    ends = None if expires is None else now + duration(expires, name="--expires")
    with _opened(home, database) as db:
        _check_project(db, project)
        with db.begin() as conn:
            secret = Tokens(db).add(
                conn, name, scopes=set(scope), now=now, by=who(by), project=project, trust=trust, expires_at=ends
            )
    typer.echo(secret)
    until = "" if ends is None else f" until {ends:%Y-%m-%d %H:%M} UTC"
    what = ", ".join(sorted(set(scope)))
    typer.echo(f"{name} may {what} on {project or 'every project'}{until}; this is shown only once", err=True)


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """List the tokens ever made, by their last four characters, and whether they are live."""
    now = SystemClock().now()
    with _opened(home, database) as db:
        rows = [_described(token, now) for token in Tokens(db).all()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("id", "name", "for", "scopes", "trust", "token", "made", "expires", "state", box=None)
    for row in rows:
        table.add_row(
            str(row["id"]), row["name"], row["project"] or "all", " ".join(row["scopes"]), row["trust"] or "-",
            f"...{row['tail']}", row["created_at"][:16], (row["expires_at"] or "-")[:16], row["state"],
        )  # fmt: skip
    show_table(table)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id.")],
    home: HomeOption = DEFAULT_HOME,
    database: DatabaseOption = None,
    by: ByOption = "",
) -> None:
    """Revoke a token: within a second no gateway takes it any more."""
    with _opened(home, database) as db, db.begin() as conn:
        number = Tokens(db).revoke(conn, which, now=SystemClock().now(), by=who(by))
    typer.echo(f"token {number} is revoked")


@contextmanager
def _opened(home: Path, database: str | None) -> Iterator[Database]:
    with open_database(Home(home).make(), database) as db:
        yield db


def _check_project(db: Database, project: str | None) -> None:
    known = Catalog(db).projects()
    if project is not None and project not in known:
        raise NotFound(f"there is no project {project!r}.", f"there is {', '.join(sorted(known)) or 'none yet'}")


def _described(token: Token, now: datetime) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "project": token.project,
        "scopes": sorted(token.scopes),
        "trust": token.trust,
        "tail": token.tail,
        "created_at": token.created_at.isoformat(),
        "created_by": token.created_by,
        "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
        "state": token.state(now),
    }
