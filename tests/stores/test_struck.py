"""Rows struck from the log are gone with their files, and every other row is as it was."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_rows import Mill, feedback, prediction
from sqlalchemy import Connection

from tidemill.clock import from_micros
from tidemill.records import Example
from tidemill.stores.database import Database
from tidemill.stores.duplicates import Sameness
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.struck import Struck, about, of_person
from tidemill.stores.tables import projects

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY_S = 86_400


@pytest.fixture
def mill(database: Database, tmp_path: Path) -> Mill:
    return Mill(tmp_path, database, NOON)


def strike(mill: Mill, subject: str, *, until: int, by_unit: bool = False, at_most: int = 99) -> int:
    """Strike a person's predictions; return how many rows that were."""
    log, num = Struck(mill.db, mill.folder / "log"), [0]

    @contextmanager
    def swap(_: str, rows: int) -> Iterator[Connection]:
        with mill.db.begin() as conn:
            yield conn
        num[0] += rows

    rows = of_person(subject, by_unit=by_unit, until=from_micros(until))
    while not log.strike("p", "predictions", rows, token=1, now=mill.now, swap=swap, at_most=at_most):
        pass
    return num[0]


def everything(mill: Mill) -> pl.DataFrame:
    return mill.log.predictions("p", after=None, until=mill.now + timedelta(days=400))


ROWS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", None]), st.sampled_from(["ann", "x"]), st.integers(0, 3 * DAY_S)),
    max_size=25,
)


@settings(max_examples=12)
@given(rows=ROWS, parts=st.integers(1, 4), until=st.integers(0, 3 * DAY_S), by_unit=st.booleans(), merged=st.booleans())
def test_exactly_the_rows_about_the_person_until_a_time_are_gone(
    rows: list[tuple[str | None, str, int]], parts: int, until: int, by_unit: bool, merged: bool
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        with Database.open(f"sqlite:///{folder}/tidemill.db") as db:
            mill = Mill(folder, db, NOON)
            made = [
                prediction(i, mill.at(second), subject=subject, unit=unit, inputs={"text": f"by {subject}/{unit}."})
                for i, (subject, unit, second) in enumerate(rows)
            ]
            for at in range(parts):
                if made[at::parts]:
                    mill.put(*made[at::parts])
            if merged:
                mill.now += timedelta(days=9)
                mill.compactor.merge_small(mill.lease(), now=mill.now)
                mill.now = NOON
            before = everything(mill)
            theirs = pl.col("subject").eq_missing(pl.lit("ann"))
            theirs = theirs | (pl.col("unit") == "ann") if by_unit else theirs
            doomed = theirs & (pl.col("received_at") <= mill.at(until))
            num = strike(mill, "ann", until=mill.at(until), by_unit=by_unit, at_most=1)
            after = everything(mill)
            assert num == (len(before.filter(doomed)) if len(before) else 0)
            kept = before.filter(~doomed) if len(before) else before
            assert after.select(sorted(after.columns)).equals(kept.select(sorted(after.columns)))
            named = {mill.folder / "log" / file.path for file in mill.compactor._files.find("p")}
            assert set(mill.files()) == named
    finally:
        shutil.rmtree(folder)


def test_a_file_that_is_merged_in_between_is_looked_for_again(mill: Mill) -> None:
    for i in range(4):
        mill.put(prediction(i, mill.at(i), subject="ann" if i % 2 else "bob"))
    log, later = Struck(mill.db, mill.folder / "log"), mill.now + timedelta(days=3)
    tries = []

    @contextmanager
    def swap(path: str, _: int) -> Iterator[Connection]:
        if not tries:
            tries.append(path)
            mill.compactor.merge_small(mill.lease(), now=later)
        with mill.db.begin() as conn:
            yield conn

    rows = of_person("ann", by_unit=False, until=later)
    assert log.strike("p", "predictions", rows, token=1, now=mill.now, swap=swap, at_most=9)
    assert mill.ids() == ["request-000000", "request-000002"]
    assert len(mill.files()) == 1


def test_a_merge_does_not_bring_back_what_was_struck_meanwhile(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        mill.put(prediction(i, mill.at(i), subject="ann" if i else "bob"))
    write = mill.journal.write

    def meanwhile(*given: object, **named: object) -> object:
        monkeypatch.undo()
        strike(mill, "ann", until=mill.at(99))
        return write(*given, **named)  # type: ignore[arg-type]

    lease = mill.lease()
    monkeypatch.setattr(mill.journal, "write", meanwhile)
    mill.compactor.merge_small(lease, now=mill.now + timedelta(days=3))
    assert mill.ids() == ["request-000000"]
    assert len(mill.files()) == 1


def test_the_compactor_leaves_a_file_alone_that_is_being_written(mill: Mill) -> None:
    """Its lease is newer than the token in the name, and yet it is another's."""
    mill.put(prediction(1, mill.at(1), subject="ann"), prediction(2, mill.at(2)))
    log = Struck(mill.db, mill.folder / "log")

    @contextmanager
    def swap(_: str, __: int) -> Iterator[Connection]:
        mill.heir()
        mill.another_compactor().compact(mill.lease(), now=mill.now)  # which sweeps
        with mill.db.begin() as conn:
            yield conn

    rows = of_person("ann", by_unit=False, until=mill.now + timedelta(days=1))
    assert log.strike("p", "predictions", rows, token=1, now=mill.now, swap=swap, at_most=9)
    assert mill.ids() == ["request-000002"]


def test_what_a_killed_one_never_named_is_swept(mill: Mill) -> None:
    mill.put(prediction(1, mill.at(1), subject="ann"), prediction(2, mill.at(2)))
    log = Struck(mill.db, mill.folder / "log")

    @contextmanager
    def killed(_: str, __: int) -> Iterator[Connection]:
        raise KeyboardInterrupt
        yield

    rows = of_person("ann", by_unit=False, until=mill.now + timedelta(days=1))
    with pytest.raises(KeyboardInterrupt):
        log.strike("p", "predictions", rows, token=3, now=mill.now, swap=killed, at_most=9)
    assert len(mill.files()) == 2
    log.tidy("p", token=2, compactor_token=1, left=[])
    assert len(mill.files()) == 2, "of a newer lease: it may be named yet"
    log.tidy("p", token=4, compactor_token=1, left=[])
    assert len(mill.files()) == 1


def test_feedback_is_struck_by_its_requests(mill: Mill) -> None:
    mill.put(*[feedback(i, mill.at(i), "ok") for i in range(5)])
    log = Struck(mill.db, mill.folder / "log")

    @contextmanager
    def swap(_: str, __: int) -> Iterator[Connection]:
        with mill.db.begin() as conn:
            yield conn

    ids = {"request-000001", "request-000004", "request-000009"}
    assert log.strike("p", "feedback", about(ids), token=1, now=mill.now, swap=swap, at_most=9)
    left = mill.log.feedback("p", after=None, until=mill.now + timedelta(days=1))["request_id"].to_list()
    assert left == ["request-000000", "request-000002", "request-000003"]


# --- the reservoir


def example(number: int, text: str) -> Example:
    return Example(
        id=f"e{number}", request_id=f"e{number}", unit="", received_at=NOON + timedelta(seconds=number),
        picked_at=NOON, reason="test", probability=None, split="", inputs={"text": text},
    )  # fmt: skip


@settings(max_examples=12)
@given(texts=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=12), data=st.data())
def test_examples_that_leave_take_their_inputs_along_and_no_others(texts: list[str], data: st.DataObject) -> None:
    doomed = data.draw(st.sets(st.integers(0, len(texts) - 1)))
    cut = data.draw(st.integers(0, len(texts)))
    folder = Path(tempfile.mkdtemp())
    try:
        with Database.open(f"sqlite:///{folder}/tidemill.db") as db:
            reservoir, sameness = Reservoir(db, folder / "reservoir"), Sameness()
            (folder / "reservoir").mkdir()
            with db.begin() as conn:
                conn.execute(
                    projects.insert().values(project="p", manifest="{}", strategy="", secret=b"", file="", updated_at=0)
                )
                new = [example(i, f"word-{text}") for i, text in enumerate(texts)]
                reservoir.add(conn, "p", new[:cut], sameness=sameness)
                reservoir.add(conn, "p", new[cut:], sameness=sameness)
            stay = [one.id for i, one in enumerate(new) if i not in doomed]
            splits = dict(reservoir.index("p").select("id", "split").iter_rows())
            before = reservoir.inputs("p", stay)
            with db.begin() as conn:
                removed = reservoir.remove(conn, "p", [f"e{i}" for i in sorted(doomed)], sameness=sameness)
            with db.begin() as conn:
                reservoir.sweep(conn, "p")
            assert removed.examples == len(doomed)
            assert reservoir.inputs("p", stay) == before
            left = {text for i, text in enumerate(texts) if i not in doomed}
            on_disk = b"".join(path.read_bytes() for path in (folder / "reservoir").rglob("*.arrow"))
            assert {text for text in "abcd" if f"word-{text}".encode() in on_disk} == left
            index = reservoir.index("p")
            assert dict(index.select("id", "split").iter_rows()) == {
                id_: split for id_, split in splits.items() if id_ in stay
            }
            groups = index.select("id", "duplicates").rows()
            by_text: dict[str, set[str]] = {}
            for id_, group in groups:
                by_text.setdefault(texts[int(id_[1:])], set()).add(group)
            assert all(len(found) == 1 for found in by_text.values()), "equal ones are one group still"
    finally:
        shutil.rmtree(folder)
