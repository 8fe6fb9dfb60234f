"""Tokens: who may ask a gateway for what. Only a hash of each is kept, so a copy of the catalog opens nothing."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b

from sqlalchemy import Connection, RowMapping, insert, select, update

from tidemill.clock import from_micros, micros
from tidemill.errors import Conflict, NotFound, StoreError
from tidemill.records import Trust
from tidemill.stores.audit import Audit
from tidemill.stores.database import Database
from tidemill.stores.listener import announce
from tidemill.stores.tables import tokens

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]{0,59}")
_RESERVED = frozenset({"http", "import", "queue"})
"""What labels that came without a token name as their source."""
_PREFIX = "tm_"
_SECRET_BYTES = 32
_TAIL_CHARS = 4


class Scope(StrEnum):
    """What a token lets its holder do: call the gateway, or open the page, where `operate` includes label and view."""

    PREDICT = "predict"
    FEEDBACK = "feedback"
    OPERATE = "operate"
    VIEW = "view"
    LABEL = "label"


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is known of a token. `project` None is every project, `trust` None the trust the project gives feedback."""

    id: int
    name: str
    project: str | None
    scopes: frozenset[Scope]
    trust: Trust | None
    tail: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    digest: bytes = field(repr=False)

    def state(self, now: datetime) -> str:
        """Return `live`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.expires_at is None or now < self.expires_at else "expired"


def digest(secret: bytes) -> bytes:
    """Return what is kept of a token.

    One fast hash is enough: a token has 256 random bits, so nobody finds it by trying, as one would a password.
    """
    return blake2b(secret, digest_size=32, person=b"tidemill-token").digest()


class Tokens:
    """Keeps tokens, those of every project together."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(
        self,
        conn: Connection,
        name: str,
        *,
        scopes: Collection[Scope],
        now: datetime,
        by: str,
        project: str | None = None,
        trust: Trust | None = None,
        expires_at: datetime | None = None,
        reason: str = "",
        via: str = "cli",
    ) -> str:
        """Make a token and return it: the only time that it is seen.

        Raises:
            StoreError: the name is no name, or the token could do nothing.
            Conflict: another token of that name is not revoked.
        """
        _check(name, scopes, trust)
        taken = select(tokens.c.id).where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
        if conn.execute(taken).first() is not None:
            raise Conflict(
                f"there is a token {name!r} already.", f"revoke it with `tidemill token revoke {name}`, or rename"
            )
        secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        row = {
            "name": name,
            "project": project,
            "scopes": " ".join(sorted(scopes)),
            "trust": None if trust is None else str(trust),
            "digest": digest(secret.encode()),
            "tail": secret[-_TAIL_CHARS:],
            "created_at": micros(now),
            "created_by": by,
            "expires_at": None if expires_at is None else micros(expires_at),
        }
        conn.execute(insert(tokens).values(**row))
        given = f"{', '.join(sorted(scopes))} on {project or 'every project'}"
        Audit(self._db).add(
            conn, project, by=by, verb="make token", thing=name, reason=reason, result=given, via=via, now=now
        )
        announce(conn, project or "")
        return secret

    def revoke(
        self, conn: Connection, which: str, *, now: datetime, by: str = "nobody named", reason: str = "",
        via: str = "cli",
    ) -> int:  # fmt: skip
        """Revoke a token by its id or name, and return its id.

        Raises:
            NotFound: no token that is not revoked has that id or name.
        """
        named = tokens.c.id == int(which) if _is_id(which) else tokens.c.name == which  # a name begins with a letter
        live = (named, tokens.c.revoked_at.is_(None))
        row = conn.execute(select(tokens.c.id, tokens.c.name, tokens.c.project).where(*live)).first()
        if row is None:
            raise NotFound(f"there is no token {which[:60]!r} to revoke.", "see `tidemill token list`")
        conn.execute(update(tokens).where(tokens.c.id == row.id).values(revoked_at=micros(now)))
        Audit(self._db).add(
            conn, row.project, by=by, verb="revoke token", thing=row.name, reason=reason, result="revoked", via=via,
            now=now,
        )  # fmt: skip
        announce(conn, "")
        return int(row.id)

    def all(self) -> list[Token]:
        """Return every token that was ever made, the oldest first."""
        with self._db.read() as conn:
            return [_token(row) for row in conn.execute(select(tokens).order_by(tokens.c.id)).mappings()]


def _check(name: str, scopes: Collection[Scope], trust: Trust | None) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise StoreError(
            f"{name[:60]!r} is no name for a token.",
            "use a letter, then up to 59 letters, digits and _ . @ -; not http, import or queue",
        )
    if not scopes:
        raise StoreError(f"the token {name!r} may do nothing.", f"give it scopes: {', '.join(Scope)}")
    if trust is not None and Scope.FEEDBACK not in scopes:
        raise StoreError(f"the token {name!r} has trust {trust} but may give no feedback.", "add the scope feedback")


def _is_id(which: str) -> bool:
    return which.isascii() and which.isdecimal() and len(which) < 10


def _token(row: RowMapping) -> Token:
    return Token(
        id=row["id"],
        name=row["name"],
        project=row["project"],
        scopes=frozenset(map(Scope, row["scopes"].split())),
        trust=None if row["trust"] is None else Trust(row["trust"]),
        tail=row["tail"],
        created_at=from_micros(row["created_at"]),
        created_by=row["created_by"],
        expires_at=None if row["expires_at"] is None else from_micros(row["expires_at"]),
        revoked_at=None if row["revoked_at"] is None else from_micros(row["revoked_at"]),
        digest=row["digest"],
    )
