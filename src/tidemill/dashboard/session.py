"""Who is signed in: a token turned into a signed cookie, the proof that a form is the page's own, and which hosts."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import NamedTuple

from tidemill.app import App
from tidemill.clock import from_micros, micros
from tidemill.dashboard.gateway import LOCAL, Gateway
from tidemill.dashboard.view import Refused, Role, Who
from tidemill.errors import Unauthorized
from tidemill.stores.projects import lock_project
from tidemill.stores.tokens import Scope, Token, Tokens, digest

LASTS = timedelta(hours=12)
_TOKENS_S = 1.0  # how long tokens are remembered: as long as a gateway does
_NONCE_BYTES = 16
_ENDED = "page.ended"
"""The state that holds the sessions that were signed out of, until they would have ended by themselves."""
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
_ROLES = ((Scope.OPERATE, Role.OPERATOR), (Scope.LABEL, Role.LABELLER), (Scope.VIEW, Role.VIEWER))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the page is reached.

    Args:
        user: the name of who opens the page where it needs no token.
        beyond_loopback: whether others than this machine can reach it, so that a token is always needed.
        hosts: names it is asked for by, beside localhost; empty lets every name pass beyond loopback.
        gateway: the gateway that models are tried at.
    """

    user: str = "somebody"
    beyond_loopback: bool = False
    hosts: tuple[str, ...] = ()
    gateway: Gateway = LOCAL


class Session(NamedTuple):
    """What the cookie says: a token's id (0 where none is needed), random bytes, and when it was given."""

    token: int
    nonce: bytes
    at: int


class Sessions:
    """Gives and reads cookies. The key comes from the project's secret, so that a restart signs nobody out."""

    def __init__(self, app: App, settings: Settings) -> None:
        self._app, self._settings = app, settings
        secret = app.catalog.secret(app.name)
        self._key = blake2b(secret, digest_size=32, person=b"tidemill-page").digest()
        self.cookie = f"tidemill_{blake2b(self._key, digest_size=4, person=b'tidemill-name').hexdigest()}"
        self._lock = threading.Lock()
        self._read_at, self._read = float("-inf"), list[Token]()
        self._ended: Mapping[str, int] = {}  # by what is random of a session, when it was given

    # --- who

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a token: this machine only, and none was ever made."""
        return not self._settings.beyond_loopback and not self._tokens()

    def anybody(self) -> Session:
        """Return a session of somebody without a token."""
        return Session(0, secrets.token_bytes(_NONCE_BYTES), micros(self._app.clock.now()))

    def sign_in(self, secret: str) -> Session:
        """Return the session of who shows a token.

        Raises:
            Unauthorized: it is none that is live.
            Refused: it is not for this page.
        """
        who = self.bearer(secret)
        assert who.token is not None
        return self.anybody()._replace(token=who.token)

    def bearer(self, secret: str) -> Who:
        """Return whose a token is.

        Raises:
            Unauthorized: it is none that is live.
            Refused: it is not for this page.
        """
        shown, found = digest(secret.strip().encode()), None
        for token in self._tokens(fresh=True):
            if hmac.compare_digest(token.digest, shown):
                found = token
        if found is None or found.state(self._app.clock.now()) != "live":
            raise Unauthorized(
                "this token is unknown, expired or revoked.", "make one with `tidemill token add NAME --scope view`"
            )
        return self._who(found)

    def who(self, session: Session | None) -> Who | None:
        """Return who has a session, None where they have to sign in."""
        if self.is_open:
            return Who(name=self._settings.user, role=Role.OPERATOR)
        if session is None or session.token == 0:
            return None
        now = self._app.clock.now()
        live = (t for t in self._tokens() if t.id == session.token and t.state(now) == "live")
        found = next(live, None)
        if session.nonce.hex() in self._ended:
            return None
        try:
            return None if found is None else self._who(found)
        except Refused:
            return None

    def _who(self, token: Token) -> Who:
        role = next((role for scope, role in _ROLES if scope in token.scopes), None)
        if role is None or token.project not in (None, self._app.name):
            raise Refused(
                f"the token {token.name!r} does not open this page.",
                "make one with `tidemill token add NAME --scope view` (or label, or operate)",
            )
        return Who(name=token.name, role=role, token=token.id)

    def _tokens(self, *, fresh: bool = False) -> list[Token]:
        with self._lock:
            if fresh or time.monotonic() - self._read_at > _TOKENS_S:
                self._read, self._read_at = Tokens(self._app.db).all(), time.monotonic()
                self._ended = self._app.journal.state(self._app.name, _ENDED) or {}
            return self._read

    def end(self, session: Session) -> None:
        """End a session: whoever has a copy of its cookie is let in no more, by any page of this home."""
        if session.token == 0:
            return
        now = self._app.clock.now()
        with self._app.db.begin() as conn:
            lock_project(conn, self._app.name)  # another page of this home may end one too
            known = self._app.journal.state(self._app.name, _ENDED) or {}
            kept = {nonce: at for nonce, at in known.items() if now - from_micros(at) < LASTS}
            ended = {**kept, session.nonce.hex(): session.at}
            self._app.journal.put_state(conn, self._app.name, _ENDED, ended, now)
        with self._lock:  # not before: everybody who asks who they are waits for it
            self._ended = {**self._ended, **ended}

    # --- the cookie

    def write(self, session: Session) -> str:
        """Return the cookie of a session."""
        body = session.token.to_bytes(4) + session.at.to_bytes(8) + session.nonce
        return urlsafe_b64encode(body + self._mac(b"cookie", body)).decode()

    def read(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie, None where it is not ours or too old."""
        try:
            raw = urlsafe_b64decode(cookie or "")
        except ValueError:
            return None
        body, mac = raw[:-16], raw[-16:]
        if len(body) != 12 + _NONCE_BYTES or not hmac.compare_digest(mac, self._mac(b"cookie", body)):
            return None
        session = Session(int.from_bytes(body[:4]), body[12:], int.from_bytes(body[4:12]))
        age = self._app.clock.now() - from_micros(session.at)
        return session if timedelta(0) <= age < LASTS else None

    def _mac(self, what: bytes, body: bytes) -> bytes:
        return blake2b(body, digest_size=16, key=self._key, person=what).digest()

    # --- the proof that a form is the page's own

    def proof(self, session: Session) -> str:
        """Return what a form of this session sends back; it is another each time, so that its length tells nothing."""
        salt = secrets.token_bytes(8)
        return (salt + self._mac(b"csrf", salt + session.nonce)).hex()

    def check_proof(self, session: Session | None, proof: str) -> None:
        """Let a form pass that the page itself made.

        Raises:
            Refused: it was not, or the session has ended.
        """
        try:
            raw = bytes.fromhex(proof)
        except ValueError:
            raw = b""
        given = b"" if session is None else self._mac(b"csrf", raw[:8] + session.nonce)
        if not given or not hmac.compare_digest(raw[8:], given):
            raise Refused("this form is not the page's own, or too old.", "load the page again")


def check_host(host: str, origin: str | None, settings: Settings) -> None:
    """Let a request pass that was meant for this page, and comes from it where it says where from.

    A page that anybody's name leads to could be read by anybody's script: names are bound to addresses by whoever owns
    them (DNS rebinding).

    Raises:
        Refused: it was asked for by another name, or by another site.
    """
    name = _name(host)
    allowed = _LOCAL | {one.lower() for one in settings.hosts}
    anyway = settings.beyond_loopback and not settings.hosts
    if not (anyway or name in allowed):
        raise Refused(f"this page is not {name[:80]!r}.", "open it as localhost, or allow the name with --name")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise Refused("another site sent this.", "use the page itself")


def _name(host: str) -> str:
    """Return a Host header without its port, in small letters."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def allowed_hosts(names: Sequence[str]) -> tuple[str, ...]:
    """Return names as they stand in a Host header."""
    return tuple(f"[{name}]" if ":" in name and not name.startswith("[") else name for name in names)
