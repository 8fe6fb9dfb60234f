"""The ledger says of each strategy when it was in force and what it brought: quality, cycles, labels."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from log_rows import Mill
from mail import NOON, mail, row, tell

import tidemill as tm
from tidemill.clock import from_micros
from tidemill.monitor.ledger import StrategyPeriod, ledger
from tidemill.project import Project
from tidemill.records import Example, Outcome, Trust, Verdict
from tidemill.stores.catalog import Catalog
from tidemill.stores.reservoir import Reservoir

FIRED = Verdict(outcome=Outcome.FIRE, by="test", reason="test")
LABEL = tm.label.Feedback(horizon="10s")
FIRST, SECOND = tm.Strategy(label=LABEL), tm.Strategy(label=LABEL, curate_every="2h")


def at(mill: Mill, second: float) -> datetime:
    return from_micros(mill.at(second))


def publish(mill: Mill, project: Project, second: float) -> None:
    with mill.db.begin() as conn:
        Catalog(mill.db).publish(
            conn, project.compile().to_json(), project.strategy.to_json(), file="x.py", now=at(mill, second)
        )


def cycle(mill: Mill, second: float, outcome: str) -> None:
    with mill.db.begin() as conn:
        number = mill.journal.open_cycle(conn, "mail", trigger=FIRED, strategy="x", step="form", now=at(mill, second))
        mill.journal.close_cycle(conn, "mail", number, outcome=outcome, reason="", now=at(mill, second + 1))


def label(mill: Mill, number: int, second: float, **changes: Any) -> None:
    example = {
        "id": f"e{number}", "request_id": f"r{number}", "unit": f"u{number}", "received_at": NOON, "picked_at": NOON,
        "reason": "random", "probability": None, "split": "", "inputs": {"x": float(number)}, "label": "ham",
        "trust": Trust.PEOPLE, "source": "ann", "labelled_at": at(mill, second),
    }  # fmt: skip
    with mill.db.begin() as conn:
        Reservoir(mill.db, mill.folder / "reservoir").add(conn, "mail", [Example(**{**example, **changes})])


def periods(mill: Mill, second: float) -> list[StrategyPeriod]:
    return ledger(
        mail(strategy=SECOND), catalog=Catalog(mill.db), journal=mill.journal, log=mill.log,
        reservoir=Reservoir(mill.db, mill.folder / "reservoir"), now=at(mill, second),
    )  # fmt: skip


def two_strategies(mill: Mill) -> None:
    """The first is in force from noon, the second from second 100; the first answers wrong once in four."""
    publish(mill, mail(strategy=FIRST), 0)
    publish(mill, mail(strategy=SECOND), 100)
    rows = [row(mill, i, second=s) for i, s in enumerate([10, 20, 30, 100, 101, 150])]
    labels = [tell(mill, i, s, "spam" if i == 0 else "ham") for i, s in enumerate([11, 21, 31, 101, 102, 151])]
    mill.put(*rows, *labels, project="mail")


def test_each_strategy_has_the_quality_of_the_requests_of_its_time(mill: Mill) -> None:
    two_strategies(mill)
    first, second = periods(mill, 200)
    assert (first.number, first.since, first.until) == (1, at(mill, 0), at(mill, 100))
    assert (second.number, second.since, second.until) == (2, at(mill, 100), at(mill, 200))
    assert (first.num_judged, first.quality) == (4, 0.75)
    assert (second.num_judged, second.quality) == (2, 1.0)
    assert first.digest == mail(strategy=FIRST).strategy.digest() != second.digest


def test_requests_that_may_still_get_feedback_do_not_count_yet(mill: Mill) -> None:
    two_strategies(mill)
    assert [p.num_judged for p in periods(mill, 155)] == [4, 1]
    assert [p.num_judged for p in periods(mill, 160)] == [4, 2]


def test_cycles_and_labels_count_for_the_strategy_in_force_when_they_came(mill: Mill) -> None:
    two_strategies(mill)
    for second, outcome in ((5, "rejected"), (50, "promoted"), (100, "promoted"), (150, "rolled back")):
        cycle(mill, second, outcome)
    for number, second in enumerate((0, 99, 100, 120, 150)):
        label(mill, number, second)
    label(mill, 7, 50, request_id=None)  # imported: no strategy brought it
    label(mill, 8, 50, label=None, trust=None, source=None, labelled_at=None)
    first, second_ = periods(mill, 200)
    assert (first.num_cycles, first.num_promoted, first.num_labels) == (2, 1, 2)
    assert (second_.num_cycles, second_.num_promoted, second_.num_labels) == (2, 1, 3)


def test_a_strategy_that_has_just_come_into_force_has_brought_nothing_yet(mill: Mill) -> None:
    publish(mill, mail(strategy=FIRST), 0)
    (only,) = periods(mill, 0)
    assert (only.quality, only.num_judged, only.num_cycles, only.num_labels) == (None, 0, 0, 0)
    assert only.until - only.since == timedelta(0)


def test_publishing_the_same_again_begins_no_new_period(mill: Mill) -> None:
    for second in (0, 10, 20):
        publish(mill, mail(strategy=FIRST), second)
    assert [(p.number, p.since) for p in periods(mill, 30)] == [(1, at(mill, 0))]


def test_a_strategy_that_comes_in_again_has_a_period_for_each_time(mill: Mill) -> None:
    two_strategies(mill)
    publish(mill, mail(strategy=FIRST), 130)
    cycle(mill, 50, "promoted")
    cycle(mill, 140, "rejected")
    told = periods(mill, 200)
    assert [(p.number, p.since, p.until) for p in told] == [
        (1, at(mill, 0), at(mill, 100)), (2, at(mill, 100), at(mill, 130)), (1, at(mill, 130), at(mill, 200)),
    ]  # fmt: skip
    assert [(p.num_judged, p.quality) for p in told] == [(4, 0.75), (1, 1.0), (1, 1.0)]
    assert [(p.num_cycles, p.num_promoted) for p in told] == [(1, 1), (0, 0), (1, 0)]


def test_a_period_is_told_as_json(mill: Mill) -> None:
    two_strategies(mill)
    told = json.loads(json.dumps([p.to_json() for p in periods(mill, 200)]))
    assert told[0]["quality"] == 0.75 and datetime.fromisoformat(told[0]["until"]) == at(mill, 100)
