"""A change of a route is told at once on PostgreSQL; on SQLite nothing is told, and nothing goes wrong."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tidemill.records import ModelVersion, Route
from tidemill.stores import listener
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
from tidemill.stores.listener import Listener


class Ear:
    """Counts how often it was woken."""

    def __init__(self) -> None:
        self.count, self._woken = 0, threading.Event()

    def wake(self) -> None:
        self.count += 1
        self._woken.set()

    def wait(self, seconds: float = 5.0) -> bool:
        woken = self._woken.wait(seconds)
        self._woken.clear()
        return woken


@pytest.fixture
def catalog(database: Database, noon: datetime) -> Catalog:
    """A catalog with a project that has a version."""
    catalog = Catalog(database)
    version = ModelVersion(
        version=0, artefact="a", created_at=noon, dataset=None, strategy="s", parent=None, cycle=None, run="r"
    )
    with database.begin() as conn:
        catalog.publish(conn, {"project": "shop"}, {}, file="/p.py", now=noon)
        catalog.add_model(conn, "shop", version)
    return catalog


@pytest.fixture
def ear(postgres_url: str) -> Iterator[Ear]:
    """Somebody who listens to the database of the test, from another set of connections."""
    with Database.open(postgres_url) as other:
        ear = Ear()
        listening = Listener(other, ear.wake)
        listening.start()
        assert ear.wait()  # once when it begins, for what was told before
        yield ear
        listening.stop()


def set_route(catalog: Catalog, database: Database, now: datetime) -> Route:
    before = catalog.route("shop")
    route = Route(revision=before.revision if before else 0, stable=1, rollout="r-1")
    with database.begin() as conn:
        return catalog.set_route(conn, "shop", route, now=now, by="test", reason="")


on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@on_postgresql
def test_a_new_route_and_a_renewed_one_are_heard_at_once(
    catalog: Catalog, database: Database, ear: Ear, noon: datetime
) -> None:
    began = time.monotonic()
    set_route(catalog, database, noon)
    assert ear.wait()
    with database.begin() as conn:
        assert catalog.renew(conn, "shop", "r-1", noon + timedelta(seconds=9))
    assert ear.wait()
    assert time.monotonic() - began < 2.0


@on_postgresql
def test_what_is_not_committed_is_not_heard(catalog: Catalog, database: Database, ear: Ear, noon: datetime) -> None:
    with pytest.raises(KeyError), database.begin() as conn:
        catalog.set_route(conn, "shop", Route(revision=0, stable=1), now=noon, by="test", reason="")
        raise KeyError("stop")
    assert not ear.wait(0.3)


@on_postgresql
def test_who_was_cut_off_listens_again_and_looks_at_what_it_missed(
    catalog: Catalog, database: Database, ear: Ear, noon: datetime, postgres: Any, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(listener, "_AGAIN_S", 0.1)
    with caplog.at_level(logging.WARNING):
        postgres.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        assert ear.wait()
    assert [(r.name, r.exc_info) for r in caplog.records] == [("tidemill.stores.listener", None)], "one line, no trace"
    assert "changes of routes are not told for 0.1 s" in caplog.text and "\n" not in caplog.records[0].getMessage()
    set_route(catalog, database, noon)
    assert ear.wait()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_on_sqlite_nothing_is_told(catalog: Catalog, database: Database, noon: datetime) -> None:
    ear = Ear()
    listening = Listener(database, ear.wake)
    listening.start()
    set_route(catalog, database, noon)
    assert not ear.wait(0.2)
    listening.stop()
