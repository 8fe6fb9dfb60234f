"""The audit log: what people do is a row, in the transaction of the deed, whichever way they did it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tidemill.stores.audit import Audit
from tidemill.stores.database import Database
from tidemill.stores.tokens import Scope, Tokens

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def write(database: Database, project: str | None, **words: str) -> None:
    words = {"by": "ann", "verb": "pause", **words}
    with database.begin() as conn:
        Audit(database).add(conn, project, now=NOON, **words)  # type: ignore[arg-type]


def test_rows_come_newest_first_and_a_page_at_a_time(database: Database) -> None:
    for number in range(5):
        write(database, "pets", thing=f"version {number}", by="ann" if number % 2 else "bob")
    first = Audit(database).acts("pets", limit=2)
    rest = Audit(database).acts("pets", before=first[-1].id)
    assert [act.thing for act in (*first, *rest)] == [f"version {n}" for n in (4, 3, 2, 1, 0)]
    assert [act.thing for act in Audit(database).acts("pets", by="ann")] == ["version 3", "version 1"]
    assert first[0].at == NOON and first[0].via == "cli"


def test_a_project_sees_its_rows_and_those_of_all(database: Database) -> None:
    write(database, "pets", thing="pets")
    write(database, "cars", thing="cars")
    write(database, None, thing="all")
    assert [act.thing for act in Audit(database).acts("pets")] == ["all", "pets"]


def test_words_that_are_too_long_are_cut_and_hostile_ones_kept(database: Database) -> None:
    write(database, "pets", reason="x" * 10_000, thing="'; DROP TABLE audit; --<script>")
    act = Audit(database).acts("pets")[0]
    assert len(act.reason) == 2000 and act.thing == "'; DROP TABLE audit; --<script>"


def test_making_and_revoking_a_token_are_rows_without_the_token(database: Database) -> None:
    with database.begin() as conn:
        secret = Tokens(database).add(conn, "web", scopes=[Scope.VIEW], now=NOON, by="ann")
        Tokens(database).revoke(conn, "web", now=NOON, by="bob", reason="it leaked")
    revoked, made = Audit(database).acts("any")
    assert (made.verb, made.by, made.thing, made.result) == ("make token", "ann", "web", "view on every project")
    assert (revoked.verb, revoked.by, revoked.reason) == ("revoke token", "bob", "it leaked")
    assert secret not in repr([made, revoked])


def test_what_is_undone_leaves_no_row(database: Database) -> None:
    with pytest.raises(RuntimeError), database.begin() as conn:
        Audit(database).add(conn, "pets", by="ann", verb="pause", now=NOON)
        raise RuntimeError
    assert Audit(database).acts("pets") == []
