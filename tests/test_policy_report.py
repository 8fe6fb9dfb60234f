"""Reports judge a version's scores as users would get them decided: by the policy in force."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.app import App
from tidemill.errors import ProjectError, StoreError
from tidemill.loop.evaluate import evaluate
from tidemill.policy import Policy


@pytest.fixture
def app(digits_home: Path, tmp_path: Path) -> Iterator[App]:
    copy = shutil.copytree(digits_home, tmp_path / "mine")
    opened = App.open(str(copy / "project.py"), copy / ".tidemill")
    yield opened
    opened.close()


def accuracy(app: App) -> float:
    world = app.world
    report = evaluate(world, candidate=1, live=None, dataset=world.catalog.model(app.name, 1).dataset)
    (cell,) = [cell for cell in report.cells if (cell.metric, cell.cohort) == ("accuracy", "all")]
    assert cell.candidate is not None
    return cell.candidate


def test_a_class_that_is_out_of_reach_costs_its_accuracy_until_the_policy_is_taken_back(app: App) -> None:
    before = accuracy(app)
    assert before > 0.7
    never = Policy(thresholds=dict.fromkeys(map(str, range(5)), 1.1))
    made = app.set_policy(never, by="ann", reason="a try")
    assert (made.number, made.by, made.reason) == (2, "ann", "a try")
    assert accuracy(app) < before - 0.2
    route = app.use_policy(1, by="bob", reason="it was worse")
    assert (route.stable, route.policy_version) == (1, 1)
    assert accuracy(app) == before
    said = [(change.by, change.reason) for change in app.world.catalog.history(app.name)]
    assert said[-2:] == [("ann", "policy 2: a try"), ("bob", "policy 1: it was worse")]


def test_a_policy_that_does_not_fit_is_neither_kept_nor_used(app: App) -> None:
    with pytest.raises(ProjectError, match="no class"):
        app.set_policy(Policy(thresholds={"ten": 0.5}), by="ann", reason="")
    with pytest.raises(StoreError, match="no policy 2"):
        app.use_policy(2, by="ann", reason="")
    assert len(app.world.catalog.policies(app.name)) == 1
    assert len(app.world.catalog.history(app.name)) == 1


def test_a_rollback_and_a_promotion_leave_the_policy_in_force(app: App) -> None:
    app.set_policy(Policy(top=3), by="ann", reason="")
    assert app.promote_now(1, by="ann", reason="").policy_version == 2
