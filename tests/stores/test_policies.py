"""Policies are kept by number; the route says which is in force, and a new declaration is a new version."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tidemill.errors import Conflict, StoreError
from tidemill.policy import Policy
from tidemill.records import ModelVersion, Route
from tidemill.stores.catalog import Catalog
from tidemill.stores.database import Database

UNSURE = Policy(abstain_below=0.6, thresholds={"toxic": 0.8})


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database)


def publish(catalog: Catalog, database: Database, now: datetime, **manifest: Any) -> None:
    with database.begin() as conn:
        catalog.publish(conn, {"project": "shop", **manifest}, {}, file="/p.py", now=now)


def add(catalog: Catalog, database: Database, policy: Policy, now: datetime) -> int:
    with database.begin() as conn:
        return catalog.add_policy(conn, "shop", policy, now=now, by="ann", reason="too many").number


def route(catalog: Catalog, database: Database, route: Route, now: datetime) -> Route:
    with database.begin() as conn:
        if not catalog.models("shop"):
            facts = {"artefact": "a" * 64, "dataset": None, "strategy": "", "parent": None, "cycle": None, "run": "r"}
            catalog.add_model(conn, "shop", ModelVersion(version=0, created_at=now, **facts))
        return catalog.set_route(conn, "shop", route, now=now, by="ann", reason="too many")


def test_what_a_project_declares_first_is_its_policy_1(catalog: Catalog, database: Database, noon: datetime) -> None:
    publish(catalog, database, noon, policy=UNSURE.to_json())
    [first] = catalog.policies("shop")
    assert (first.number, first.policy, first.at, first.by) == (1, UNSURE, noon, "project file")
    assert catalog.policy_in_force("shop") == first


def test_a_manifest_of_before_declares_a_level_alone(catalog: Catalog, database: Database, noon: datetime) -> None:
    publish(catalog, database, noon, abstain_below=0.6)
    publish(catalog, database, noon, policy=Policy(abstain_below=0.6).to_json())
    assert [v.policy for v in catalog.policies("shop")] == [Policy(abstain_below=0.6)]


def test_policies_are_numbered_and_the_route_names_the_one_in_force(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    publish(catalog, database, noon)
    first = route(catalog, database, Route(revision=0, stable=1), noon)
    assert add(catalog, database, UNSURE, noon) == 2
    assert catalog.policy_in_force("shop").number == 1
    route(catalog, database, replace(first, policy_version=2), noon)
    in_force = catalog.policy_in_force("shop")
    assert (in_force.number, in_force.policy, in_force.by, in_force.reason) == (2, UNSURE, "ann", "too many")
    assert catalog.policy("shop", 1) == Policy()


def test_a_route_never_names_a_policy_that_is_not_there(catalog: Catalog, database: Database, noon: datetime) -> None:
    publish(catalog, database, noon)
    with pytest.raises(StoreError, match="project 'shop' has no policy 7"):
        route(catalog, database, Route(revision=0, stable=1, policy_version=7), noon)
    with pytest.raises(StoreError, match="has no policy 7"):
        catalog.policy("shop", 7)


def test_a_change_decided_on_another_revision_changes_nothing(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    publish(catalog, database, noon)
    old = route(catalog, database, Route(revision=0, stable=1), noon)
    route(catalog, database, old, noon)
    add(catalog, database, UNSURE, noon)
    with pytest.raises(Conflict):
        route(catalog, database, replace(old, policy_version=2), noon)
    assert catalog.policy_in_force("shop").number == 1


def test_publishing_the_same_again_leaves_what_people_set_and_another_declaration_does_not(
    catalog: Catalog, database: Database, noon: datetime
) -> None:
    publish(catalog, database, noon)
    first = route(catalog, database, Route(revision=0, stable=1, shadows=()), noon)
    add(catalog, database, UNSURE, noon)
    route(catalog, database, replace(first, policy_version=2), noon)
    publish(catalog, database, noon, unit="user")
    assert catalog.policy_in_force("shop").number == 2
    publish(catalog, database, noon, unit="user", policy={"abstain_below": 0.5})
    in_force = catalog.policy_in_force("shop")
    assert (in_force.number, in_force.policy) == (3, Policy(abstain_below=0.5))
    change = catalog.history("shop")[-1]
    assert (change.by, change.reason) == ("project file", "policy 3: declared otherwise")


def test_nobody_has_a_policy_without_a_project(catalog: Catalog) -> None:
    with pytest.raises(StoreError, match="no project 'shop' is published"):
        catalog.policy_in_force("shop")
