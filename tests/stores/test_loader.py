"""Rows of a version come one by one or in batches, in order or shuffled, to NumPy and to torch."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from dataset_pool import SCHEMA, Pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.errors import NotFound, StoreError
from tidemill.schema import Category, Classes, Image, Number, Schema, Tensor, Text, Value
from tidemill.stores.database import Database
from tidemill.stores.loader import Rows

EVERYTHING = Schema(
    {"text": Text(), "kind": Category(), "age": Number(), "picture": Image((2, 3)), "vector": Tensor((2,))},
    Classes(["ok", "toxic"]),
)


@pytest.fixture(params=[3, 12, 1000])
def pool(
    request: pytest.FixtureRequest, tmp_path: Path, noon: datetime, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pool]:
    """A version of rows of every type, in many shards, few or one, with weights."""
    monkeypatch.setattr("tidemill.stores.shards._MAX_ROWS", request.param)
    with Database.open(f"sqlite:///{tmp_path / 'tidemill.db'}") as database:
        yield filled(Pool(database, tmp_path, noon))


def filled(pool: Pool) -> Pool:
    for i in range(40):
        inputs = {
            "text": "ü" * i, "kind": "ab"[i % 2], "age": float(i), "picture": bytes([i] * 6),
            "vector": np.array([i, 0.5], "<f4").tobytes(),
        }  # fmt: skip
        pool.add("p", str(i), text="", inputs=inputs, label="toxic" if i % 3 else "ok")
    train = pool.ids("train")
    pool.form(train, schema=EVERYTHING, weights=tuple(1.0 + i % 4 for i in range(len(train))))
    return pool


@pytest.fixture
def rows(pool: Pool) -> Rows:
    return pool.datasets.rows("p", 1, EVERYTHING)


def test_a_row_is_its_inputs_its_target_and_its_weight(pool: Pool, rows: Rows) -> None:
    for at, id_ in enumerate(pool.ids("train")):
        (inputs, target, weight), number = rows[at], int(id_)
        assert (inputs["text"], inputs["kind"], inputs["age"]) == ("ü" * number, "ab"[number % 2], number)
        assert inputs["picture"].shape == (2, 3) and (inputs["picture"] == number).all()
        assert inputs["vector"].tolist() == [number, 0.5]
        assert target == (number % 3 > 0)
        assert weight == pytest.approx((1 + at % 4) / np.mean([1 + i % 4 for i in range(len(rows))]))


def test_rows_end_where_the_version_does(rows: Rows) -> None:
    assert len(list(rows)) == len(rows)  # type: ignore[call-overload]
    assert rows[-1][0]["text"] == rows[len(rows) - 1][0]["text"]
    for at in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError, match=f"0 to {len(rows) - 1}"):
            rows[at]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_in_any_order_are_those_of_the_whole(rows: Rows, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=30)), dtype=np.int64)
    taken, whole = rows.take(index), rows.all().take(index)
    assert taken.ids == whole.ids
    for name in EVERYTHING.inputs:
        assert taken.columns[name].dtype == whole.columns[name].dtype
        assert np.array_equal(taken.columns[name], whole.columns[name])
        assert taken.columns[name].flags.writeable
    assert np.array_equal(taken.targets, whole.targets)
    assert taken.weights == pytest.approx(whole.weights)
    assert whole.weights.size == 0 or rows.all().weights.mean() == pytest.approx(1.0)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_batches_hold_every_row_once(pool: Pool, rows: Rows, size: int) -> None:
    in_order = list(pool.datasets.loader("p", 1, EVERYTHING, batch_size=size))
    assert [id_ for batch in in_order for id_ in batch.ids] == pool.ids("train")
    assert {len(batch) for batch in in_order[:-1]} <= {size}
    shuffled = [
        [id_ for batch in pool.datasets.loader("p", 1, EVERYTHING, batch_size=size, rng=np.random.default_rng(seed))
         for id_ in batch.ids]
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert all(Counter(ids) == Counter(pool.ids("train")) for ids in shuffled)


def test_the_other_split_is_given_by_name(pool: Pool) -> None:
    assert list(pool.datasets.rows("p", 1, EVERYTHING, split="test").all().ids) == pool.ids("test")


def test_a_part_of_the_inputs_is_enough(pool: Pool) -> None:
    fewer = Schema({"age": Number()}, EVERYTHING.output)
    assert set(pool.datasets.rows("p", 1, fewer)[0][0]) == {"age"}


def test_numbers_as_labels_are_targets(tmp_path: Path, database: Database, noon: datetime) -> None:
    pool, schema = Pool(database, tmp_path, noon), Schema(SCHEMA.inputs, Value())
    for i in range(12):
        pool.add("q", str(i), text=f"t {i}", label=i / 2)
    pool.form(project="q", schema=schema)
    rows = pool.datasets.rows("q", 1, schema)
    assert rows.take(np.arange(len(rows))).targets.tolist() == [int(id_) / 2 for id_ in pool.ids("train", "q")]


def test_what_is_not_there_is_refused(pool: Pool) -> None:
    with pytest.raises(NotFound, match="no dataset '9'"):
        pool.datasets.rows("p", 9, EVERYTHING)
    with pytest.raises(StoreError, match="formed for"):
        pool.datasets.rows("p", 1, Schema({"new": Text()}, EVERYTHING.output))


def test_rows_can_be_sent_to_another_process(rows: Rows) -> None:
    before = rows.all()
    sent = pickle.loads(pickle.dumps(rows))
    assert len(pickle.dumps(rows)) < 5_000, "the shards are not in it"
    assert sent.all().ids == before.ids


def test_a_torch_loader_takes_the_rows_as_they_are(pool: Pool, rows: Rows) -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    seen = 0
    for inputs, targets, weights in data.DataLoader(rows, batch_size=8, shuffle=True):
        assert inputs["picture"].dtype == torch.uint8 and inputs["picture"].shape == (len(targets), 2, 3)
        assert inputs["vector"].dtype == torch.float32
        assert inputs["text"] == ["ü" * int(age) for age in inputs["age"]]
        assert targets.tolist() == [int(age % 3 > 0) for age in inputs["age"]]
        assert weights.dtype == torch.float64
        seen += len(targets)
    assert seen == len(rows)
    sampler = data.BatchSampler(data.SequentialSampler(rows), 8, drop_last=False)
    whole = list(data.DataLoader(rows, batch_size=None, sampler=sampler))
    assert [len(targets) for _, targets, _ in whole] == [8] * (len(rows) // 8) + [len(rows) % 8] * (len(rows) % 8 > 0)
    assert whole[0][0]["picture"].shape == (8, 2, 3)


def test_torch_workers_read_for_themselves(rows: Rows) -> None:
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(rows, batch_size=16, num_workers=1, multiprocessing_context="spawn")
    assert sum(len(targets) for _, targets, _ in loader) == len(rows)
