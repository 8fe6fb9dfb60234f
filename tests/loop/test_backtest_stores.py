"""The stores of a backtest answer as the real ones do, of the same facts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from backtests import PROJECT, START, recorded, stream
from polars.testing import assert_frame_equal

from tidemill.clock import from_micros, micros
from tidemill.errors import NotFound, StoreError
from tidemill.loop.backtest.datasets import MemoryDatasets
from tidemill.loop.backtest.log import MemoryLog
from tidemill.loop.backtest.memo import Memo
from tidemill.loop.backtest.reservoir import MemoryReservoir
from tidemill.loop.backtest.stream import Stream
from tidemill.loop.backtest.values import Values
from tidemill.loop.picked import PROBABILITY, REASON, PickedRows
from tidemill.records import Feedback, Prediction, Trust
from tidemill.stores.columns import feedback_table, prediction_tables
from tidemill.stores.database import Database
from tidemill.stores.duplicates import Sameness
from tidemill.stores.memory import MemoryDatabase
from tidemill.stores.reservoir import Reservoir

sys.path.insert(0, str(Path(__file__).parents[1] / "stores"))

from log_rows import Mill, feedback, prediction  # the rows of the log's own suite

SAMENESS = Sameness.of(PROJECT.schema)
Both = list[Reservoir]


def picked(known: Stream, rows: list[int], *, labelled: bool = True, at: timedelta = timedelta(days=1)) -> PickedRows:
    """Rows of a stream as curation picks them."""
    frame = known.frame[rows].with_columns(
        decision=pl.lit("high"),
        answered_version=pl.lit(1, dtype=pl.Int64),
        label=Values(PROJECT.output).series("label", known.truth[rows]) if labelled else pl.lit(None, dtype=pl.String),
        label_trust=pl.lit("crowd") if labelled else pl.lit(None, dtype=pl.String),
        label_at=pl.col("received_at") + 1_000 if labelled else pl.lit(None, dtype=pl.Int64),
    )
    frame = frame.with_columns(pl.lit("random").alias(REASON), pl.lit(0.5).alias(PROBABILITY))
    return PickedRows(frame, picked_at=START + at, inputs=tuple(PROJECT.inputs))


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    """A log in files, empty."""
    with Database.open(f"sqlite:///{tmp_path / 'tidemill.db'}") as db:
        yield Mill(tmp_path, db, START)


@pytest.fixture
def known() -> Stream:
    table = recorded(120)
    return stream(pl.concat([table, table.with_columns(pl.col("time") + timedelta(days=1))]))  # each has a duplicate


@pytest.fixture
def both(known: Stream, tmp_path: Path) -> Both:
    """The reservoir in SQL and files, and that in memory."""
    db = Database.open(f"sqlite:///{tmp_path / 'it.db'}")
    (tmp_path / "reservoir").mkdir()
    return [Reservoir(db, tmp_path / "reservoir"), MemoryReservoir(known, Values(PROJECT.output))]


def told(both: Both, do: Callable[[Reservoir, Any], object]) -> list[object]:
    """Do something to both, each in a transaction of its own."""
    found = []
    for reservoir in both:
        database = getattr(reservoir, "_db", None) or MemoryDatabase()
        with database.begin() as conn:
            found.append(do(reservoir, conn))
    return found


def assert_alike(both: Both) -> None:
    frames = [reservoir.index("waves") for reservoir in both]
    groups = [frame["duplicates"].rank("dense") for frame in frames]
    assert (groups[0].n_unique(), len(groups[0])) == (groups[1].n_unique(), len(groups[1]))
    assert_frame_equal(*[frame.drop("duplicates") for frame in frames])
    numbers = [(r.num_labelled("waves"), r.num_waiting("waves")) for r in both]
    assert numbers[0] == numbers[1]


def test_examples_are_inserted_once_with_the_split_of_their_duplicates(known: Stream, both: Both) -> None:
    for rows in ([3, 4, 5, 123], [5, 125, 60], list(range(200, 240))):
        news = told(both, lambda r, conn, rows=rows: r.add(conn, "waves", picked(known, rows), sameness=SAMENESS))
        assert news[0] == news[1]
        assert_alike(both)
    assert both[0].present("waves", ["000000004", "000000007"]) == both[1].present("waves", ["000000004", "000000007"])
    for reservoir in both:
        one = reservoir.examples("waves", ["000000060"])[0]
        assert one.inputs == both[0].inputs("waves", ["000000060"])[0]
        assert (one.label, one.trust, one.unit) == (
            both[0].examples("waves", ["000000060"])[0].label,
            "crowd",
            "user-60",
        )


def test_the_best_label_counts_and_then_the_newest(known: Stream, both: Both) -> None:
    told(both, lambda r, conn: r.add(conn, "waves", picked(known, [1, 2, 3, 4], labelled=False), sameness=SAMENESS))
    said = pl.DataFrame(
        [
            ("000000001", 10, "high", "feedback", "crowd"), ("000000001", 20, "low", "feedback", "crowd"),
            ("000000002", 10, "high", "people", "people"), ("000000002", 20, "low", "feedback", "crowd"),
        ],
        schema=["request_id", "received_at", "value", "source", "trust"], orient="row",
    )  # fmt: skip
    told(both, lambda r, conn: r.label_all(conn, "waves", said))
    for reservoir in both:
        labels = dict(reservoir.index("waves").select("id", "label").iter_rows())
        assert labels == {"000000001": "low", "000000002": "high", "000000003": None, "000000004": None}
    later, earlier = from_micros(30), from_micros(5)
    for at in (earlier, later):
        counts = told(
            both,
            lambda r, conn, at=at: r.label(
                conn, "waves", "000000001", value="high", trust=Trust.CROWD, source="feedback", at=at
            ),
        )
        assert counts == [at == later] * 2
    assert_alike(both)


def test_what_is_asked_waits_until_it_is_answered(known: Stream, both: Both) -> None:
    told(both, lambda r, conn: r.add(conn, "waves", picked(known, [7, 8, 9, 10], labelled=False), sameness=SAMENESS))
    ids = ["000000009", "000000007", "000000010"]
    for at, some in enumerate((ids[:2], ids)):
        now = START + timedelta(days=2, hours=at)
        told(both, lambda r, conn, some=some, now=now: r.ask(conn, "waves", some, priority=0.0, now=now))
    queues = [[e.id for e in r.next_in_queue("waves", 5)] for r in both]
    assert queues == [["000000007", "000000009", "000000010"]] * 2
    now = START + timedelta(days=3)
    told(both, lambda r, conn: r.answer(conn, "waves", ids[0], value="low", by="ann", now=now, trust=Trust.PEOPLE))
    told(both, lambda r, conn: r.skip(conn, "waves", ids[1], by="ann", now=now))
    told(both, lambda r, conn: r.ask(conn, "waves", ids, priority=0.0, now=now))
    assert [r.num_waiting("waves") for r in both] == [1, 1]
    assert_alike(both)


def test_an_example_that_is_not_there_is_named(both: Both) -> None:
    for reservoir in both:
        with pytest.raises(NotFound, match="000000011"):
            reservoir.inputs("waves", ["000000011"])


@pytest.mark.parametrize("role", ["answer", "shadow"])
@pytest.mark.parametrize("span", [(None, 90.0), (0.0, 30.0), (29.9, 30.0), (12.5, 61.0), (70.0, 71.0)])
def test_the_log_in_memory_tells_what_the_log_tells(mill: Mill, role: str, span: tuple[float | None, float]) -> None:
    rng = np.random.default_rng(4)
    predictions = [
        prediction(i, mill.at(i), role=role, decision=str(rng.choice(["ok", "toxic"])), scores=[0.5, 0.5])
        for i in range(80)
    ]
    facts = [feedback(i, mill.at(i + float(rng.integers(20))), "toxic", trust="crowd") for i in range(0, 80, 3)]
    facts += [feedback(i, mill.at(i + 3), "ok") for i in range(0, 80, 7)]
    mill.put(*predictions, *facts)
    memory = memory_log(predictions, facts)
    after, until = (None if second is None else from_micros(mill.at(second)) for second in span)
    assert until is not None
    given: dict[str, Any] = {"after": after, "until": until}
    names = ["request_id", "received_at", "unit", "decision", "scores", "text", "age", "rollout"]
    for log in (mill.log, memory):
        assert log.complete_until(until) == until
    questions: list[Callable[[Any], pl.DataFrame]] = [
        lambda log: log.predictions("p", **given, role=role, columns=names),
        lambda log: log.feedback("p", **given, kinds=["label"]),
        lambda log: log.labels("p", **given),
        lambda log: log.lookup("p", ["request-000003", "request-000077"], role=role, columns=names),
        *(
            lambda log, trust=trust, columns=columns: log.outcomes(
                "p", **given, horizon=timedelta(seconds=9), trust=trust, role=role, columns=columns
            )
            for trust, columns in (
                (Trust.CROWD, names),
                (Trust.FUNCTIONS, names),
                (Trust.TRUTH, names),
                (Trust.CROWD, names[:4]),
            )
        ),
    ]
    for ask in questions:
        assert_frame_equal(ask(mill.log), ask(memory))


def memory_log(predictions: list[Prediction], facts: list[Feedback]) -> MemoryLog:
    """The same rows in memory, in three parts as windows give them."""
    log = MemoryLog()
    facts = sorted(facts, key=lambda fact: fact.received_at)
    for rows in (predictions[:30], predictions[30:31], predictions[31:]):
        for table in prediction_tables(rows):
            log.append("predictions", pl.DataFrame(table))
    for some in (facts[:9], facts[9:]):
        log.append("feedback", pl.DataFrame(feedback_table(some)))
    return log


def test_a_dataset_holds_the_rows_and_labels_of_its_moment(known: Stream) -> None:
    reservoir = MemoryReservoir(known, Values(PROJECT.output))
    datasets = MemoryDatasets(known, reservoir, Values(PROJECT.output), Memo(known, PROJECT))
    with MemoryDatabase().begin() as conn:
        reservoir.add(conn, "waves", picked(known, list(range(60))), sameness=SAMENESS)
        index = reservoir.index("waves")
        train = index.filter(pl.col("split") == "train")["id"].to_list()
        form: dict[str, Any] = {"formed_by": "all", "parent": None, "schema": PROJECT.schema, "now": START}
        first = datasets.form(conn, "waves", ids=train, weights=[2.0] * len(train), test_trust=Trust.CROWD, **form)
        again = datasets.form(conn, "waves", ids=train, weights=[2.0] * len(train), test_trust=Trust.CROWD, **form)
        assert again == first
        reservoir.label(conn, "waves", train[0], value="low", trust=Trust.TRUTH, source="it", at=START)
        reservoir.label(conn, "waves", train[1], value="high", trust=Trust.TRUTH, source="it", at=START)
        other = datasets.form(conn, "waves", ids=train, weights=[2.0] * len(train), test_trust=Trust.CROWD, **form)
        with pytest.raises(StoreError, match="test row"):
            test = index.filter(pl.col("split") == "test")["id"].to_list()
            datasets.form(conn, "waves", ids=test[:1], weights=[1.0], **form)
    assert other.digest != first.digest
    data = datasets.training_data("waves", first.digest, PROJECT.schema)
    assert data.ids == tuple(train)
    np.testing.assert_array_equal(data.weights, np.ones(len(train)))
    labels = dict(index.select("id", "label").iter_rows())
    assert [PROJECT.output.names[t] for t in data.targets] == [labels[id_] for id_ in train]
    np.testing.assert_array_equal(data.columns["x"], known.frame["x"].gather([int(id_) for id_ in train]).to_numpy())
    tests = datasets.test_rows("waves", first.digest)
    assert set(tests["id"]) == set(index["id"]) - set(train)
    assert micros(START) <= int(tests["received_at"][0])
