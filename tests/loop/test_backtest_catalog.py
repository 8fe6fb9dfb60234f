"""The catalog and the journal of a backtest answer as those in a database do, whatever is written into both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backtests import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import Conflict, StoreError, TidemillError
from tidemill.loop.backtest.catalog import MemoryCatalog
from tidemill.loop.backtest.journal import MemoryJournal
from tidemill.policy import Policy
from tidemill.records import ModelVersion, Outcome, Route, Verdict
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.journal import Journal
from tidemill.stores.memory import MemoryDatabase

NAME = PROJECT.name
START = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = Policy(abstain_below=0.5)


class Pair:
    """The stores in a database, and those in memory; what is done is done to both."""

    def __init__(self) -> None:
        self.databases: list[Database] = [MemoryDatabase(), MemoryDatabase()]
        self.catalogs = [Catalog(self.databases[0]), MemoryCatalog(self.databases[1])]
        self.journals = [Journal(self.databases[0]), MemoryJournal(self.databases[1])]
        manifest, strategy = PROJECT.compile().to_json(), PROJECT.strategy.to_json()
        self.write(lambda conn, c, _: c.publish(conn, manifest, strategy, file="", now=START))

    def write(self, do: Callable[[Any, Catalog, Journal], object]) -> None:
        """Do something in both, each in a transaction: both give the same, or refuse with the same words."""
        first, second = (self._done(at, do) for at in range(2))
        assert first == second

    def _done(self, at: int, do: Callable[[Any, Catalog, Journal], object]) -> object:
        try:
            with self.databases[at].begin() as conn:
                return do(conn, self.catalogs[at], self.journals[at])
        except TidemillError as error:
            return type(error), error.message, error.hint

    def said(self, at: int) -> list[object]:
        """Return everything that one of them tells."""
        catalog, journal = self.catalogs[at], self.journals[at]
        models = catalog.models(NAME)
        return [
            models, [catalog.model(NAME, m.version) for m in models], [catalog.report(NAME, v) for v in range(4)],
            catalog.reported(NAME), catalog.runs(NAME), catalog.run(NAME, "run-1"), catalog.route(NAME),
            catalog.history(NAME), catalog.policies(NAME), catalog.policy_in_force(NAME), catalog.is_named("a-1"),
            journal.cycle(NAME), journal.cycles(NAME), journal.verdicts(NAME), journal.verdicts(NAME, cycle=1),
            journal.verdicts(NAME, limit=2), [journal.state(NAME, name) for name in "ab"],
            [journal.step(NAME, number, name) for number in (1, 2) for name in "ab"],
        ]  # fmt: skip

    def close(self) -> None:
        for database in self.databases:
            database.close()


def verdict(number: int) -> Verdict:
    part = Verdict(outcome=Outcome.UNKNOWN, by="part", reason="who knows", numbers={"high": float("inf")})
    return Verdict(outcome=Outcome.FIRE, by="it", reason=f"{number}", numbers={"pair": (number, None)}, parts=(part,))


def model(run: int) -> ModelVersion:
    return ModelVersion(
        version=0, artefact=f"a-{run}", created_at=START, dataset="d", strategy="s", parent=run or None, cycle=run,
        run=f"run-{run}",
    )  # fmt: skip


VERBS: dict[str, Callable[[Any, Catalog, Journal, int, datetime], object]] = {
    "add model": lambda conn, c, _, n, now: c.add_model(conn, NAME, model(n)),
    "status": lambda conn, c, _, n, now: c.set_status(conn, NAME, n, "live"),
    "start": lambda conn, c, _, n, now: c.start_run(conn, NAME, f"run-{n}", n, {"n": n, "given": [n]}, now),
    "end": lambda conn, c, _, n, now: c.end_run(conn, NAME, f"run-{n}", "done", {"n": -n, "got": (1, 2)}, now),
    "fail": lambda conn, c, _, n, now: c.end_run(conn, NAME, f"run-{n}", "failed", {"error": "no"}, now),
    "report": lambda conn, c, _, n, now: c.add_report(conn, NAME, n, {"cells": (n, 0.1)}, now),
    "replace": lambda conn, c, _, n, now: c.replace_artefact(conn, NAME, f"a-{n}", "a-9"),
    "retire": lambda conn, c, _, n, now: (c.retire(conn, NAME, [n], now=now), c.artefacts(conn)),
    "policy": lambda conn, c, _, n, now: c.add_policy(conn, NAME, LIMIT, now=now, by="ann", reason=str(n)),
    "route": lambda conn, c, _, n, now: c.set_route(
        conn, NAME, Route(revision=n, stable=1, shadows=(n,) if n else (), share=0.1), now=now, by="loop", reason="so"
    ),
    "open": lambda conn, _, j, n, now: j.open_cycle(conn, NAME, trigger=verdict(n), strategy="s", step="form", now=now),
    "move": lambda conn, _, j, n, now: j.move(conn, NAME, n, step="train", candidate=n if n > 1 else None),
    "close": lambda conn, _, j, n, now: j.close_cycle(conn, NAME, n, outcome="failed", reason="it", now=now),
    "record": lambda conn, _, j, n, now: j.record(conn, NAME, n, "a", {"at": n, "pair": (1, 2)}, now),
    "verdict": lambda conn, _, j, n, now: j.add_verdict(conn, NAME, verdict(n), cycle=n or None, step="it", now=now),
    "state": lambda conn, _, j, n, now: j.put_state(conn, NAME, "ab"[n % 2], {"n": n, "pair": (1, 2)}, now),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(VERBS)), st.integers(0, 3)), max_size=40))
def test_both_tell_the_same_whatever_is_written(steps: list[tuple[str, int]]) -> None:
    pair = Pair()
    for at, (verb, number) in enumerate([("add model", 1), ("open", 1), *steps]):
        now = START + timedelta(microseconds=at + 1)
        pair.write(lambda conn, c, j, verb=verb, number=number, now=now: VERBS[verb](conn, c, j, number, now))
    assert pair.said(0) == pair.said(1)
    pair.close()


def test_what_is_not_there_is_named_alike() -> None:
    pair = Pair()
    asked: list[Callable[[Catalog], object]] = [lambda c: c.model(NAME, 7), lambda c: c.policy(NAME, 7)]
    for ask in asked:
        told = []
        for catalog in pair.catalogs:
            with pytest.raises(StoreError) as caught:
                ask(catalog)
            told.append((caught.value.message, caught.value.hint))
        assert told[0] == told[1]
    pair.close()


def test_a_second_cycle_is_not_opened_beside_the_first(tmp_path: Path) -> None:
    database = MemoryDatabase()
    journal = MemoryJournal(database)
    given_: dict[str, Any] = {"trigger": verdict(1), "strategy": "s", "step": "form", "now": START}
    with database.begin() as conn:
        assert journal.open_cycle(conn, NAME, **given_) == 1
        with pytest.raises(Conflict, match="cycle 1 open"):
            journal.open_cycle(conn, NAME, **given_)
    database.close()


def test_what_is_read_is_nobody_elses() -> None:
    database = MemoryDatabase()
    journal = MemoryJournal(database)
    with database.begin() as conn:
        body = {"seen": [1]}
        journal.put_state(conn, NAME, "watch", body, START)
        body["seen"].append(2)
        found = journal.state(NAME, "watch")
        assert found == {"seen": [1]}
        found["seen"].append(3)
        assert journal.state(NAME, "watch") == {"seen": [1]}
    database.close()
