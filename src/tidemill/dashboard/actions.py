"""Buttons: who may, why, the same verb as the command line's, a word on what came of it, and a row of the audit log."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tidemill.dashboard.view import Action, Done, Posted, check_role, problem_of
from tidemill.errors import InvalidInput
from tidemill.stores.audit import Audit

LEAST_REASON = 3
MOST_REASON = 1000
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a press: said as a toast, with the HTTP status that fits."""

    done: Done | None
    status: int = 200
    problem: str = ""
    hint: str = ""


def act(action: Action, posted: Posted) -> Answer:
    """Do what a button is for, and write down who did it, why, and what came of it."""
    thing = ""
    try:
        check_role(posted.who, action.role)
        thing = action.thing(posted)
        check_reason(action, posted)
        done = action.do(posted)
    except Exception as error:  # whatever it is, the page says so and stays
        status, problem, hint = problem_of(error)
        if status == 500:
            _logger.exception("%s %s failed", action.verb, thing)
        _write(action, posted, thing, f"refused: {problem}")
        return Answer(done=None, status=status, problem=problem, hint=hint)
    if action.audited:
        _write(action, posted, thing, done.noted or done.said)
    return Answer(done=done)


def check_reason(action: Action, posted: Posted) -> None:
    """Let an action pass that says why, where it has to.

    Raises:
        InvalidInput: it does not, or at too great a length.
    """
    if action.reason and len(posted.reason) < LEAST_REASON:
        raise InvalidInput(
            f"to {action.verb} takes a reason.", f"write one of at least {LEAST_REASON} characters", "reason"
        )
    if len(posted.reason) > MOST_REASON:
        raise InvalidInput(f"it has {len(posted.reason):,} characters.", f"use at most {MOST_REASON:,}", "reason")


def _write(action: Action, posted: Posted, thing: str, result: str) -> None:
    app = posted.app
    with app.db.begin() as conn:
        Audit(app.db).add(
            conn, app.name, by=posted.who.name, verb=action.verb, thing=thing, reason=posted.reason[:MOST_REASON],
            result=result, via="page", now=posted.now,
        )  # fmt: skip
