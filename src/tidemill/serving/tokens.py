"""Who asks: the tokens that are valid now, held in memory and read anew together with the routes.

A store without a single token lets everybody in, as long as the gateway can be reached from this machine only. Once a
token was made, every call needs one; revoking the last one lets nobody in rather than everybody.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tidemill.errors import Forbidden, TidemillError, Unauthorized
from tidemill.records import Trust
from tidemill.stores.tokens import Scope, Token, Tokens, digest

CHALLENGE = b'Bearer realm="tidemill"'
"""The value of `WWW-Authenticate` in a reply 401."""
_SCHEME = b"bearer "
_MAX_HEADER_BYTES = 512
_HINT = "send the header `Authorization: Bearer TOKEN`; `tidemill token add` makes one"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what they may do; `project` None is every project.

    `trust` is that of their feedback, None where the project says it.
    """

    name: str
    project: str | None
    scopes: frozenset[Scope]
    trust: Trust | None = None

    def may(self, project: str, scope: Scope | None) -> bool:
        """Tell whether they may do this to a project; `scope` None is looking at what is served."""
        return (self.project is None or self.project == project) and (scope is None or scope in self.scopes)

    def enter(self, project: str | None, scope: Scope | None) -> str | None:
        """Return the project they mean: the one named, else the only one they may use, else None.

        Raises:
            Forbidden: they may not.
        """
        if scope is not None and scope not in self.scopes:
            raise Forbidden(
                f"the token {self.name!r} may not {scope}.", f"use one with the scope {scope}: it has {self._scopes}"
            )
        if self.project is None or project == self.project:
            return project
        if project is not None:
            raise Forbidden(
                f"the token {self.name!r} is not for the project {project[:60]!r}.", f"it is for {self.project!r} only"
            )
        return self.project

    @property
    def may_operate(self) -> bool:
        """Whether they may see how the gateway itself does."""
        return Scope.OPERATE in self.scopes

    @property
    def _scopes(self) -> str:
        return ", ".join(sorted(self.scopes))


ANYBODY = Caller("", None, frozenset(Scope))
"""Who asks a gateway that wants no token."""
_KEY_BYTES = 8
_NOBODY = (bytes(32), ANYBODY)  # no token has this hash


@dataclass(frozen=True, slots=True)
class _Known:
    """What is in force: hashes and callers by the beginning of the hash; None while nobody needs a token."""

    callers: Mapping[bytes, tuple[bytes, Caller]] | None


class TokenTable:
    """Finds callers by the `Authorization` of their requests. `refresh` is called in the thread that watches routes.

    Args:
        tokens: the store.
        now: gives the time.
        beyond_loopback: whether others than this machine can reach the gateway, so that a token is always needed.
    """

    def __init__(self, tokens: Tokens, now: Callable[[], datetime], *, beyond_loopback: bool = False) -> None:
        self._tokens, self._now, self.beyond_loopback = tokens, now, beyond_loopback
        self._read: list[Token] = []
        self._known = _Known({})  # nobody, until the store was read
        self.revision = 0
        """Grows with every change: who remembers a caller by its header asks again when it has."""

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a token."""
        return self._known.callers is None

    def refresh(self) -> None:
        """Read the tokens anew.

        Raises:
            StoreError: they cannot be read. What was read last stays in force, but for what has expired meanwhile.
        """
        try:
            self._read = self._tokens.all()
        finally:
            self._settle()

    def require_one(self) -> None:
        """Refuse to serve others than this machine while nobody could show a token.

        Raises:
            TidemillError: the gateway can be reached from elsewhere, and there is no valid token.
        """
        if self.beyond_loopback and not self._known.callers:
            raise TidemillError(
                "there is no token, and others than this machine could reach this gateway.",
                "make one with `tidemill token add NAME`, or listen on 127.0.0.1",
            )

    def caller(self, header: bytes | None) -> Caller:
        """Return whom the value of an `Authorization` header stands for.

        Tokens are compared by their hashes, and these in constant time.

        Raises:
            Unauthorized: a token is needed, and this is none that is valid now.
        """
        callers = self._known.callers
        if callers is None:
            return ANYBODY
        if header is None:
            raise Unauthorized("this gateway wants a token.", _HINT)
        if len(header) > _MAX_HEADER_BYTES or header[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthorized("the Authorization is no bearer token.", _HINT)
        shown = digest(header[len(_SCHEME) :].strip())
        kept, found = callers.get(shown[:_KEY_BYTES], _NOBODY)
        if not hmac.compare_digest(kept, shown):
            raise Unauthorized("the token is unknown, expired or revoked.", _HINT)
        return found

    def check(self, header: bytes | None, project: str | None, scope: Scope | None) -> Caller:
        """Return the caller, who may do this to the project; `scope` None is looking at what is served.

        Raises:
            Unauthorized: see `caller`.
            Forbidden: they may not.
        """
        caller = self.caller(header)
        caller.enter(project, scope)
        return caller

    def _settle(self) -> None:
        now = self._now()
        live = [token for token in self._read if token.state(now) == "live"]
        callers = {token.digest[:_KEY_BYTES]: (token.digest, _caller(token)) for token in live}
        known = _Known(callers if self._read or self.beyond_loopback else None)
        if known != self._known:
            self._known = known
            self.revision += 1  # after it: who sees the new number finds the new callers


def _caller(token: Token) -> Caller:
    return Caller(token.name, token.project, token.scopes, token.trust)
