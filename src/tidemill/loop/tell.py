"""The step that tells people of alerts: once in this process's log, and to the webhook until it has taken it.

What is owed is in the journal, and what was told in the store of alerts; both are written after the webhook has said
that it took a letter. So a kill in between has it sent again, with the same key, and loses nothing. Of an alert that
was opened before there was a webhook, only what still stands is told.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from tidemill.clock import micros, rest_s
from tidemill.loop.courier import Courier, Delivered, Event, Letter
from tidemill.loop.webhook import Webhook
from tidemill.loop.world import Turn
from tidemill.records import Json, Outcome, Verdict
from tidemill.stores.alerts import OpenAlert
from tidemill.stores.database import dumps

_STEP = "tell"
_MOST = 20  # letters in one round

_logger = logging.getLogger(__name__)


def tell(turn: Turn) -> bool:
    """Write down what the courier brought back, and send it out with what is due; return whether anything came back."""
    courier = turn.world.courier
    if courier is None:
        return False
    standing = turn.world.alerts.standing(turn.name)
    _say(turn, courier, standing)
    known = turn.state(_STEP)
    if courier.webhook is None:
        return _forget(turn, known) if known else False
    state = known or _beginning(standing)
    found = turn.world.alerts.since(turn.name, state["seen"], ids=[int(id) for id in state["owed"]])
    back = courier.back()
    owed = _settled(turn, {**state["owed"], **{str(one.id): 0 for one in found if one.id > state["seen"]}}, found, back)
    seen = max([state["seen"], *(one.id for one in found)])
    if back or {"seen": seen, "owed": owed} != known:
        _write(turn, {"seen": seen, "owed": owed}, back)
        return bool(back)  # what is due is looked up at the next turn, from what is written now
    due = [letter for one in found if (letter := _letter(turn, one, owed.get(str(one.id)))) is not None]
    if due and not courier.is_away:
        courier.carry(due[:_MOST])
    return False


def news(project: str, one: OpenAlert, event: str) -> Json:
    """Return what a letter says about an alert."""
    return {
        "event": event,
        "project": project,
        "id": one.id,
        "alert": one.name,
        "cohort": one.cohort,
        "opened_at": one.opened_at.isoformat(),
        "fired_at": one.fired_at.isoformat(),
        "closed_at": None if one.closed_at is None else one.closed_at.isoformat(),
        "reason": one.verdict.reason,
        "numbers": dict(one.verdict.numbers),
    }


def send_test(webhook: Webhook, project: str, now: datetime) -> str:
    """Send the webhook a sample; return why it was not taken, "" when it was."""
    body = dumps(news(project, _sample(now), "test")).encode()
    return webhook.post(body, key=f"{project}-test-{micros(now)}", at=now)


def _sample(now: datetime) -> OpenAlert:
    verdict = Verdict(outcome=Outcome.FIRE, by="test", reason="a sample: nothing is wrong", numbers={"recent": 0.0})
    return OpenAlert(
        id=0, name="Test()", cohort="all", opened_at=now, fired_at=now, closed_at=None, silent_until=None,
        verdict=verdict, told_at=None, tries=0, problem="",
    )  # fmt: skip


# --- the log of this process


def _say(turn: Turn, courier: Courier, standing: list[OpenAlert]) -> None:
    """Write each alert down once as it stands, and once when it is over."""
    for one in standing:
        if one.id not in courier.said and not one.is_silent(turn.now):
            courier.said[one.id] = one.name
            _logger.warning("ALERT %d since %s: %s", one.id, f"{one.opened_at:%Y-%m-%d %H:%M:%S}", one.verdict.reason)
    for id in courier.said.keys() - {one.id for one in standing}:
        _logger.warning("alert %d is over: %s", id, courier.said.pop(id))


# --- the webhook


def _beginning(standing: list[OpenAlert]) -> Json:
    return {"seen": max((one.id for one in standing), default=0), "owed": {str(one.id): 0 for one in standing}}


def _forget(turn: Turn, known: Json) -> bool:
    """Owe nothing: there is no webhook any more."""
    with turn.write() as conn:
        turn.world.alerts.owe_nothing(conn, [int(id) for id in known["owed"]])
        turn.world.journal.put_state(conn, turn.name, _STEP, {}, turn.now)
    return False


def _settled(turn: Turn, owed: Json, found: list[OpenAlert], back: list[Delivered]) -> Json:
    """Return by alert from when on its next letter may be sent; one whose end was told is owed no more."""
    by_id = {str(one.id): one for one in found}
    owed = {id: at for id, at in owed.items() if not _passed_in_silence(by_id[id])}
    for done in back:
        id = str(done.letter.alert)
        if not done.problem and done.letter.event == "closed":
            owed.pop(id, None)
        elif id in owed:
            owed[id] = micros(turn.now + _rest(by_id[id])) if done.problem else 0
    return owed


def _rest(one: OpenAlert) -> timedelta:
    """Return how long a letter rests after another failure: 2, 4, 8 ... seconds, at most five minutes."""
    times = one.tries + 1 if one.problem else 1
    return timedelta(seconds=rest_s(times))


def _passed_in_silence(one: OpenAlert) -> bool:
    silenced = one.silent_until is not None and one.closed_at is not None and one.closed_at <= one.silent_until
    return silenced and one.told_at is None


def _write(turn: Turn, body: Json, back: list[Delivered]) -> None:
    with turn.write() as conn:
        for done in back:
            is_end = done.letter.event == "closed"
            turn.world.alerts.told(conn, done.letter.alert, turn.now, problem=done.problem, is_end=is_end)
        turn.world.journal.put_state(conn, turn.name, _STEP, body, turn.now)


def _letter(turn: Turn, one: OpenAlert, again_at: int | None) -> Letter | None:
    """Return what is to be told of an alert now: its opening first, then its end."""
    event: Event = "opened" if one.told_at is None else "closed"
    nothing_new = event == "closed" and one.is_open
    if again_at is None or nothing_new or one.is_silent(turn.now) or micros(turn.now) < again_at:
        return None
    key = f"{turn.name}-{one.id}-{micros(one.opened_at)}-{event}"
    return Letter(alert=one.id, event=event, key=key, body=dumps(news(turn.name, one, event)).encode())
