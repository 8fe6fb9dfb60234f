"""What a dataset version pins, and what it gives to a trainer and to a report."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_pool import SCHEMA, Pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.clock import micros
from tidemill.errors import Corrupt, NotFound, StoreError
from tidemill.records import DatasetVersion, Trust
from tidemill.schema import Category, Image, Schema, Tensor, Text, Value
from tidemill.stores.database import Database
from tidemill.stores.datasets import DatasetDiff

NUMBERS = count()


@pytest.fixture
def pool(tmp_path: Path, database: Database, noon: datetime) -> Pool:
    return Pool(database, tmp_path, noon)


def test_a_version_says_what_it_holds_and_is_found_again(pool: Pool) -> None:
    pool.fill(30)
    version = pool.form(formed_by="Window('90d')", parent="before")
    assert (version.number, version.parent, version.formed_by) == (1, "before", "Window('90d')")
    assert version.num_train == len(pool.ids("train"))
    assert version.num_test == len(pool.ids("test")) > 0
    assert version.created_at == pool.now
    assert pool.datasets.get("p", version.digest) == version
    assert pool.datasets.all("p") == [version]
    assert pool.datasets.all("q") == []


def test_forming_the_same_again_is_the_same_version(pool: Pool) -> None:
    pool.fill(12)
    first = pool.form()
    again = pool.form(now=pool.now + timedelta(days=1), formed_by="another way", parent=first.digest)
    assert again == first
    assert len(pool.datasets.all("p")) == 1


def test_the_same_content_has_the_same_digest_in_another_installation(
    pool: Pool, tmp_path: Path, noon: datetime
) -> None:
    pool.fill(12)
    with Database.open(f"sqlite:///{tmp_path / 'other.db'}") as db:
        other = Pool(db, tmp_path / "other", noon)
        other.fill(5)
        with db.begin() as conn:  # the rest in one chunk, in another order
            other.reservoir.add(conn, "p", pool.reservoir.examples("p", [str(i) for i in range(11, 4, -1)]))
        assert other.form().digest == pool.form().digest


def changed_weight(pool: Pool) -> DatasetVersion:
    num = len(pool.ids("train"))
    return pool.form(weights=(2.0,) + (1.0,) * (num - 1))


def changed_order(pool: Pool) -> DatasetVersion:
    return pool.form(pool.ids("train")[::-1])


def fewer(pool: Pool) -> DatasetVersion:
    return pool.form(pool.ids("train")[1:])


def relabelled(split: str, value: str, trust: Trust) -> Any:
    def change(pool: Pool) -> DatasetVersion:
        pool.label(pool.ids(split)[0], value, trust=trust)
        return pool.form()

    return change


def other_inputs(pool: Pool) -> DatasetVersion:
    return pool.form(schema=Schema({"text": Text()}, SCHEMA.output))


@pytest.mark.parametrize(
    "change",
    [
        changed_weight, changed_order, fewer, other_inputs, relabelled("train", "toxic", Trust.TRUTH),
        relabelled("test", "toxic", Trust.TRUTH), relabelled("test", "ok", Trust.TRUTH),
    ],
)  # fmt: skip
def test_any_change_of_content_is_another_version(pool: Pool, change: Any) -> None:
    pool.fill(20)
    first = pool.form()
    second = change(pool)
    assert second.digest != first.digest
    assert (first.number, second.number) == (1, 2)
    assert len(pool.datasets.training_data("p", first.digest, SCHEMA)) == first.num_train, "the first one stays"


def test_a_version_does_not_change_with_the_reservoir(pool: Pool) -> None:
    pool.fill(12)
    version = pool.form()
    before = pool.datasets.training_data("p", version.digest, SCHEMA)
    for id_ in pool.ids("train"):
        pool.label(id_, "toxic")
    after = pool.datasets.training_data("p", version.digest, SCHEMA)
    assert set(after.targets) == {0}
    assert np.array_equal(before.targets, after.targets)


# --- training data


def test_training_data_is_in_the_order_and_with_the_weights_of_the_selection(pool: Pool) -> None:
    pool.fill(20)
    chosen = pool.ids("train")[::-2]
    pool.label(chosen[1], "toxic")
    weights = tuple(float(i % 3) for i in range(len(chosen)))
    version = pool.form(chosen, weights=weights)
    data = pool.datasets.training_data("p", version.digest, SCHEMA)
    assert data.ids == tuple(chosen)
    assert data.columns["text"].tolist() == [f"text {id_}" for id_ in chosen]
    assert data.columns["age"].dtype == np.float64
    assert data.targets.tolist() == [int(i == 1) for i in range(len(chosen))]
    assert data.targets.dtype == np.int64
    assert data.weights.mean() == pytest.approx(1.0)
    assert data.weights == pytest.approx(np.array(weights) / np.mean(weights))


def test_images_and_tensors_come_as_arrays_of_their_shape(pool: Pool) -> None:
    schema = Schema({"picture": Image((2, 3)), "vector": Tensor((2,)), "kind": Category()}, Value())
    for i in range(10):
        inputs = {"picture": bytes([i] * 6), "vector": np.array([i, 0.5], "<f4").tobytes(), "kind": "a"}
        pool.add("p", str(i), text="", inputs=inputs, label=float(i))
    version = pool.form(schema=schema)
    data = pool.datasets.training_data("p", version.digest, schema)
    numbers = [int(id_) for id_ in data.ids]
    assert data.columns["picture"].shape == (len(numbers), 2, 3)
    assert data.columns["picture"][:, 0, 0].tolist() == numbers
    assert data.columns["vector"][:, 0].tolist() == numbers
    assert data.targets.tolist() == numbers
    assert data.targets.dtype == np.float64
    rows = pool.datasets.test_rows("p", version.digest)
    assert rows["picture"].to_list() == [bytes([int(id_)] * 6) for id_ in rows["id"]]


def test_a_large_version_lies_in_several_shards(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.fill(40)
    monkeypatch.setattr("tidemill.stores.shards._MAX_ROWS", 7)
    version = pool.form()
    data = pool.datasets.training_data("p", version.digest, SCHEMA)
    assert list(data.ids) == pool.ids("train")
    assert len(list((pool.folder / "datasets" / "p").glob("*.arrow"))) > 5


def test_shards_open_as_plain_arrow_streams_with_all_columns(pool: Pool) -> None:
    pool.fill(12)
    pool.form()
    rows = []
    for path in (pool.folder / "datasets" / "p").glob("*.arrow"):
        with pa.memory_map(str(path)) as file:
            rows += pa.ipc.open_stream(file).read_all().to_pylist()
    assert {row["id"] for row in rows} == {str(i) for i in range(12)}
    row = next(row for row in rows if row["id"] == "3")
    assert row | {"split": ""} == {
        "id": "3", "split": "", "weight": 1.0, "label": "ok", "trust": "people", "unit": "3",
        "received_at": micros(pool.now) + 3_000_000, "probability": 0.5, "text": "text 3", "age": 4.0,
    }  # fmt: skip


# --- test rows


def test_test_rows_are_all_that_people_or_the_truth_labelled_and_nothing_else(pool: Pool) -> None:
    for number, trust in enumerate([*Trust] * 25):
        at = pool.now - timedelta(seconds=number)
        pool.add("p", f"{number}", text=f"{number}", trust=trust, at=at)
    for number in range(100, 130):
        pool.add("p", f"{number}", text=f"{number}", label=None, trust=None, source=None, labelled_at=None)
    version = pool.form(pool.ids("train")[:1])
    rows = pool.datasets.test_rows("p", version.digest)
    expected = {id_ for id_ in pool.ids("test") if int(id_) < 100 and int(id_) % 4 >= 2}
    assert set(rows["id"]) == expected
    assert set(rows["trust"]) == {"people", "truth"}
    assert rows["received_at"].is_sorted()
    assert rows.columns == ["id", "unit", "received_at", "label", "trust", "probability", "text", "age"]
    assert version.num_test == len(expected)


@pytest.mark.parametrize("least", list(Trust))
def test_a_version_may_be_formed_with_test_rows_of_any_trust_or_higher(pool: Pool, least: Trust) -> None:
    for number, trust in enumerate([*Trust] * 25):
        pool.add("p", f"{number}", text=f"{number}", trust=trust)
    rows = pool.datasets.test_rows("p", pool.form(pool.ids("train")[:1], test_trust=least).digest)
    assert set(rows["trust"]) == {str(trust) for trust in Trust if trust.rank >= least.rank}


def test_without_test_rows_there_is_an_empty_frame_with_its_columns(pool: Pool) -> None:
    pool.fill(20)
    train = pool.ids("train")
    only = Pool(pool.db, pool.folder, pool.now)
    pool.add("q", train[0], text=f"text {train[0]}")
    rows = pool.datasets.test_rows("q", only.form(project="q").digest)
    assert rows.is_empty()
    assert rows["label"].to_list() == rows["text"].to_list() == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_test_row_and_no_duplicate_of_one_is_ever_trained_on(pool: Pool, data: st.DataObject) -> None:
    project = f"p{next(NUMBERS)}"
    contents = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=25))
    for number, content in enumerate(contents):
        pool.add(project, f"{number}", text=f"{content}", unit=f"user {data.draw(st.integers(0, 9))}")
    train = pool.ids("train", project)
    if not train:
        return
    version = pool.form(data.draw(st.permutations(train))[: data.draw(st.integers(1, len(train)))], project)
    learnt = pool.datasets.training_data(project, version.digest, SCHEMA)
    tested = pool.datasets.test_rows(project, version.digest)
    assert not set(learnt.ids) & set(tested["id"])
    assert not set(learnt.columns["text"]) & set(tested["text"])
    assert set(tested["id"]) == set(pool.ids("test", project))


# --- what is refused, and what is left out


def test_what_cannot_be_trained_on_is_refused_by_name(pool: Pool) -> None:
    pool.fill(20)
    train, test = pool.ids("train"), pool.ids("test")
    pool.add("p", "blank", text=f"text {train[0]}", label=None, trust=None, source=None, labelled_at=None)
    for ids, named in [([*train, test[0]], test[0]), ([*train, "blank"], "blank")]:
        with pytest.raises(StoreError, match=f"'{named}'"):
            pool.form(ids)
    with pytest.raises(NotFound, match="nobody"):
        pool.form(["nobody"])
    for ids, weights in [(train[:1] * 2, (1.0, 1.0)), (train[:2], (1.0,)), (train[:1], (-1.0,)), (train[:1], (0.0,))]:
        with pytest.raises(StoreError, match="weight"):
            pool.form(ids, weights=weights)
    with pytest.raises(StoreError, match="fits"):
        pool.form([])
    assert pool.datasets.all("p") == []


def test_examples_that_do_not_fit_the_schema_are_left_out(pool: Pool) -> None:
    pool.fill(15)
    for number in range(8):
        pool.add("p", f"lacks {number}", text="", inputs={"text": f"a {number}"})
        pool.add("p", f"retyped {number}", text="", inputs={"text": f"b {number}", "age": "4"})
        pool.add("p", f"unknown {number}", text=f"c {number}", label="maybe")
    version = pool.form()
    learnt = pool.datasets.training_data("p", version.digest, SCHEMA)
    fitting = {str(i) for i in range(15)}
    assert set(learnt.ids) == fitting & set(pool.ids("train"))
    assert set(pool.datasets.test_rows("p", version.digest)["id"]) == fitting & set(pool.ids("test"))
    assert version.num_train == len(learnt) < len(pool.ids("train"))


def test_pictures_of_another_shape_do_not_fit(pool: Pool) -> None:
    schema = Schema({"picture": Image((2, 2))}, SCHEMA.output)
    for i in range(12):
        pool.add("p", str(i), text="", inputs={"picture": bytes([i] * (4 if i % 2 else 5))})
    learnt = pool.datasets.training_data("p", pool.form(schema=schema).digest, schema)
    assert {int(id_) % 2 for id_ in learnt.ids} == {1}


def test_a_version_formed_for_other_inputs_is_refused(pool: Pool) -> None:
    pool.fill(12)
    version = pool.form()
    fewer_inputs = Schema({"text": Text()}, SCHEMA.output)
    assert set(pool.datasets.training_data("p", version.digest, fewer_inputs).columns) == {"text"}
    for inputs, output in [
        ({"text": Text(), "new": Text()}, SCHEMA.output),
        ({"age": Text()}, SCHEMA.output),
        ({"text": Text()}, Value()),
    ]:
        with pytest.raises(StoreError, match="formed for"):
            pool.datasets.training_data("p", version.digest, Schema(inputs, output))


def test_an_unknown_version_is_not_found(pool: Pool) -> None:
    for ask in (pool.datasets.get, pool.datasets.test_rows):
        with pytest.raises(StoreError, match="no dataset 'abc'"):
            ask("p", "abc")


def test_a_damaged_version_is_corrupt(pool: Pool) -> None:
    pool.fill(12)
    version = pool.form()
    folder = pool.folder / "datasets" / "p"
    for path in folder.glob("*.arrow"):
        path.write_bytes(path.read_bytes().replace(b"text", b"tixt"))
    with pytest.raises(Corrupt):
        pool.datasets.training_data("p", version.digest, SCHEMA)
    (folder / f"{version.digest}.json").write_text("{")
    with pytest.raises(Corrupt):
        pool.datasets.training_data("p", version.digest, SCHEMA)


# --- diff


def test_a_diff_names_what_was_added_removed_and_relabelled(pool: Pool) -> None:
    pool.fill(20)
    train = pool.ids("train")
    first = pool.form(train[1:])
    pool.label(train[2], "toxic")
    pool.label(train[3], "ok")
    second = pool.form([train[0], *train[2:]])
    diff = pool.datasets.diff("p", first.digest, second.digest)
    assert diff == DatasetDiff(added=(train[0],), removed=(train[1],), relabelled=(train[2],), split_changed=())
    back = pool.datasets.diff("p", second.digest, first.digest)
    assert (back.added, back.removed) == (diff.removed, diff.added)
    assert pool.datasets.diff("p", first.digest, first.digest) == DatasetDiff(
        added=(), removed=(), relabelled=(), split_changed=()
    )


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_diff_backwards_is_the_diff_turned_round_and_applied_gives_the_other(pool: Pool, data: st.DataObject) -> None:
    project, num = f"d{next(NUMBERS)}", 12
    pool.fill(num, project)
    train = pool.ids("train", project)
    chosen = st.lists(st.sampled_from(train), min_size=1, unique=True)
    versions, labels = [], []
    for _ in range(2):
        for id_ in data.draw(st.lists(st.integers(0, num - 1), max_size=4, unique=True)):
            pool.label(f"{id_}", data.draw(st.sampled_from(["ok", "toxic"])), project)
        index = pool.reservoir.index(project)
        versions.append(pool.form(data.draw(chosen), project).digest)
        labels.append(dict(zip(index["id"], index["label"], strict=True)))
    old, new = versions
    diff, back = pool.datasets.diff(project, old, new), pool.datasets.diff(project, new, old)
    assert (back.added, back.removed) == (diff.removed, diff.added)
    assert (back.relabelled, back.split_changed) == (diff.relabelled, diff.split_changed)
    before, after = (rows_of(pool, project, digest) for digest in versions)
    assert (before.keys() - {*diff.removed}) | {*diff.added} == after.keys()
    assert {*diff.relabelled} == {id_ for id_ in before.keys() & after.keys() if labels[0][id_] != labels[1][id_]}
    assert not ({*diff.added} | {*diff.removed}) & {*diff.relabelled}
    assert diff.split_changed == (), "a split never changes"
    assert (diff == DatasetDiff(added=(), removed=(), relabelled=(), split_changed=())) == (before == after)


def rows_of(pool: Pool, project: str, digest: str) -> dict[str, str]:
    """Return the labels by id, of both splits."""
    tables = [table for split in ("train", "test") for table in pool.datasets.tables(project, digest, split)]
    return {row["id"]: row["label"] for table in tables for row in table.to_pylist()}


# --- content


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 30), num_bytes=st.integers(1, 5_000))
def test_a_digest_does_not_depend_on_how_the_rows_are_parted_into_shards(pool: Pool, size: int, num_bytes: int) -> None:
    if not pool.datasets.all("p"):
        pool.fill(25)
        pool.form()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidemill.stores.shards._MAX_ROWS", size)
        patch.setattr("tidemill.stores.shards._MAX_BYTES", num_bytes)
        assert pool.form().number == 1


def test_what_a_version_holds_is_counted_by_split(pool: Pool) -> None:
    pool.fill(30)
    for id_ in [*pool.ids("train")[:3], pool.ids("test")[0]]:
        pool.label(id_, "toxic")
    version = pool.form()
    held = pool.datasets.contents("p", version.digest)
    assert held.labels["train"] == {"ok": version.num_train - 3, "toxic": 3}
    assert held.labels["test"] == {"ok": version.num_test - 1, "toxic": 1}
    assert held.trusts["train"] == {"people": version.num_train - 3, "truth": 3}
    assert held.inputs == {"text": "text", "age": "number"}
    assert held.num_bytes == sum(path.stat().st_size for path in (pool.folder / "datasets" / "p").glob("*.arrow"))


def test_of_numbers_as_labels_the_range_is_told(pool: Pool) -> None:
    schema = Schema(SCHEMA.inputs, Value())
    for i in range(20):
        pool.add("p", f"{i}", text=f"t {i}", label=float(i))
    held = pool.datasets.contents("p", pool.form(schema=schema).digest)
    train = [int(id_) for id_ in pool.ids("train")]
    assert held.labels["train"] == {"lowest": min(train), "mean": np.mean(train), "highest": max(train)}
