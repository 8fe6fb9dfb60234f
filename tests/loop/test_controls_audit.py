"""Every command to the loop and every change of the route by hand is a row of the audit log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from harness import Harness

from tidemill.errors import NotFound
from tidemill.loop.controls import Controls
from tidemill.policy import Policy
from tidemill.stores.audit import Audit

DEEDS: dict[str, tuple[Callable[[Controls], Any], str]] = {
    "retrain": (lambda app: app.ask("retrain", by="ann", reason="why"), ""),
    "approve": (lambda app: app.ask("approve", by="ann", version=2, reason="why"), "version 2"),
    "pause": (lambda app: app.pause(paused=True, by="ann", reason="why"), ""),
    "resume": (lambda app: app.pause(paused=False, by="ann", reason="why"), ""),
    "promote now": (lambda app: app.promote_now(1, by="ann", reason="why"), "version 1"),
    "set policy": (lambda app: app.set_policy(Policy(abstain_below=0.6), by="ann", reason="why"), "policy 2"),
}


@pytest.mark.parametrize("verb", DEEDS)
def test_it_says_who_what_why_and_by_which_way(harness: Callable[..., Harness], verb: str) -> None:
    app = harness().app
    deed, thing = DEEDS[verb]
    deed(replace(app, via="page"))
    act = Audit(app.db).acts(app.name)[0]
    assert (act.verb, act.by, act.reason, act.thing, act.via) == (verb, "ann", "why", thing, "page")


def test_a_rollback_that_cannot_be_is_no_row(harness: Callable[..., Harness]) -> None:
    app = harness().app
    before = Audit(app.db).acts(app.name)
    with pytest.raises(NotFound):
        app.rollback(by="ann", reason="why")
    assert Audit(app.db).acts(app.name) == before
