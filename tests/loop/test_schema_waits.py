"""An edit of inputs or output takes effect with the first version trained on it; until then the live one goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from datetime import timedelta
from threading import Event, get_ident

import numpy as np
import polars as pl
import pytest
from harness import START, Harness, edit, running, save, table
from sqlalchemy import Connection

from tidemill.app import App
from tidemill.clock import SystemClock
from tidemill.errors import Conflict, ProjectError
from tidemill.loop.controls import Controls
from tidemill.loop.declared import publish
from tidemill.loop.first import train_next
from tidemill.loop.world import Turn
from tidemill.records import Json, Outcome, Route, Verdict
from tidemill.stores.audit import Audit
from tidemill.stores.database import Database
from tidemill.stores.tabular import examples_from

Make = Callable[..., Harness]
TIMEOUT_S = 60
INPUTS = '{"x": tm.Number(), "y": tm.Number(), "app": tm.Category(tag=True)}'
TRANSFORMS = 'transforms=[tm.transforms.Standardise("x", "y")]'
RENAMED = {
    INPUTS: '{"x": tm.Number(), "why": tm.Number(), "app": tm.Category(tag=True)}',
    TRANSFORMS: 'transforms=[tm.transforms.Standardise("x", "why")]',
}
EDITS = {
    "added": ({INPUTS: INPUTS.replace("}", ', "land": tm.Category(tag=True)}')}, "input 'land' is new"),
    "renamed": (RENAMED, "input 'why' is new, input 'y' is gone"),
    "retyped": ({'"y": tm.Number()': '"y": tm.Text()', TRANSFORMS: ""}, "input 'y' has another form"),
    "removed": ({'"y": tm.Number(), ': "", TRANSFORMS: ""}, "input 'y' is gone"),
    "relabelled": ({'["low", "high"]': '["low", "mid", "high"]'}, "the output has another form"),
}
HELD = {
    'trigger=(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")': (
        "trigger=tm.trigger.Manual()"
    )
}


@pytest.fixture
def reopened() -> Iterator[Callable[[Harness], App]]:
    """Return what opens a home as a program does that starts after the file was edited."""
    opened: list[App] = []

    def make(h: Harness) -> App:
        opened.append(App.open(str(h.folder / "waves_project.py"), h.folder / "home", clock=h.clock))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def at_the_door(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Return what is set once another thread has looked at what it needs, and waits for its turn to write."""
    reached, begin, mine = Event(), Database.begin, get_ident()

    def begun(self: Database) -> AbstractContextManager[Connection]:
        if get_ident() != mine:
            reached.set()
        return begin(self)

    monkeypatch.setattr(Database, "begin", begun)
    return reached


def manifest(h: Harness) -> Json:
    return h.app.catalog.manifest(h.name)


def sent(h: Harness) -> set[str]:
    return set(manifest(h)["schema"]["inputs"])


def made(app: App) -> int:
    """Train a version on what the file declares now."""
    rows = table(np.random.default_rng(7), 300)
    rows = rows.rename({"y": "why"}).with_columns(y=pl.col("why"), land=pl.lit("nl"))
    examples = examples_from(rows.select(*app.project.inputs, "label"), app.project.schema, now=START)
    return train_next(app.world, examples, clock=SystemClock(), progress=lambda _: None)[0]


@pytest.mark.parametrize("edited", EDITS)
def test_a_running_loop_goes_on_and_says_what_waits(harness: Make, edited: str) -> None:
    changes, said = EDITS[edited]
    h = running(harness(edit=HELD))
    assert h.engine is not None
    at_work, in_force = h.engine.world.project, manifest(h)
    before = edit(h, changes)
    h.seconds(3)
    assert h.engine.world.project is at_work
    assert manifest(h) == in_force
    waiting = h.app.waiting
    assert waiting is not None
    assert waiting.change == said
    assert "`tidemill train DATA`" in h.app.status().waits and h.app.status().trouble == {}
    save(h.folder / "waves_project.py", before.replace("app = 'v2'", "app >= 'v2'"))
    h.seconds(2)
    assert h.app.waiting is None and h.app.status().waits == ""
    assert h.engine.world.project.cohorts["new_app"] == "app >= 'v2'"


@pytest.mark.parametrize("edited", EDITS)
def test_a_program_that_starts_with_the_edited_file_leaves_in_force_what_is(
    harness: Make, reopened: Callable[[Harness], App], edited: str
) -> None:
    changes, said = EDITS[edited]
    h = running(harness(edit=HELD))
    in_force, picked = manifest(h), h.app.journal.state(h.name, "curate")
    edit(h, changes)
    app = reopened(h)
    assert app.publish(by="ann") == app.catalog.strategies(h.name)[-1].number
    assert manifest(h) == in_force
    assert said in app.status().waits
    app.ask("retrain", by="ann")
    h.engine = app.engine()
    h.seconds(12)
    assert manifest(h) == in_force
    assert h.app.journal.cycle(h.name) is None
    (command,) = app.journal.commands(h.name, 1)
    assert command.result is not None and "`tidemill train DATA`" in command.result
    assert app.journal.state(h.name, "curate") == picked, "requests wait to be picked"
    assert app.status().trouble == {}
    assert app.status().quality[0].num > 100
    looked = app.drift(period=timedelta(hours=1), min_rows=10)
    assert not looked.problem
    assert {"x", "app"} <= {column.name for column in looked.columns} <= {"x", "y", "app"}


def test_the_schema_comes_with_the_first_version_of_it_and_goes_with_a_rollback(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = running(harness(edit=HELD))
    edit(h, {**RENAMED, "strategy=tm.Strategy(": "limits=tm.Limits(max_batch=7), strategy=tm.Strategy("})
    h.seconds(3)
    later = reopened(h)
    assert made(later) == 2
    h.seconds(2)
    assert sent(h) == {"x", "y", "app"} and h.route.stable == 1
    assert h.app.waiting is not None and "`tidemill promote 2 --now`" in h.app.waiting.next_move
    with pytest.raises(Conflict, match="cannot share traffic"):
        later.ask("promote", by="ann", version=2)
    later.promote_now(2, by="ann", reason="it is better")
    assert (h.route.stable, h.route.fallback, sent(h)) == (2, 1, {"x", "why", "app"}), "in one transaction"
    h.rate = 0
    h.seconds(2)
    assert h.engine is not None and set(h.engine.world.project.inputs) == {"x", "why", "app"}
    assert manifest(h)["limits"]["max_batch"] == 7, "the rest of the file follows"
    assert h.app.waiting is None
    with pytest.raises(ProjectError, match="serves version 2 already"):
        made(later)
    later.rollback(by="ann", reason="it is not")
    assert (h.route.stable, sent(h)) == (1, {"x", "y", "app"})
    h.seconds(2)
    assert sent(h) == {"x", "y", "app"}, "the loop leaves it"
    assert h.app.waiting is not None


def test_an_input_that_the_live_version_does_not_read_comes_when_somebody_says_so(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = running(harness(edit=HELD))
    before = edit(h, EDITS["added"][0])
    app = reopened(h)
    app.publish()
    assert "`tidemill promote 1 --now`" in app.status().waits
    app.promote_now(1, by="ann", reason="callers send it")
    assert sent(h) == {"x", "y", "app", "land"}
    h.rate = 0
    h.seconds(3)
    assert h.engine is not None and set(h.engine.world.project.inputs) == {"x", "y", "app", "land"}
    save(h.folder / "waves_project.py", before)
    h.seconds(3)
    assert sent(h) == {"x", "y", "app"}, "back to what the version was trained on, it needs nobody's word"


def test_what_an_earlier_program_published_over_a_live_version_is_put_back(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = harness(edit=HELD)
    edit(h, RENAMED)
    app = reopened(h)
    with app.db.begin() as conn:
        app.catalog.declare(conn, app.project.compile().to_json(), now=h.clock.now())
    app.publish(by="ann")
    assert sent(h) == {"x", "y", "app"}
    assert app.waiting is not None


def test_a_loop_puts_back_what_the_live_version_reads_within_a_turn(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = running(harness(edit=HELD))
    edit(h, RENAMED)
    app = reopened(h)
    with app.db.begin() as conn:
        app.catalog.declare(conn, app.project.compile().to_json(), now=h.clock.now())
    h.rate = 0
    h.second()
    assert sent(h) == {"x", "y", "app"}
    assert Audit(h.app.db).acts(h.name)[0].reason == "the live version cannot read what was in force"
    h.seconds(2)
    assert sent(h) == {"x", "y", "app"} and h.app.waiting is not None
    assert h.app.status().trouble == {}


def test_a_publish_that_waits_for_a_rollback_goes_by_what_that_leaves(
    harness: Make, reopened: Callable[[Harness], App], at_the_door: Event
) -> None:
    h = harness(edit=HELD)
    edit(h, RENAMED)
    one, other = reopened(h), reopened(h)
    one.promote_now(made(one), by="ann", reason="it is better")
    assert sent(h) == {"x", "why", "app"}
    back = Route(revision=h.route.revision, stable=1, policy_version=h.route.policy_version)
    schema = other.schemas.brought_by(1)
    assert schema is not None
    with ThreadPoolExecutor(1) as pool, other.db.begin() as conn:
        publishing = pool.submit(one.publish, by="bob")
        assert at_the_door.wait(TIMEOUT_S)
        back = other.schemas.put(conn, schema, back, now=h.clock.now(), by="ann")
        other.catalog.set_route(conn, h.name, back, now=h.clock.now(), by="ann", reason="it is not")
    publishing.result()
    assert (h.route.stable, sent(h)) == (1, {"x", "y", "app"})
    assert one.waiting is not None


def test_the_loop_writes_nothing_of_a_project_whose_schema_waits(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = harness(edit=HELD)
    in_force = manifest(h)
    edit(h, RENAMED)
    app, now = reopened(h), h.clock.now()
    lease = app.journal.acquire(f"loop/{h.name}", "here", now=now, ttl=timedelta(minutes=1))
    assert lease is not None
    assert not publish(Turn(world=app.world, lease=lease, now=now, known_until=now), app.project)
    assert manifest(h) == in_force


def test_other_inputs_do_not_come_while_a_cycle_makes_a_version_for_those_in_force(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = harness(edit=HELD)
    edit(h, EDITS["added"][0])
    app, in_force = reopened(h), manifest(h)
    why = Verdict(outcome=Outcome.FIRE, by="test", reason="it is time")
    with app.db.begin() as conn:
        app.journal.open_cycle(conn, h.name, trigger=why, strategy="it", step="train", now=h.clock.now())
    with pytest.raises(Conflict, match="cycle 1 makes a version for the inputs in force"):
        app.promote_now(1, by="ann", reason="callers send it")
    assert manifest(h) == in_force


def test_nor_while_one_begins_at_the_same_moment(
    harness: Make, reopened: Callable[[Harness], App], at_the_door: Event
) -> None:
    h = harness(edit=HELD)
    edit(h, RENAMED)
    app, why = reopened(h), Verdict(outcome=Outcome.FIRE, by="test", reason="it is time")
    version = made(app)
    at_the_door.clear()
    with closing(Controls.of_home(h.folder / "home", h.name)) as controls:
        with ThreadPoolExecutor(1) as pool, app.db.begin() as conn:
            promoting = pool.submit(controls.promote_now, version, by="ann", reason="it is better")
            assert at_the_door.wait(TIMEOUT_S)
            app.journal.open_cycle(conn, h.name, trigger=why, strategy="it", step="train", now=h.clock.now())
        with pytest.raises(Conflict, match="cycle 1 makes a version for the inputs in force"):
            promoting.result()
    assert (h.route.stable, sent(h)) == (1, {"x", "y", "app"})


def test_a_release_that_was_asked_for_before_other_inputs_came_is_refused(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = harness(edit=HELD)
    edit(h, RENAMED)
    app = reopened(h)
    first, version = made(app), made(app)
    app.promote_now(first, by="ann", reason="it is better")
    app.ask("promote", by="ann", version=version)
    app.rollback(by="bob", reason="it is not")
    assert sent(h) == {"x", "y", "app"}
    h.engine = app.engine()
    h.engine.turn()
    (command,) = app.journal.commands(h.name, 1)
    assert command.result is not None
    assert command.result.startswith(f"refused: version {version} reads other inputs than are in force")
    assert app.journal.cycle(h.name) is None and h.route.stable == 1


def test_what_is_hashed_by_now_is_not_compared_with_what_was_not(
    harness: Make, reopened: Callable[[Harness], App]
) -> None:
    h = running(harness(edit=HELD))
    edit(h, {"tm.Category(tag=True)": "tm.Sensitive(tag=True)"})
    looked = reopened(h).drift(period=timedelta(hours=1), min_rows=10)
    assert [column.name for column in looked.columns] and not looked.problem
    assert {column.name for column in looked.columns} == {"x", "y"}


def test_bounds_and_tags_wait_for_nothing(harness: Make) -> None:
    h = running(harness(edit=HELD))
    edit(h, {'"y": tm.Number()': '"y": tm.Number(low=-9, tag=True)', TRANSFORMS: TRANSFORMS})
    h.seconds(3)
    assert h.app.waiting is None
    assert manifest(h)["schema"]["inputs"]["y"]["low"] == -9
