"""Tasks on loan: who gets which, how many people, and how golden examples measure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidemill.records import Example, Trust
from tidemill.stores.database import Database
from tidemill.stores.labellings import Labellings
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.tables import projects

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Office:
    """Ten tasks in a queue, and people who take some."""

    def __init__(self, db: Database, folder: Path) -> None:
        self.db = db
        self.labellings, self.reservoir = Labellings(db), Reservoir(db, folder)
        self.now = NOW
        with self.db.begin() as conn:
            row = {"manifest": "{}", "strategy": "", "secret": b"", "file": "", "updated_at": 0}
            conn.execute(projects.insert().values(project="p", **row))
            self.reservoir.add(conn, "p", [_example(f"e{i}") for i in range(10)])
            self.reservoir.ask(conn, "p", [f"e{i}" for i in range(10)], priority=0.0, now=NOW)

    def take(self, by: str, limit: int = 3, *, per_example: int = 1, golden: float = 0.0) -> list[str]:
        with self.db.begin() as conn:
            return self.labellings.take(
                conn, "p", by, limit, now=self.now, lease=HOUR, per_example=per_example, golden_share=golden
            )

    def say(self, by: str, id_: str, label: str = "a") -> bool:
        with self.db.begin() as conn:
            return self.labellings.say(conn, "p", id_, by=by, label=label, now=self.now)

    def settle(self, id_: str) -> None:
        with self.db.begin() as conn:
            self.reservoir.answer(conn, "p", id_, value="a", by="ann", now=self.now, trust=Trust.PEOPLE)


def _example(id_: str) -> Example:
    return Example(
        id=id_, request_id=None, unit=id_, received_at=NOW, picked_at=NOW, reason="random", probability=1.0, split="",
        inputs={"text": f"text {id_}"},
    )  # fmt: skip


@pytest.fixture
def office(database: Database, tmp_path: Path) -> Office:
    return Office(database, tmp_path / "reservoir")


def test_two_labellers_never_get_the_same_task(office: Office):
    ann, bob = office.take("ann", 6), office.take("bob", 6)
    assert (len(ann), len(bob)) == (6, 4)
    assert not set(ann) & set(bob)
    assert office.take("eve") == []


def test_who_asks_again_gets_the_same_tasks_first(office: Office):
    ann = office.take("ann", 3)
    assert office.take("ann", 3) == ann
    assert office.take("ann", 5)[:3] == ann


def test_tasks_that_nobody_finished_go_to_others_when_the_lease_is_over(office: Office):
    ann = office.take("ann", 10)
    office.now += HOUR
    assert office.take("bob", 10) == ann


def test_with_two_for_each_example_two_different_people_get_it_and_no_third(office: Office):
    ann, bob = office.take("ann", 10, per_example=2), office.take("bob", 10, per_example=2)
    assert ann == bob
    assert office.take("eve", 10, per_example=2) == []
    office.say("ann", "e0")
    assert "e0" not in office.take("ann", 10, per_example=2)


def test_where_two_do_not_agree_one_more_is_asked_at_a_time(office: Office):
    for by, label in (("ann", "a"), ("bob", "b")):
        office.take(by, 10, per_example=2)
        office.say(by, "e0", label)
    assert office.take("eve", 10, per_example=2) == ["e0"]
    assert office.take("joe", 10, per_example=2) == []
    with office.db.begin() as conn:
        assert office.labellings.said(conn, "p", "e0") == ["a", "b"]


def test_the_most_urgent_come_first_and_what_is_asked_again_begins_anew(office: Office):
    office.say("ann", "e7")
    office.settle("e7")
    office.now += HOUR
    with office.db.begin() as conn:
        office.reservoir.ask_again(conn, "p", ["e7"], priority=2.0, now=office.now)
        assert office.labellings.said(conn, "p", "e7") == []
    assert office.take("ann", 2) == ["e7", "e0"]


def test_golden_examples_are_a_share_of_the_tasks_and_each_is_met_once(office: Office):
    with office.db.begin() as conn:
        office.labellings.make_golden(conn, "p", {"e8": "a", "e9": "b"})
    assert office.reservoir.num_waiting("p") == 8
    met = office.take("ann", 4, golden=0.25)
    assert len(set(met)) == 4
    assert len(set(met) & {"e8", "e9"}) == 1
    for id_ in met:
        golden = id_ in ("e8", "e9")
        assert office.say("ann", id_) != golden  # a golden example only measures
        if not golden:
            office.settle(id_)
    assert set(office.take("ann", 4, golden=0.25)) & {"e8", "e9"} == {"e8", "e9"} - set(met)


def test_answers_are_kept_with_what_is_known(office: Office):
    with office.db.begin() as conn:
        office.labellings.make_golden(conn, "p", {"e9": "b"})
    office.say("ann", "e9", "a")
    office.now += HOUR
    office.say("bob", "e0", "a")
    said = [(one.labeller, one.example, one.label, one.known) for one in office.labellings.answers("p")]
    assert said == [("ann", "e9", "a", "b"), ("bob", "e0", "a", None)]
