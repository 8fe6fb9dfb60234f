"""Tokens: shown once and kept as a hash, live until they expire or are revoked, and never deleted."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from tidemill.errors import Conflict, NotFound, StoreError
from tidemill.records import Trust
from tidemill.stores.database import Database
from tidemill.stores.tokens import Scope, Tokens, digest

BOTH = (Scope.PREDICT, Scope.FEEDBACK)


def add(database: Database, name: str, now: datetime, **settings: object) -> str:
    settings = {"scopes": BOTH, "by": "ann", **settings}
    with database.begin() as conn:
        return Tokens(database).add(conn, name, now=now, **settings)


def revoke(database: Database, which: str, now: datetime) -> int:
    with database.begin() as conn:
        return Tokens(database).revoke(conn, which, now=now)


def test_what_was_given_comes_back_but_for_the_token_itself(database: Database, noon: datetime) -> None:
    ends = noon + timedelta(days=1)
    secret = add(database, "web", noon, project="pets", trust=Trust.PEOPLE, expires_at=ends)
    (token,) = Tokens(database).all()
    assert (token.id, token.name, token.project, token.scopes) == (1, "web", "pets", frozenset(BOTH))
    assert (token.trust, token.created_by, token.created_at, token.expires_at) == (Trust.PEOPLE, "ann", noon, ends)
    assert token.tail == secret[-4:] and token.digest == digest(secret.encode())
    assert repr(token.digest) not in repr(token)


def test_the_database_holds_no_token(database: Database, noon: datetime) -> None:
    secret = add(database, "web", noon)
    with database.read() as conn:
        kept = repr(conn.execute(text("SELECT * FROM tokens")).all())
    assert secret not in kept and secret[3:20] not in kept


def test_tokens_are_long_and_never_the_same(database: Database, noon: datetime) -> None:
    made = {add(database, f"web{number}", noon) for number in range(20)}
    assert len(made) == 20
    assert all(len(secret) == 46 and secret.startswith("tm_") for secret in made)


def test_a_token_is_live_until_it_expires_or_is_revoked(database: Database, noon: datetime) -> None:
    add(database, "short", noon, expires_at=noon + timedelta(minutes=1))
    add(database, "long", noon)
    short, long = Tokens(database).all()
    assert (short.state(noon), long.state(noon)) == ("live", "live")
    assert short.state(noon + timedelta(minutes=1)) == "expired"
    assert revoke(database, "long", noon) == long.id
    assert [token.state(noon) for token in Tokens(database).all()] == ["live", "revoked"]


def test_a_token_is_revoked_by_id_too_and_only_once(database: Database, noon: datetime) -> None:
    add(database, "web", noon)
    assert revoke(database, "1", noon) == 1
    for which in ("1", "web", "2", "99999999999999999999"):
        with pytest.raises(NotFound, match=f"no token '{which}' to revoke"):
            revoke(database, which, noon)


def test_a_name_is_taken_until_its_token_is_revoked(database: Database, noon: datetime) -> None:
    add(database, "web", noon)
    with pytest.raises(Conflict, match=r"there is a token 'web' already.*tidemill token revoke web"):
        add(database, "web", noon)
    revoke(database, "web", noon)
    add(database, "web", noon)
    assert [token.name for token in Tokens(database).all()] == ["web", "web"]


@pytest.mark.parametrize("name", ["", "7", "a b", "-x", "x" * 61, "http", "queue", "import", "ä", "a\n"])
def test_a_name_that_could_be_mistaken_is_refused(database: Database, noon: datetime, name: str) -> None:
    with pytest.raises(StoreError, match="is no name for a token"):
        add(database, name, noon)


def test_a_token_that_could_do_nothing_or_says_more_than_it_may_is_refused(database: Database, noon: datetime) -> None:
    with pytest.raises(StoreError, match=r"may do nothing.*predict, feedback, operate"):
        add(database, "web", noon, scopes=())
    with pytest.raises(StoreError, match="may give no feedback"):
        add(database, "web", noon, scopes=(Scope.PREDICT,), trust=Trust.TRUTH)
    assert Tokens(database).all() == []
