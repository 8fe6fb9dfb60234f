"""Alerts reach the webhook: signed, in order, again and again until it takes them, and over any kill of the loop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from harness import Harness
from receiver import SECRET, Receiver

from tidemill.errors import ProjectError
from tidemill.loop.webhook import Webhook, is_public
from tidemill.stores.alerts import Alerts, OpenAlert

Make = Callable[..., Harness]
FIRES = 'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'
AT = datetime(2026, 1, 1, tzinfo=UTC)


def alerting(harness: Make, alerts: str = 'tm.alert.Silent("1m")') -> Harness:
    held = {FIRES: "trigger=tm.trigger.Manual()"}
    return harness(edit={**held, "strategy=tm.Strategy(": f"alerts=[{alerts}],\n    strategy=tm.Strategy("})


def hook(receiver: Receiver, **more: object) -> Webhook:
    return replace(Webhook(url=receiver.url, secret=SECRET, private=True), **more)  # type: ignore[arg-type]


def told_to(h: Harness, webhook: Webhook | None) -> None:
    h.engine = h.app.engine(webhook=webhook)


def turns(h: Harness) -> None:
    """Turn, wait for the courier, and turn again, so that what it brought back is written."""
    assert h.engine is not None
    for _ in range(6):
        h.turn()
        courier = h.engine.world.courier
        assert courier is not None
        ends = time.monotonic() + 20
        while courier.is_away:
            assert time.monotonic() < ends
            time.sleep(0.005)


def newest(h: Harness) -> OpenAlert:
    return h.app.world.alerts.history(h.name)[0]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def test_an_alert_is_told_as_it_opens_and_as_it_closes(harness: Make, receiver: Receiver) -> None:
    h = alerting(harness)
    told_to(h, hook(receiver))
    h.clock.sleep(120)
    turns(h)
    (letter,) = receiver.got
    one = newest(h)
    assert (letter["event"], letter["project"], letter["alert"], letter["id"]) == ("opened", h.name, one.name, one.id)
    assert letter["reason"].startswith("the last request came 2")
    assert one.told_at is not None and (one.tries, one.problem) == (1, "")
    h.seconds(3)
    turns(h)
    assert [letter["event"] for letter in receiver.got] == ["opened", "closed"]
    assert receiver.got[1]["closed_at"] is not None
    assert len(set(receiver.keys)) == 2
    turns(h)
    assert len(receiver.got) == 2, "it is told once"


def test_what_is_not_taken_is_tried_again_with_the_same_key_after_a_growing_rest(
    harness: Make, receiver: Receiver
) -> None:
    receiver.answers = [500, 503, 302, 204]
    h = alerting(harness)
    told_to(h, hook(receiver))
    h.clock.sleep(120)
    turns(h)
    assert len(receiver.got) == 1, "it rests, however often the loop turns"
    assert newest(h).problem == "127.0.0.1 answered 500"
    assert h.app.status().untold[0].tries == 1
    waited = []
    for number in (2, 3, 4):
        seconds = 0
        while len(receiver.got) < number:
            h.clock.sleep(1)
            seconds += 1
            turns(h)
        waited.append(seconds)
    assert waited == [2, 4, 8]
    assert len(set(receiver.keys)) == 1
    assert newest(h).problem == "" and newest(h).tries == 4
    assert h.app.status().untold == []


def test_a_redirect_is_no_yes_and_is_not_followed(receiver: Receiver) -> None:
    receiver.answers = [302]
    assert hook(receiver).post(b"{}", key="k", at=AT) == "127.0.0.1 answered 302, and redirects are not followed"


def test_an_alert_that_came_and_went_while_nobody_listened_is_told_whole(harness: Make, receiver: Receiver) -> None:
    receiver.answers = [500, 204]
    h = alerting(harness)
    told_to(h, hook(receiver))
    h.clock.sleep(120)
    turns(h)
    h.seconds(1)
    assert not newest(h).is_open
    h.seconds(5)
    turns(h)
    assert [letter["event"] for letter in receiver.got] == ["opened", "opened", "closed"]


def test_a_webhook_that_hangs_holds_up_no_step(harness: Make, receiver: Receiver) -> None:
    receiver.answers = [None]
    h = alerting(harness)
    told_to(h, hook(receiver))
    h.clock.sleep(120)
    h.turn()
    h.turn()
    assert h.engine is not None and h.engine.world.courier is not None
    assert h.engine.world.courier.is_away
    h.seconds(3)
    assert not newest(h).is_open, "the loop went on"


def test_a_letter_that_drips_is_given_up(receiver: Receiver) -> None:
    receiver.answers = [None]
    assert hook(receiver, timeout_s=10.0, patience_s=0.2).post(b"{}", key="k", at=AT).startswith("127.0.0.1: ")


def test_a_loop_killed_before_it_wrote_that_it_told_tells_again_with_the_same_key(
    harness: Make, receiver: Receiver
) -> None:
    h = alerting(harness)
    told_to(h, hook(receiver))
    h.clock.sleep(120)
    h.turn()
    while not receiver.got:
        h.engine.turn() if h.engine else None
    killed, h.engine = h.engine, None  # what its courier brought back is lost with it
    assert killed is not None
    h.forget_leases()
    if newest(h).told_at is None:
        told_to(h, hook(receiver))
        turns(h)
        assert len(receiver.got) == 2
    assert len(set(receiver.keys)) == 1
    assert newest(h).told_at is not None


def test_nobody_is_told_of_what_is_silenced_and_passed(harness: Make, receiver: Receiver) -> None:
    receiver.answers = [500, 204]
    h = alerting(harness)
    told_to(h, hook(receiver))
    h.clock.sleep(120)
    turns(h)
    with h.app.db.begin() as conn:
        Alerts(h.app.db).silence(conn, h.name, newest(h).id, h.clock.now() + timedelta(minutes=10))
    h.seconds(20)
    assert not newest(h).is_open
    h.clock.sleep(700)
    turns(h)
    assert [(letter["id"], letter["event"]) for letter in receiver.got] == [(1, "opened"), (2, "opened")]


def test_a_webhook_that_comes_later_hears_of_what_stands_and_not_of_the_past(harness: Make, receiver: Receiver) -> None:
    h = alerting(harness)
    told_to(h, None)
    h.clock.sleep(120)
    turns(h)
    h.seconds(2)
    h.clock.sleep(120)
    turns(h)
    assert [one.is_open for one in h.app.world.alerts.history(h.name)] == [True, False]
    told_to(h, hook(receiver))
    turns(h)
    assert [(letter["event"], letter["id"]) for letter in receiver.got] == [("opened", newest(h).id)]


def test_alerts_stand_once_in_the_log_of_the_loop(harness: Make, caplog: pytest.LogCaptureFixture) -> None:
    h = alerting(harness)
    told_to(h, None)
    h.clock.sleep(120)
    with caplog.at_level(logging.WARNING, logger="tidemill.loop.tell"):
        turns(h)
        h.seconds(2)
    first, second = [record.getMessage() for record in caplog.records if record.name == "tidemill.loop.tell"]
    assert first.startswith("ALERT 1 since 2026-01-01") and "the last request came" in first
    assert second == "alert 1 is over: Silent('1m')"


# --- where it may be


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "fe80::1", "fc00::1", "fec0::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1"],
)  # fmt: skip
def test_private_ranges_are_no_place_for_a_webhook(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are(receiver: Receiver) -> None:
    assert is_public("1.1.1.1") and is_public("2606:4700::1111") and is_public("64:ff9b::101:101")
    refused = hook(receiver, private=False).post(b"{}", key="k", at=AT)
    assert refused == "127.0.0.1: 127.0.0.1 is in a private range; --webhook-private allows it"
    assert receiver.got == []


@pytest.mark.parametrize(
    ("url", "secret", "said"),
    [
        ("ftp://example.com/x", SECRET, "no http or https URL"),
        ("https://", SECRET, "no http or https URL"),
        ("https://ann:word@example.com/x", SECRET, "holds a user name"),
        ("https://example.com:high/x", SECRET, "is no URL"),
        ("https://example.com/x", "", "has no secret"),
        ("https://example.com/x", "short", "has a short secret"),
    ],
)
def test_what_is_no_webhook_is_refused(url: str, secret: str, said: str) -> None:
    with pytest.raises(ProjectError, match=said):
        Webhook(url=url, secret=secret)


def test_neither_url_nor_secret_is_shown(receiver: Receiver) -> None:
    receiver.answers = [500]
    one = hook(receiver)
    assert "hook" not in f"{one.post(b'{}', key='k', at=AT)}" and SECRET not in repr(one) and "team" not in repr(one)


# --- as processes


def test_a_killed_loop_loses_no_letter(first_version: Path, tmp_path: Path, receiver: Receiver) -> None:
    import shutil

    folder = shutil.copytree(first_version, tmp_path / "here")
    file = folder / "waves_project.py"
    file.write_text(file.read_text().replace("strategy=tm.", 'alerts=[tm.alert.Stale("1s")],\n    strategy=tm.', 1))
    receiver.answers = [None, 204]
    env = {**os.environ, "TIDEMILL_WEBHOOK": receiver.url, "TIDEMILL_WEBHOOK_SECRET": SECRET, "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen[bytes]:
        called = [sys.executable, "-m", "tidemill.cli", "loop", "--home", str(folder / "home"), "--project", str(file)]
        with (folder / "loop.log").open("ab") as log:
            return subprocess.Popen([*called, "--poll", "100ms", "--webhook-private"], stdout=log, stderr=log, env=env)

    process = start()
    try:
        for number in (1, 2):
            ends = time.monotonic() + 60
            while len(receiver.got) < number:
                assert process.poll() is None and time.monotonic() < ends, (folder / "loop.log").read_text()
                time.sleep(0.02)
            if number == 1:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                process = start()
    finally:
        process.terminate()
        process.wait(30)
    assert [letter["event"] for letter in receiver.got] == ["opened", "opened"]
    assert receiver.keys[0] == receiver.keys[1]
    assert (folder / "loop.log").read_text().count("ALERT 1 since") == 2, "once for each process"
