"""Tokens: which there are, making one (shown once), revoking one."""

from __future__ import annotations

from datetime import datetime

from tidemill.clock import duration
from tidemill.dashboard.table import Column, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, Refused, Role, View
from tidemill.errors import InvalidInput
from tidemill.records import Trust
from tidemill.stores.tokens import Scope, Token, Tokens

_SAYS = {
    Scope.PREDICT: "ask the gateway for predictions", Scope.FEEDBACK: "send feedback",
    Scope.VIEW: "look at this page", Scope.LABEL: "label and try, and look", Scope.OPERATE: "everything on this page",
}  # fmt: skip


def show(asked: Asked) -> Page:
    """Return the tokens and the form that makes one."""
    data = {
        "tokens": tokens(asked), "scopes": list(_SAYS.items()), "trusts": [str(one) for one in Trust],
        "is_open": asked.who.token is None, "only": bound(asked),
    }  # fmt: skip
    return Page(template="tokens.html", title="Tokens", data=data)


def part(asked: Asked) -> Page:
    """Return the tokens alone."""
    return Page(template="_tokens.html", data={"tokens": tokens(asked)})


def tokens(asked: Asked) -> Table:
    """Return the tokens that were made, the newest first, by their last four characters.

    Who has a token for one project sees those for it and for every one.
    """
    only = bound(asked)
    known = (one for one in Tokens(asked.app.db).all() if only is None or one.project in (None, only))
    found = sorted(known, key=lambda one: -one.id)[: asked.limit]
    return Table(
        name="tokens", title="Tokens", rows=[_row(one, asked.now) for one in found], picks=True,
        empty="No token was ever made: this machine needs none.", command="tidemill token add ann --scope operate",
        columns=[
            Column(key="name", title="Name"), Column(key="state", title="State", kind="pill"),
            Column(key="scopes", title="Scopes"), Column(key="project", title="For"),
            Column(key="trust", title="Trust", help="of the feedback sent with it"),
            Column(key="tail", title="Ends in", kind="code"), Column(key="at", title="Made", kind="when"),
            Column(key="by", title="By"), Column(key="expires", title="Expires", kind="when"),
        ],
    )  # fmt: skip


def _row(one: Token, now: datetime) -> Row:
    return Row(key=str(one.id), cells={
        "name": one.name, "state": one.state(now), "scopes": ", ".join(sorted(one.scopes)),
        "project": one.project or "every project", "trust": None if one.trust is None else str(one.trust),
        "tail": f"…{one.tail}", "at": one.created_at, "by": one.created_by, "expires": one.expires_at,
    })  # fmt: skip


def bound(asked: Asked) -> str | None:
    """Return the one project that who asks may make tokens for, None where it is every one."""
    mine = (one for one in Tokens(asked.app.db).all() if one.id == asked.who.token)
    return next((one.project for one in mine), None)


# --- what is pressed


def make(posted: Posted) -> Done:
    """Make a token and show it, this once."""
    name, only = posted.field("name").strip(), bound(posted)
    for_all = posted.form.get("for", [""])[-1] == "all"
    if for_all and only is not None:
        raise Refused(f"your token is for {only!r} alone.", "make one for this project")
    ends, trust = posted.form.get("expires", [""])[-1].strip(), posted.form.get("trust", [""])[-1]
    expires_at = posted.now + duration(ends, name="expires") if ends else None
    trusted = Trust(trust) if trust else None
    with posted.app.db.begin() as conn:
        secret = Tokens(posted.app.db).add(
            conn, name, scopes=_scopes(posted), now=posted.now, by=posted.who.name, trust=trusted,
            project=None if for_all else posted.app.name, expires_at=expires_at, reason=posted.reason, via="page",
        )  # fmt: skip
    data = {"secret": secret, "name": name, "is_first": posted.who.token is None}
    return Done(said=f"Made the token {name}.", stay=True, shown=Page(template="_token_made.html", data=data))


def _scopes(posted: Posted) -> set[Scope]:
    words = posted.all("scope")
    wrong = [word for word in words if word not in list(Scope)]
    if wrong:
        raise InvalidInput(f"there is no scope {wrong[0][:40]!r}.", "load the page again", "scope")
    return {Scope(word) for word in words}


def revoke(posted: Posted) -> Done:
    """Revoke the ticked tokens."""
    only, known = bound(posted), {str(one.id): one for one in Tokens(posted.app.db).all()}
    ids = [id_ for id_ in posted.all("id") if id_ in known]
    if not ids:
        raise InvalidInput("no token is ticked.", "tick one or more", "id")
    foreign = [known[id_].name for id_ in ids if only is not None and known[id_].project != only]
    if foreign:
        raise Refused(f"{foreign[0]!r} is not of {only!r} alone, and your token is.", "ask who made it")
    with posted.app.db.begin() as conn:
        for id_ in ids:
            Tokens(posted.app.db).revoke(
                conn, id_, now=posted.now, by=posted.who.name, reason=posted.reason, via="page"
            )
    return Done(said=f"Revoked {', '.join(known[id_].name for id_ in ids)}: within a second nobody takes it any more.")


def _ticked(posted: Posted) -> str:
    return f"token {', '.join(posted.all('id'))}"


VIEW = View(
    path="/tokens",
    name="Tokens",
    group="Run",
    icon="tokens",
    show=show,
    role=Role.OPERATOR,
    fragments={"list": Fragment(show=part)},
    tables={"tokens": tokens},
    actions={
        "make": Action(do=make, verb="make token", thing=lambda p: p.field("name")[:60], audited=False),
        "revoke": Action(do=revoke, verb="revoke token", thing=_ticked, audited=False),
    },
)  # fmt: skip
