"""An input that is added with a default is known of everything older: no request fails, and no example is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from harness import START, Harness

from tidemill.loop.backtest.stream import Stream
from tidemill.stores.tabular import examples_from

Make = Callable[..., Harness]
TAG = '"app": tm.Category(tag=True)'
ADDED = f'{TAG}, "speed": tm.Number(low=0, default=-1), "kind": tm.Category(default="none", tag=True)'
WIDER = {TAG: ADDED, '[tm.transforms.Standardise("x", "y")]': '[tm.transforms.Standardise("x", "y", "speed")]'}


@pytest.fixture
def wider(harness: Make) -> Harness:
    """A deployment with requests and examples of before two inputs were added."""
    h = harness(edit=WIDER)
    h.app.publish()  # as `tidemill up` does
    return h


def test_requests_from_before_have_the_default(wider: Harness) -> None:
    log, schema, until = wider.app.world.log, wider.app.project.schema, wider.clock.now()
    rows = log.predictions(wider.name, after=None, until=until, schema=schema)
    assert len(rows) > 100
    assert set(rows["speed"]) == {-1.0} and set(rows["kind"]) == {"none"}
    only = log.predictions(wider.name, after=None, until=until, schema=schema, columns=["kind"])
    assert only["kind"].to_list() == ["none"] * len(rows)


def test_it_is_in_force_at_once_and_the_next_version_learns_it_from_old_examples_too(wider: Harness) -> None:
    wider.accuracy, wider.new_share = {(1, "v2"): 0.4, (2, "v1"): 0.98, (2, "v2"): 0.98}, 0.6
    wider.second()
    assert "speed" in wider.app.world.catalog.manifest(wider.name)["schema"]["inputs"]
    wider.until_closed()
    assert wider.outcomes() == ["promoted"]
    model = wider.app.world.catalog.model(wider.name, 2)
    assert model.dataset is not None
    rows = wider.app.world.datasets.train_rows(wider.name, model.dataset)
    assert rows["id"].str.starts_with("import-").sum() > 100, "the 300 of before are still learnt from"
    assert set(rows["speed"]) == {-1.0} and set(rows["kind"]) == {"none"}


def test_data_files_and_streams_may_lack_the_column_or_have_holes_in_it(wider: Harness) -> None:
    schema = wider.app.project.schema
    rows = {"x": [0.0, 1.0], "y": [1.0, 2.0], "app": ["v1", "v1"], "label": ["low", "high"]}
    (one, two) = examples_from(pl.DataFrame({**rows, "speed": [None, 3.0]}), schema, now=START)
    assert (one.inputs["speed"], two.inputs["speed"], two.inputs["kind"]) == (-1.0, 3.0, "none")
    times = [START, START + timedelta(seconds=1)]
    stream = Stream.read(pl.DataFrame({**rows, "time": times, "kind": ["a", None]}), wider.app.project)
    assert stream.frame["speed"].to_list() == [-1.0, -1.0] and stream.frame["kind"].to_list() == ["a", "none"]


def test_a_dataset_from_before_is_tested_on_and_read_as_if_it_had_them(harness: Make) -> None:
    h = harness("tried", edit={TAG: ADDED})  # a dataset is formed, its model trained, and not tested yet
    h.app.publish()
    assert "speed" in h.app.world.catalog.manifest(h.name)["schema"]["inputs"]
    h.until_closed()
    assert h.outcomes() == ["promoted"], [str(one) for one in h.verdicts("test")]
    assert h.engine is not None
    world = h.engine.world
    dataset = world.catalog.model(h.name, 2).dataset
    assert dataset is not None
    data = world.datasets.training_data(h.name, dataset, world.project.schema)
    assert set(data.columns["speed"].tolist()) == {-1.0} and set(data.columns["kind"].tolist()) == {"none"}
    assert set(world.datasets.rows(h.name, dataset, world.project.schema)[0][0]) == set(world.project.inputs)
