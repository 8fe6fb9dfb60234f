"""Alerts: what is wrong now and what was, with examples; silence, and whether anybody is told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from tidemill.app import App
from tidemill.clock import duration
from tidemill.dashboard import svg
from tidemill.dashboard.table import Cell, Column, Link, Row, Table
from tidemill.dashboard.view import Action, Asked, Done, Fragment, Page, Posted, View
from tidemill.errors import ProjectError
from tidemill.loop.tell import send_test
from tidemill.loop.webhook import Webhook
from tidemill.stores.alerts import OpenAlert
from tidemill.strategy.alert import Alert
from tidemill.strategy.reference import EVERYONE

_MOST = 500
_NUM_DAYS = 14
_LENGTHS = (("1h", "an hour"), ("8h", "8 hours"), ("1d", "a day"), ("7d", "a week"), ("30d", "30 days"))


def show(asked: Asked) -> Page:
    """Return what stands, what was, and what is watched."""
    app = asked.app
    data = {"rules": rules_table(asked), "history": history_table(asked), "webhook": _webhook(app), "lengths": _LENGTHS}
    return Page(template="alerts.html", title="Alerts", data={**data, **_now(asked)})


def now_part(asked: Asked) -> Page:
    """Return what stands, and what could not be told."""
    return Page(template="_alerts_now.html", data={**_now(asked), "lengths": _LENGTHS})


def _now(asked: Asked) -> dict[str, Any]:
    app = asked.app
    standing = [_card(one, asked.now) for one in reversed(app.world.alerts.standing(app.name))]
    return {"standing": standing, "untold": app.world.alerts.untold(app.name), "no_webhook": _no_webhook(app)}


def _card(one: OpenAlert, now: datetime) -> dict[str, Any]:
    """Return an alert with what shows it: ids of requests, and where to look."""
    numbers = dict(one.verdict.numbers)
    examples = str(numbers.pop("examples", "")).split()
    cohort = "" if one.cohort == EVERYONE else one.cohort
    return {"alert": one, "is_silent": one.is_silent(now), "examples": examples, "numbers": numbers, "cohort": cohort}


def history_table(asked: Asked) -> Table:
    """Return the alerts, the newest first."""
    columns = [
        Column(key="id", title="No.", kind="count"), Column(key="state", title="State", kind="pill"),
        Column(key="alert", title="Alert"), Column(key="opened", title="Opened", kind="when"),
        Column(key="lasted", title="Lasted", kind="took"), Column(key="reason", title="Why"),
        Column(key="told", title="Told", kind="pill"), Column(key="problem", title="Problem"),
    ]  # fmt: skip
    found = asked.app.world.alerts.history(asked.app.name, min(asked.limit, _MOST))
    rows = [_row(one, asked) for one in found]
    empty, command = _nothing(asked.app)
    return Table(name="history", title="Alerts so far", columns=columns, rows=rows, empty=empty, command=command)


def _row(one: OpenAlert, asked: Asked) -> Row:
    ended = one.closed_at or asked.now
    state = "silenced" if one.is_open and one.is_silent(asked.now) else "open" if one.is_open else "closed"
    told = "told" if one.told_at is not None else "not told" if one.problem else None
    cells: dict[str, Cell] = {
        "id": one.id, "state": state, "alert": one.name, "opened": one.opened_at,
        "lasted": (ended - one.opened_at).total_seconds(), "reason": one.verdict.reason, "told": told,
        "problem": one.problem or None,
    }  # fmt: skip
    return Row(cells=cells, key=str(one.id), tone="bad" if state == "open" else "unsure" if state == "silenced" else "")


def rules_table(asked: Asked) -> Table:
    """Return what is watched, each with its last two weeks."""
    columns = [
        Column(key="rule", title="Alert"), Column(key="state", title="State", kind="pill"),
        Column(key="about", title="Cohort"), Column(key="last", title="Fired last", kind="when"),
        Column(key="times", title="Times", kind="count", help=f"of the newest {_MOST} alerts"),
        Column(key="days", title=f"Last {_NUM_DAYS} days", kind="picture"), Column(key="then", title="And then"),
    ]  # fmt: skip
    found = asked.app.world.alerts.history(asked.app.name, _MOST)
    rows = [_rule(alert, [one for one in found if one.name == alert.name], asked) for alert in asked.app.project.alerts]
    rows.sort(key=lambda row: row.tone != "bad")
    empty, command = _nothing(asked.app)
    return Table(name="rules", title="What is watched", columns=columns, rows=rows, total=len(rows), empty=empty,
                 command=command)  # fmt: skip


def _rule(alert: Alert, found: Sequence[OpenAlert], asked: Asked) -> Row:
    standing = next((one for one in found if one.is_open), None)
    state = "closed" if standing is None else "silenced" if standing.is_silent(asked.now) else "open"
    about = alert.about
    cells: dict[str, Cell] = {
        "rule": alert.name, "state": {"closed": "quiet"}.get(state, state),
        "about": "everyone" if about == EVERYONE else Link(about, f"/cohorts/one?{urlencode({'name': about})}"),
        "last": max((one.fired_at for one in found), default=None), "times": len(found),
        "days": svg.history(_days(found, asked.now), title=f"{alert.name}, day by day"),
        "then": alert.acts,
    }  # fmt: skip
    return Row(cells=cells, tone="" if standing is None else "bad")


def _days(found: Sequence[OpenAlert], now: datetime) -> list[str]:
    """Return for each day, the last one ends now, whether the alert stood in it."""
    tones = []
    for back in range(_NUM_DAYS, 0, -1):
        first, last = now - timedelta(days=back), now - timedelta(days=back - 1)
        stood = any(one.opened_at <= last and (one.closed_at is None or one.closed_at > first) for one in found)
        tones.append("bad" if stood else "good")
    return tones


def _nothing(app: App) -> tuple[str, str]:
    """Return why the tables are empty, and what to do."""
    if not app.project.alerts:
        return "The project declares no alerts.", 'alerts=[tm.alert.Falls("accuracy"), tm.alert.Silent("1h")]'
    return "No alert has been opened yet.", "tidemill alert test"


# --- who is told


def _webhook(app: App) -> Webhook | None:
    return None if app.world.courier is None else app.world.courier.webhook


def _no_webhook(app: App) -> str:
    """Return why no sample can be sent, "" where it can."""
    return "" if _webhook(app) is not None else "the page was started without --webhook (or TIDEMILL_WEBHOOK)"


# --- actions


def silence(posted: Posted) -> Done:
    """Tell nobody of an alert, nor of its next ones, for some time."""
    until = posted.now + duration(posted.field("long"), name="for")
    alert = posted.whole("alert")
    posted.app.silence(alert, until, by=posted.who.name, reason=posted.reason)
    return Done(said=f"Alert {alert} is silent until {until:%Y-%m-%d %H:%M}; it is still shown.")


def end_silence(posted: Posted) -> Done:
    """Let an alert be told again."""
    alert = posted.whole("alert")
    posted.app.silence(alert, posted.now, by=posted.who.name, reason=posted.reason)
    return Done(said=f"Alert {alert} is told again.")


def send(posted: Posted) -> Done:
    """Send the webhook a sample.

    Raises:
        ProjectError: there is none, or it did not take it.
    """
    webhook = _webhook(posted.app)
    if webhook is None:
        raise ProjectError("there is no webhook.", "start `tidemill page` with --webhook or TIDEMILL_WEBHOOK")
    problem = send_test(webhook, posted.app.name, posted.now)
    if problem:
        raise ProjectError(f"the sample was not taken: {problem}.", "look at what the address points to")
    return Done(said=f"{webhook.host} took the sample.", stay=True)


def _thing(posted: Posted) -> str:
    return f"alert {posted.field('alert')}"


VIEW = View(
    path="/alerts", name="Alerts", group="Run", icon="alerts", show=show, badge="alerts",
    fragments={"now": Fragment(show=now_part, topics=("alerts",))},
    tables={"history": history_table, "rules": rules_table},
    actions={
        "silence": Action(do=silence, verb="silence", thing=_thing, reason=True, audited=False),
        "unsilence": Action(do=end_silence, verb="silence", thing=_thing, reason=True, audited=False),
        "test": Action(do=send, verb="test webhook", reason=False),
    },
)  # fmt: skip
