"""The catalog remembers what is declared, what was trained and who answers; a route changes by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tidemill.errors import Conflict, StoreError
from tidemill.policy import Policy
from tidemill.records import ModelVersion, Route
from tidemill.stores.catalog import Catalog, RouteChange
from tidemill.stores.database import Database

HOUR = timedelta(hours=1)
FRESH = count()  # of project names, where one database serves many examples


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database)


def publish(catalog: Catalog, database: Database, now: datetime, project: str = "shop", strategy: Any = None) -> int:
    with database.begin() as conn:
        manifest = {"project": project, "schema": {"ü": 1}}
        return catalog.publish(conn, manifest, strategy or {"log": "everything"}, file="/p.py", now=now)


def model(run: str, now: datetime, **given: Any) -> ModelVersion:
    facts = {"artefact": "a" * 64, "dataset": None, "strategy": "s", "parent": None, "cycle": None, **given}
    return ModelVersion(version=0, run=run, created_at=now, **facts)


@pytest.fixture
def with_models(catalog: Catalog, database: Database, noon: datetime) -> Catalog:
    """The catalog with project `shop` and its versions 1 to 3."""
    publish(catalog, database, noon)
    with database.begin() as conn:
        for run in "abc":
            catalog.add_model(conn, "shop", model(run, noon))
        catalog.add_policy(conn, "shop", Policy(abstain_below=0.5), now=noon, by="ann", reason="")
    return catalog


def set_route(catalog: Catalog, database: Database, route: Route, now: datetime, project: str = "shop") -> Route:
    with database.begin() as conn:
        return catalog.set_route(conn, project, route, now=now, by="ann", reason="because")


# Projects and strategies


def test_a_published_manifest_comes_back_and_the_newest_is_in_force(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    publish(catalog, database, noon)
    publish(catalog, database, noon, project="able")
    with database.begin() as conn:
        catalog.publish(conn, {"project": "shop", "schema": 2}, {}, file="/p.py", now=noon)
    assert catalog.projects() == ["able", "shop"]
    assert catalog.manifest("shop") == {"project": "shop", "schema": 2}


def test_a_secret_is_made_once_and_differs_between_projects(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    publish(catalog, database, noon)
    first = catalog.secret("shop")
    publish(catalog, database, noon, strategy={"changed": True})
    publish(catalog, database, noon, project="other")
    assert catalog.secret("shop") == first
    assert len(first) == 32
    assert catalog.secret("other") != first


def test_an_unknown_project_is_refused_with_the_ones_there_are(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    publish(catalog, database, noon)
    for ask in (catalog.manifest, catalog.secret, catalog.paused_at):
        with pytest.raises(StoreError, match=r"no project 'shpo' is published here; there is 'shop'.*tidemill check"):
            ask("shpo")


def test_strategies_are_numbered_once_each_and_the_last_is_the_one_in_force(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    bodies = [{"drop": 1}, {"drop": 1}, {"drop": 2}, {"drop": 1}]
    numbers = [publish(catalog, database, noon + i * HOUR, strategy=body) for i, body in enumerate(bodies)]
    assert numbers == [1, 1, 2, 1]
    assert [(s.number, s.body, s.since) for s in catalog.strategies("shop")] == [
        (2, {"drop": 2}, noon + 2 * HOUR),
        (1, {"drop": 1}, noon + 3 * HOUR),
    ]
    assert [(s.number, s.since) for s in catalog.strategy_spells("shop")] == [
        (1, noon), (2, noon + 2 * HOUR), (1, noon + 3 * HOUR),
    ]  # fmt: skip


def test_publishing_the_strategy_in_force_again_does_not_move_its_time(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    for hours in range(3):
        publish(catalog, database, noon + hours * HOUR)
    assert [s.since for s in catalog.strategies("shop")] == [noon]


def test_a_pause_has_a_start_and_an_end(catalog: Catalog, database: Database, noon: datetime) -> None:
    publish(catalog, database, noon)
    said = [catalog.paused_at("shop")]
    for at in (noon, None):
        with database.begin() as conn:
            catalog.pause(conn, "shop", at)
        said.append(catalog.paused_at("shop"))
    assert said == [None, noon, None]
    with pytest.raises(StoreError, match="no project 'other'"), database.begin() as conn:
        catalog.pause(conn, "other", noon)


# Models, runs, reports


def test_versions_count_from_one_within_their_project(with_models: Catalog, database: Database, noon: datetime) -> None:
    publish(with_models, database, noon, project="other")
    with database.begin() as conn:
        assert with_models.add_model(conn, "other", model("a", noon)) == 1
    assert [m.version for m in with_models.models("shop")] == [1, 2, 3]


def test_a_model_comes_back_as_it_was_registered(with_models: Catalog, database: Database, noon: datetime) -> None:
    given = model("r9", noon, dataset="d" * 64, parent=2, cycle=7, status="ready")
    with database.begin() as conn:
        version = with_models.add_model(conn, "shop", given)
    assert with_models.model("shop", version) == replace(given, version=version)


def test_registering_the_model_of_a_run_again_finds_the_first(
    with_models: Catalog, database: Database, noon: datetime
) -> None:
    """As a loop does that was killed between registering a model and noting that it had."""
    with database.begin() as conn:
        assert with_models.add_model(conn, "shop", model("b", noon, artefact="b" * 64)) == 2
    assert [m.artefact for m in with_models.models("shop")] == ["a" * 64] * 3


def test_models_registered_at_the_same_time_get_numbers_without_gaps(
    with_models: Catalog, database: Database, noon: datetime
) -> None:
    def register(run: int) -> int:
        with database.begin() as conn:
            return with_models.add_model(conn, "shop", model(f"r{run // 2}", noon))  # each run twice

    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(register, range(12)))
    assert sorted(versions) == [v for v in range(4, 10) for _ in "ab"]
    assert versions[::2] == versions[1::2]


def test_a_status_is_set_on_one_version(with_models: Catalog, database: Database) -> None:
    with database.begin() as conn:
        with_models.set_status(conn, "shop", 2, "live")
    assert [m.status for m in with_models.models("shop")] == ["ready", "live", "ready"]


def test_a_version_that_is_not_there_is_named(with_models: Catalog, database: Database, noon: datetime) -> None:
    with pytest.raises(StoreError, match="project 'shop' has no version 9"):
        with_models.model("shop", 9)
    with pytest.raises(StoreError, match="project 'shop' has no version 9"), database.begin() as conn:
        with_models.set_status(conn, "shop", 9, "live")
    with pytest.raises(StoreError, match="no project 'other'"), database.begin() as conn:
        with_models.add_model(conn, "other", model("a", noon))


def test_a_run_keeps_what_went_in_and_what_came_out(catalog: Catalog, database: Database, noon: datetime) -> None:
    with database.begin() as conn:
        catalog.start_run(conn, "shop", "r1", 4, {"lr": 0.1}, noon)
    [running] = catalog.runs("shop")
    assert (running.status, running.ended_at, running.cycle) == ("running", None, 4)
    with database.begin() as conn:
        catalog.end_run(conn, "shop", "r1", "done", {"loss": 0.5}, noon + HOUR)
    [ended] = catalog.runs("shop")
    assert (ended.status, ended.started_at, ended.ended_at) == ("done", noon, noon + HOUR)
    assert ended.body == {"lr": 0.1, "loss": 0.5}


def test_a_run_that_is_done_or_goes_on_starts_and_ends_once(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    with database.begin() as conn:
        catalog.start_run(conn, "shop", "r1", None, {"lr": 0.1}, noon)
        catalog.start_run(conn, "shop", "r1", 8, {"lr": 8}, noon + HOUR)
        catalog.end_run(conn, "shop", "r1", "done", {"loss": 0.5}, noon)
        catalog.start_run(conn, "shop", "r1", 9, {"lr": 9}, noon + HOUR)
        catalog.end_run(conn, "shop", "r1", "failed", {"why": ""}, noon + HOUR)
    [run] = catalog.runs("shop")
    assert (run.status, run.cycle, run.started_at, run.ended_at) == ("done", None, noon, noon)
    assert run.body == {"lr": 0.1, "loss": 0.5}
    with pytest.raises(StoreError, match="project 'shop' has no run 'r2'"), database.begin() as conn:
        catalog.end_run(conn, "shop", "r2", "done", {}, noon)


def test_a_run_that_failed_and_is_started_again_runs_and_ends_anew(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    """As a training by hand does, whose name is made of what it learns from."""
    with database.begin() as conn:
        for run in ("r1", "r2"):
            catalog.start_run(conn, "shop", run, None, {"lr": 0.1}, noon)
            catalog.end_run(conn, "shop", run, "failed", {"error": "hung"}, noon)
        catalog.start_run(conn, "shop", "r1", None, {"lr": 0.1}, noon + HOUR)
    other, again = catalog.runs("shop")
    assert (again.run, again.status, again.started_at, again.ended_at) == ("r1", "running", noon + HOUR, None)
    assert again.body == {"lr": 0.1}
    assert (other.run, other.status, other.ended_at) == ("r2", "failed", noon)
    with database.begin() as conn:
        catalog.end_run(conn, "shop", "r1", "done", {"loss": 0.5}, noon + 2 * HOUR)
    ended = catalog.run("shop", "r1")
    assert ended is not None and (ended.status, ended.ended_at) == ("done", noon + 2 * HOUR)


def test_the_artefacts_that_versions_have_now_are_told_but_not_those_that_were_deleted(
    with_models: Catalog, database: Database, noon: datetime
) -> None:
    publish(with_models, database, noon, project="other")
    with database.begin() as conn:
        with_models.add_model(conn, "other", model("a", noon, artefact="c" * 64))
        with_models.add_model(conn, "shop", model("d", noon, artefact="d" * 64))
        with_models.replace_artefact(conn, "shop", "d" * 64, "e" * 64)
        with_models.retire(conn, "shop", [2], now=noon)
    assert with_models.digests("shop", [1, 2, 4, 9]) == {1: "a" * 64, 4: "e" * 64}


def test_the_newest_report_about_a_version_counts(catalog: Catalog, database: Database, noon: datetime) -> None:
    assert catalog.report("shop", 1) is None
    with database.begin() as conn:
        catalog.add_report(conn, "shop", 1, {"cells": [1]}, noon)
        catalog.add_report(conn, "shop", 2, {"cells": [2]}, noon)
        catalog.add_report(conn, "shop", 1, {"cells": [3]}, noon)
    assert [catalog.report("shop", v) for v in (1, 2)] == [{"cells": [3]}, {"cells": [2]}]


# Routes


def test_a_project_has_no_route_before_the_first(with_models: Catalog) -> None:
    assert with_models.route("shop") is None
    assert with_models.history("shop") == []


def test_a_route_comes_back_whole_at_the_next_revision(
    with_models: Catalog, database: Database, noon: datetime
) -> None:
    wanted = Route(
        revision=0, stable=1, fallback=1, candidate=2, share=0.05, salt="abc", rollout="c1",
        shadows=(3,), lapses_at=noon + HOUR, policy_version=2,
    )  # fmt: skip
    new = set_route(with_models, database, wanted, noon)
    assert new == replace(wanted, revision=1)
    assert with_models.route("shop") == new
    assert with_models.history("shop") == [RouteChange(route=new, at=noon, by="ann", reason="because")]


@pytest.mark.parametrize("revision", [0, 1, 3])
def test_a_route_decided_on_another_revision_is_a_conflict_that_changes_nothing(
    with_models: Catalog, database: Database, noon: datetime, revision: int
) -> None:
    for at in range(2):
        set_route(with_models, database, Route(revision=at, stable=1), noon)
    before = with_models.history("shop")
    said = f"route of project 'shop' is at revision 2, not {revision}. Next: read it again and decide anew"
    with pytest.raises(Conflict) as raised:
        set_route(with_models, database, Route(revision=revision, stable=2), noon)
    assert str(raised.value) == said
    assert with_models.history("shop") == before


@pytest.mark.parametrize("change", [{"stable": 9}, {"candidate": 9}, {"fallback": 9}, {"shadows": (2, 9)}])
def test_a_route_never_names_a_version_that_is_not_there(
    with_models: Catalog, database: Database, noon: datetime, change: dict[str, Any]
) -> None:
    with pytest.raises(StoreError, match="project 'shop' has no version 9"):
        set_route(with_models, database, replace(Route(revision=0, stable=1), **change), noon)
    assert with_models.route("shop") is None


RACER = """
import sys
from datetime import datetime, UTC
from tidemill.errors import Conflict
from tidemill.records import Route
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database
database = Database.open(sys.argv[1])
catalog, now = Catalog(database), datetime(2026, 3, 1, tzinfo=UTC)
print("ready", flush=True)
for line in sys.stdin:
    try:
        with database.begin() as conn:
            new = catalog.set_route(
                conn, "shop", Route(revision=int(line), stable=1), now=now, by=sys.argv[2], reason="race"
            )
        print("won", new.revision, flush=True)
    except Conflict:
        print("conflict", flush=True)
"""


def test_of_two_processes_that_change_the_same_revision_exactly_one_wins(
    with_models: Catalog, database_url: str, start_child: Callable[..., Any]
) -> None:
    racers = {name: start_child(RACER, database_url, name) for name in ("loop", "operator")}
    assert [racer.hear() for racer in racers.values()] == ["ready", "ready"]
    winners = []
    for revision in range(30):
        for racer in racers.values():
            racer.tell(str(revision))
        said = {name: racer.hear() for name, racer in racers.items()}
        assert sorted(said.values()) == ["conflict", f"won {revision + 1}"]
        winners.append(next(name for name, words in said.items() if words != "conflict"))
    assert [change.by for change in with_models.history("shop")] == winners
    assert [change.route.revision for change in with_models.history("shop")] == list(range(1, 31))


def test_a_rollout_that_is_watched_lasts_without_a_new_revision(
    with_models: Catalog, database: Database, noon: datetime
) -> None:
    route = Route(revision=0, stable=1, candidate=2, share=0.5, rollout="c1", lapses_at=noon)
    set_route(with_models, database, route, noon)
    with database.begin() as conn:
        assert with_models.renew(conn, "shop", "c1", noon + HOUR) is True
    assert with_models.route("shop") == replace(route, revision=1, lapses_at=noon + HOUR)


def test_a_rollout_that_was_rolled_back_cannot_be_renewed(
    with_models: Catalog, database: Database, noon: datetime
) -> None:
    with database.begin() as conn:
        assert with_models.renew(conn, "shop", "c1", noon + HOUR) is False
    set_route(with_models, database, Route(revision=0, stable=1, candidate=2, rollout="c1", lapses_at=noon), noon)
    back = set_route(with_models, database, Route(revision=1, stable=1), noon)
    with database.begin() as conn:
        assert with_models.renew(conn, "shop", "c1", noon + HOUR) is False
    assert with_models.route("shop") == back
    assert [change.route.lapses_at for change in with_models.history("shop")] == [noon, None]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attempts=st.lists(st.tuples(st.integers(-1, 1), st.sampled_from([1, 2, 9])), max_size=8))
def test_the_history_is_the_accepted_changes_in_order(
    catalog: Catalog, database: Database, noon: datetime, attempts: list[tuple[int, int]]
) -> None:
    project = f"p{next(FRESH)}"
    publish(catalog, database, noon, project=project)
    with database.begin() as conn:
        for run in "ab":
            catalog.add_model(conn, project, model(run, noon))
    accepted: list[int] = []
    for offset, stable in attempts:
        route = Route(revision=len(accepted) + offset, stable=stable)
        if offset == 0 and stable != 9:
            set_route(catalog, database, route, noon, project)
            accepted.append(stable)
        else:
            with pytest.raises(StoreError):
                set_route(catalog, database, route, noon, project)
    assert [c.route for c in catalog.history(project)] == [
        Route(revision=i, stable=stable) for i, stable in enumerate(accepted, 1)
    ]


def test_the_writes_of_one_step_are_one_transaction(with_models: Catalog, database: Database, noon: datetime) -> None:
    def step(conn: Connection) -> None:
        with_models.set_status(conn, "shop", 1, "live")
        with_models.add_model(conn, "shop", model("new", noon))
        with_models.set_route(conn, "shop", Route(revision=5, stable=1), now=noon, by="loop", reason="")

    with pytest.raises(Conflict), database.begin() as conn:
        step(conn)
    assert [(m.version, m.status) for m in with_models.models("shop")] == [(v, "ready") for v in (1, 2, 3)]
