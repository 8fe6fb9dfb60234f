"""A running loop goes on with a changed project file; one that is wrong changes nothing, and is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
from harness import Harness, edit, running, save

from tidemill.stores.audit import Audit

Make = Callable[..., Harness]
FIRES = 'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'
HELD = {FIRES: "trigger=tm.trigger.Manual()"}
COHORTS = """cohorts={"old_app": "app = 'v1'", """
ADDED = """projections={"is_far": is_far}, cohorts={"far": "is_far", "old_app": "app = 'v1'", """
FUNCTION = "def is_far(row):\n    return abs(row['x']) + abs(row['y']) > 1.5\n\nproject = "


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name in ("waves_project", "beside"):
            del sys.modules[name]


def test_what_is_added_to_a_running_project_is_computed_over_the_old_log(harness: Make) -> None:
    h = running(harness(edit=HELD))
    h.accuracy, h.new_share = {(1, "v2"): 0.4}, 0.6
    h.seconds(25)
    engine = h.engine
    alert = 'alerts=[tm.alert.Below("accuracy", 0.8, cohort="new_app")],\n    strategy=tm.Strategy('
    edit(h, {COHORTS: ADDED, "project = ": FUNCTION, "strategy=tm.Strategy(": alert})
    h.rate = 0  # nothing new comes
    h.seconds(3)
    assert h.engine is engine and engine is not None
    assert set(engine.world.project.cohorts) == {"far", "old_app", "new_app"}
    (one,) = h.app.world.alerts.standing(h.name)
    assert "accuracy in cohort new_app is" in one.verdict.reason
    assert one.verdict.numbers["outcomes"] > 100  # type: ignore[operator]


def test_an_alert_that_is_added_later_sees_what_the_others_have_seen(harness: Make) -> None:
    one = 'alerts=[tm.alert.Falls("accuracy", drop=0.9)],\n    strategy=tm.Strategy('
    h = running(harness(edit={**HELD, "strategy=tm.Strategy(": one}))
    h.accuracy, h.new_share = {(1, "v2"): 0.4}, 0.6
    h.seconds(25)
    h.rate = 0
    edit(h, {"alerts=[": 'alerts=[tm.alert.Below("accuracy", 0.8, cohort="new_app"), '})
    h.seconds(3)
    assert [one.cohort for one in h.app.world.alerts.standing(h.name)] == ["new_app"]


def test_a_new_strategy_is_in_force_and_in_the_history(harness: Make) -> None:
    h = running(harness(edit=HELD))
    edit(h, {"tm.trigger.Manual()": 'tm.trigger.Every("1s")'})
    h.seconds(3)
    assert [s.number for s in h.app.world.catalog.strategies(h.name)] == [1, 2]
    taken, first = Audit(h.app.db).acts(h.name)
    assert (taken.verb, taken.thing, taken.by, taken.via) == ("publish", "strategy 2", "the loop", "loop")
    assert (first.verb, first.thing, first.by) == ("publish", "strategy 1", "nobody named")
    assert h.app.world.journal.cycle(h.name) is not None or h.outcomes()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("project = tm.Project(", "project = tm.Project((", "SyntaxError"),
        ("app = 'v2'", "ap = 'v2'", "cohort 'new_app'"),
        ('name="waves"', 'name="tides"', "the file now declares 'tides', not 'waves'"),
        ("import tidemill as tm", "import tidemill as tm\nraise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_wrong_file_changes_nothing_and_is_shown_until_it_is_mended(
    harness: Make, old: str, new: str, said: str
) -> None:
    h = running(harness(edit=HELD))
    assert h.engine is not None
    at_work = h.engine.world.project
    before = edit(h, {old: new})
    h.seconds(4)
    assert h.engine.world.project is at_work
    trouble = h.app.status().trouble["project"]
    assert said in trouble["error"] and trouble["times"] == 1, "one word for each content"
    save(h.folder / "waves_project.py", before.replace("app = 'v2'", "app >= 'v2'"))
    h.seconds(2)
    assert h.engine.world.project.cohorts["new_app"] == "app >= 'v2'"
    assert h.app.status().trouble == {}


def test_a_wrong_file_that_goes_back_to_what_it_was_is_no_trouble(harness: Make) -> None:
    h = running(harness(edit=HELD))
    file = h.folder / "waves_project.py"
    about, before = file.stat(), edit(h, {"project = tm.Project(": "project = "})
    h.seconds(2)
    assert "project" in h.app.status().trouble
    save(file, before)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    h.seconds(2)
    assert h.app.status().trouble == {}


def test_what_lies_beside_the_file_is_read_anew_too(harness: Make) -> None:
    imported = {COHORTS: "cohorts={**COHORTS, ", "project = ": "from beside import COHORTS\n\nproject = "}
    h = harness(edit={**HELD, **imported}, beside={"beside.py": "COHORTS = {'near': 'x < 1'}\n"})
    running(h)
    assert h.engine is not None
    assert h.engine.world.project.cohorts["near"] == "x < 1"
    save(h.folder / "beside.py", "COHORTS = {'near': 'x < 2'}\n")
    h.seconds(2)
    assert h.engine.world.project.cohorts["near"] == "x < 2"
    save(h.folder / "beside.py", "COHORTS = {'near': 'x < 3'")
    h.seconds(2)
    assert h.engine.world.project.cohorts["near"] == "x < 2"
    assert "SyntaxError" in h.app.status().trouble["project"]["error"]
    assert sys.modules["beside"].COHORTS == {"near": "x < 2"}


def test_a_file_that_is_gone_for_a_moment_is_waited_for(harness: Make) -> None:
    h = running(harness(edit=HELD))
    file = h.folder / "waves_project.py"
    text = file.read_text()
    file.unlink()
    h.turn()
    file.write_text(text.replace("app = 'v2'", "app >= 'v2'"))
    h.seconds(2)
    assert h.engine is not None
    assert h.engine.world.project.cohorts["new_app"] == "app >= 'v2'"
    assert h.app.status().trouble == {}
