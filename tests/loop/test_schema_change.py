"""A project changes its inputs: what was logged before is read along, and the loop goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from harness import PROJECT, START, Harness

from tidemill.app import App
from tidemill.clock import micros
from tidemill.monitor.outcomes import Window, matured_frame
from tidemill.records import Feedback, Prediction, Trust
from tidemill.stores.segments import Batch, SegmentWriter

OLD = 'inputs={"x": tm.Number(), "y": tm.Number(), "app": tm.Category(tag=True)}'
COHORTS = """cohorts={"old_app": "app = 'v1'", "new_app": "app = 'v2'"}"""
TRANSFORMS = """transforms=[tm.transforms.Standardise("x", "y")]"""
SIX_HOURS = timedelta(hours=6)


@pytest.fixture
def changed(harness: Callable[..., Harness], request: pytest.FixtureRequest) -> Iterator[tuple[Harness, App]]:
    """A deployment with 15 seconds of requests, and the same home under a project file with other inputs."""
    inputs, cohorts = request.param
    calm = harness()
    calm.clock.sleep(20)  # past the horizon of what was logged
    text = PROJECT.replace("OFFLINE", "tm.offline.NoWorse('accuracy', by='cohort')")
    for old, new in ((OLD, inputs), (COHORTS, cohorts), (TRANSFORMS, "")):
        assert old in text
        text = text.replace(old, new)
    file = calm.folder / "waves_later.py"
    file.write_text(text)
    app = App.open(str(file), calm.folder / "home", clock=calm.clock)
    with app.db.begin() as conn:  # as a version that was trained on them brings them
        app.schemas.put(conn, app.project.schema, calm.route, now=calm.clock.now(), by="test")
    yield calm, app
    app.close()


ADDED = (
    'inputs={"x": tm.Number(), "y": tm.Number(), "z": tm.Number(), "app": tm.Category(tag=True)}',
    """cohorts={"old_app": "app = 'v1'", "high": "z > 0", "unknown": "z IS NULL"}""",
)
DROPPED = ('inputs={"x": tm.Number(), "app": tm.Category(tag=True)}', """cohorts={"old_app": "app = 'v1'"}""")
RETYPED = (
    'inputs={"x": tm.Number(), "y": tm.Text(), "app": tm.Number(tag=True), "pad": tm.Image((2, 2))}',
    """cohorts={"newer": "app >= 2", "short": "length(y) < 5"}""",
)


def quality(app: App) -> dict[str, int]:
    """Return the number of labelled requests by cohort."""
    found = app.status(period=SIX_HOURS)
    assert found.trouble == {}
    return {q.cohort: q.num for q in found.quality}


def log_rows(harness: Harness, app: App, inputs: list[dict[str, Any]], tags: list[dict[str, Any]]) -> None:
    """Log requests with inputs as they are declared now, each with a label, and let the loop take its turns."""
    harness.clock.sleep(20)
    now = micros(harness.clock.now())
    predictions = [
        Prediction(
            request_id=f"later-{i:04d}", received_at=now - 1_000_000 + i, role="answer", unit=f"u{i}", subject=None,
            rollout=None, share=0.0, salt="", route_revision=1, assigned_version=1, answered_version=1,
            fallback_reason=None, error=None, policy_version=1, tags=t, inputs=row, scores=[0.4, 0.6], decision="high",
            abstained=False, cached=False, latency_ms=1.0, keep_probability=1.0,
        )
        for i, (row, t) in enumerate(zip(inputs, tags, strict=True))
    ]  # fmt: skip
    said = [
        Feedback(request_id=p.request_id, received_at=now, kind="label", value="high", source="http", trust="crowd")
        for p in predictions
    ]
    writer = SegmentWriter(app.world.home.segments, "later", low_at=now - 2_000_000)
    writer.append(msgspec.msgpack.encode(Batch(project="waves", predictions=predictions, feedback=said)))
    writer.close()
    harness.clock.sleep(20)  # past the horizon, and the next slots of curation
    engine = app.engine()
    engine.declared = None  # version 1 was not trained on them: a loop that looks would put back what it reads
    engine.turn()
    harness.clock.sleep(20)
    engine.turn()
    engine.drain()


def examples(app: App) -> dict[str, dict[str, Any]]:
    """Return the inputs of the examples that were picked from the requests logged under the new declaration."""
    ids = [id_ for id_ in app.world.reservoir.index("waves")["id"] if id_.startswith("later-")]
    return dict(zip(ids, app.world.reservoir.inputs("waves", ids), strict=True))


@pytest.mark.parametrize("changed", [ADDED], indirect=True)
def test_an_added_input_is_unknown_in_old_rows_and_in_no_cohort_until_it_is_sent(changed: tuple[Harness, App]) -> None:
    harness, app = changed
    before = quality(app)
    assert before["all"] == before["old_app"] == before["unknown"] > 50
    assert before["high"] == 0
    rows = [{"x": 1.0, "y": 2.0, "z": float(i % 2)} for i in range(40)]
    log_rows(harness, app, rows, [{"app": "v2"}] * 40)
    after = quality(app)
    assert (after["all"], after["high"], after["unknown"]) == (before["all"] + 40, 20, before["unknown"])
    picked = examples(app)
    assert picked
    assert all(set(inputs) == {"x", "y", "z", "app"} for inputs in picked.values())


@pytest.mark.parametrize("changed", [DROPPED], indirect=True)
def test_a_dropped_input_stays_readable_and_old_rows_serve_as_they_are(changed: tuple[Harness, App]) -> None:
    harness, app = changed
    before = quality(app)
    assert before["all"] == before["old_app"] > 50
    log_rows(harness, app, [{"x": 1.0 + i} for i in range(40)], [{"app": "v1"}] * 40)
    assert quality(app)["old_app"] == before["old_app"] + 40
    assert examples(app)
    rows = app.sql("SELECT count(y), count(*) FILTER (request_id LIKE 'later-%') FROM predictions").rows
    old = app.world.log.predictions("waves", after=None, until=START + SIX_HOURS)
    assert rows == [(old["y"].is_not_null().sum(), 40)]
    assert rows[0][0] > 100


@pytest.mark.parametrize("changed", [RETYPED], indirect=True)
def test_a_retyped_input_has_its_new_type_and_is_unknown_where_a_value_was_of_another_kind(
    changed: tuple[Harness, App],
) -> None:
    harness, app = changed
    before = quality(app)
    assert before["all"] > 50
    assert before["newer"] == 0, "'v1' is no number"
    rows = [{"x": 1.0, "y": "short" if i % 2 else "abc", "pad": bytes(4)} for i in range(40)]
    log_rows(harness, app, rows, [{"app": float(i % 4)} for i in range(40)])
    after = quality(app)
    assert (after["all"], after["newer"], after["short"]) == (before["all"] + 40, 20, before["short"] + 20)
    window = Window(after=None, until=harness.clock.now())
    frame = matured_frame(app.world.log, app.project, window, trust=Trust.CROWD, inputs=True)
    assert {n: str(frame.schema[n]) for n in ("y", "app", "pad")} == {"y": "String", "app": "Float64", "pad": "Binary"}
    assert frame["app"].is_null().sum() == len(frame) - 40
    found = app.sql("SELECT typeof(app), count(*) FROM predictions WHERE app IS NOT NULL GROUP BY ALL").rows
    assert found == [("DOUBLE", 40)]
    picked = examples(app)
    assert picked
    assert all(isinstance(inputs["app"], float) for inputs in picked.values())


@pytest.mark.parametrize("changed", [RETYPED], indirect=True)
def test_an_image_of_another_shape_is_unknown(changed: tuple[Harness, App]) -> None:
    harness, app = changed
    log_rows(
        harness, app, [{"x": 1.0, "y": "a", "pad": bytes(16 if i % 2 else 4)} for i in range(10)], [{"app": 1.0}] * 10
    )
    window = Window(after=None, until=harness.clock.now())
    frame = matured_frame(app.world.log, app.project, window, trust=Trust.CROWD, inputs=True)
    assert frame["pad"].drop_nulls().to_list() == [bytes(4)] * 5
