"""A person who is forgotten leaves no byte in the home, everybody else keeps everything, and no kill changes that."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from persons import NOW, WORDS, Persons, holding, opened, prediction
from sqlalchemy import Connection, select, text

from tidemill.clock import micros
from tidemill.errors import NotFound, StoreError
from tidemill.loop.suites import add_logged
from tidemill.records import Example
from tidemill.runtime.artefact import example_rows, read_artefact
from tidemill.stores.audit import Audit
from tidemill.stores.database import Database
from tidemill.stores.export import export
from tidemill.stores.reservoir import Reservoir
from tidemill.stores.segments import Batch, SegmentWriter
from tidemill.stores.tables import erasures

KILLED = 77
_CONTEXT = multiprocessing.get_context("forkserver")


def _about(rows: list[Any], ids: set[str]) -> list[Any]:
    return [row for row in rows if any(id_ in repr(row) for id_ in ids)]


def checked(persons: Persons, subject: str, before: dict[str, list[Any]], done: Any) -> None:
    """Hold what is left against what there was."""
    word, after = WORDS[subject], persons.rows()
    mine = {row["request_id"] for row in before["predictions"] if row["subject"] == subject}
    assert len(mine) == 10
    assert holding(persons.folder, word) == []
    gone = {row["request_id"] for row in before["feedback"]} - {row["request_id"] for row in after["feedback"]}
    assert gone <= mine
    assert not any(id_ in repr(row) for row in after["feedback"] for id_ in mine)
    for kind, rows in before.items():
        if kind not in ("datasets", "models", "reports", "duplicate_leaders", "duplicate_bands"):
            kept = [row for row in rows if row not in _about(rows, mine)]
            assert after[kind] == kept, kind
    assert len(after["models"]) == len(before["models"])
    lines = (persons.folder / "suites" / "past_bugs.jsonl").read_text().splitlines()
    assert len(lines) == len(WORDS)  # that by hand, and the others'
    assert done.subject is None
    assert done.body["counts"] == {
        "predictions": 10, "feedback": 8, "profiles": 1, "cases": 1,
        **{name: len(rows) for name, rows in (
            ("examples", [row for row in before["examples"] if row["id"] in mine]),
            ("tasks", _about(before["queue"], mine)), ("labellings", _about(before["labellings"], mine)),
        )},
    }  # fmt: skip
    assert min(done.body["counts"].values()) > 0
    assert persons.app.status().trouble == {}


@pytest.mark.parametrize("subject", WORDS)
def test_no_byte_of_a_person_is_left_in_the_home_and_all_other_rows_are_as_they_were(
    persons: Persons, subject: str
) -> None:
    known = persons.app.known_of(subject)
    assert (known.datasets, known.models) == ([1], [1])
    assert len(holding(persons.folder, WORDS[subject])) >= 5
    before = persons.rows()
    done = persons.forget(subject, datasets=True)
    assert dict(known.counts) == done.body["counts"]
    checked(persons, subject, before, done)
    again = persons.app.known_of(subject)
    assert set(again.counts.values()) == {0}
    assert (again.datasets, again.erased, again.models) == ([], [1], [1])


def test_on_postgresql_the_same_is_left(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    persons = Persons.make(tmp_path, database=postgres_url)
    before, refused, remove = persons.rows(), list[NotFound](), Reservoir.remove
    ids = [one["id"] for one in before["examples"] if one["split"] == "train" and one["label"] is not None]
    former = threading.Thread(target=form, args=(persons, ids, refused))

    def removing(*given: Any, **how: Any) -> Any:
        former.start()  # as somebody trains a first version just now
        former.join(0.5)
        return remove(*given, **how)

    monkeypatch.setattr(Reservoir, "remove", removing)
    done = persons.forget("bob")
    former.join()
    assert len(refused) == 1, "what they were in is gone before a dataset can be formed of it"
    checked(persons, "bob", before, done)
    with persons.world.db.read() as conn:
        for table in ("examples", "queue", "labellings", "erasures", "reports", "states", "audit"):
            assert WORDS["bob"] not in repr(conn.execute(text(f"SELECT * FROM {table}")).all())
    persons.close()


def form(persons: Persons, ids: list[str], refused: list[NotFound]) -> None:
    try:
        with persons.world.db.begin() as conn:
            persons.world.datasets.form(
                conn, "notes", ids=ids, weights=[1.0] * len(ids), formed_by="test", parent=None,
                schema=persons.app.project.schema, now=NOW,
            )  # fmt: skip
    except NotFound as error:
        refused.append(error)


def test_without_the_flag_dataset_versions_stay_whole_and_can_be_erased_later(persons: Persons) -> None:
    done = persons.forget("ann")
    assert len(done.body["datasets"]) == 1
    assert [name.split("/")[1] for name in holding(persons.folder, WORDS["ann"])] == ["datasets"]
    (version,) = persons.world.datasets.all("notes")
    assert len(persons.world.datasets.train_rows("notes", version.digest)) == version.num_train
    assert persons.app.known_of("ann").datasets == [1], "found by the mark, when no row tells it any more"
    persons.forget("ann", datasets=True)
    assert holding(persons.folder, WORDS["ann"]) == []


def test_an_erased_dataset_says_so_and_its_record_stays(persons: Persons, tmp_path: Path) -> None:
    (before,) = persons.world.datasets.all("notes")
    persons.forget("ann", datasets=True)
    datasets, schema = persons.world.datasets, persons.app.project.schema
    (after,) = datasets.all("notes")
    assert (after.digest, after.num_train, after.formed_by) == (before.digest, before.num_train, before.formed_by)
    assert after.erased_at is not None
    for read in (
        lambda: datasets.training_data("notes", after.digest, schema),
        lambda: next(datasets.loader("notes", 1, schema, batch_size=4)),
        lambda: datasets.contents("notes", after.digest),
        lambda: export(datasets, "notes", 1, tmp_path / "out.parquet"),
    ):
        with pytest.raises(StoreError, match="dataset 1 of 'notes' was erased on 2026-01-01: somebody in it"):
            read()
    assert not (tmp_path / "out.parquet").exists()


def test_the_version_goes_on_answering_without_showing_the_persons_rows(persons: Persons) -> None:
    world = persons.world
    before = world.catalog.model("notes", 1).artefact
    rows = example_rows(read_artefact(world.blobs.folder(before)))
    theirs = {word: [row for row in rows if word in row["text"]] for word in WORDS.values()}
    subject = next(name for name, word in WORDS.items() if theirs[word])
    persons.forget(subject)
    after = world.catalog.model("notes", 1).artefact
    left = example_rows(read_artefact(world.blobs.folder(after)))
    assert left == [row for row in rows if WORDS[subject] not in row["text"]]
    loaded = world.load(after)  # which proves that it answers as it did
    loaded.close()


def test_rows_that_come_later_are_rows_like_any(persons: Persons) -> None:
    persons.forget("ann")
    later = {row.request_id for row in persons.ask(rows=3, seed=9) if row.subject == "ann"}
    persons.clock.sleep(20)
    persons.turn()
    found = [row["request_id"] for row in persons.rows()["predictions"] if row["subject"] == "ann"]
    assert set(found) == later
    assert later <= set(persons.world.reservoir.index("notes")["id"])


def test_what_gateways_have_not_handed_over_is_counted_and_deleted(persons: Persons) -> None:
    persons.ask(rows=4, seed=9)
    known = persons.app.known_of("cid")
    assert (known.counts["predictions"], known.counts["feedback"]) == (14, 12)
    assert persons.forget("cid", datasets=True).body["counts"]["predictions"] == 14
    assert holding(persons.folder, WORDS["cid"]) == []


def test_it_waits_for_a_gateway_that_may_still_hand_over_older_rows(persons: Persons) -> None:
    now = micros(persons.clock.now())
    writer = SegmentWriter(persons.world.home.segments, "slow", low_at=now - 1_000_000)
    row = prediction("0" * 36, now - 500, "ann", WORDS["ann"], f"wind {WORDS['ann']}")
    number = persons.app.forget("ann", datasets=True)
    persons.clock.sleep(5)
    persons.finish()
    assert persons.app.erasure(number).stage == "find"
    writer.append(msgspec.msgpack.encode(Batch(project="notes", predictions=[row])))
    writer.close()
    persons.finish()
    assert persons.app.erasure(number).body["counts"]["predictions"] == 11
    assert holding(persons.folder, WORDS["ann"]) == []


def test_an_unknown_person_is_an_erasure_of_nothing(persons: Persons) -> None:
    before = persons.rows()
    done = persons.forget("nobody")
    assert set(done.body["counts"].values()) == {0}
    assert (done.body["datasets"], done.body["models"]) == ([], [])
    assert persons.rows() == before


def test_by_unit_goes_what_bears_the_unit_and_no_subject(persons: Persons) -> None:
    unit = f"unit-{WORDS['ann']}"
    assert set(persons.app.known_of(unit).counts.values()) == {0}
    done = persons.forget(unit, by_unit=True, datasets=True)
    assert done.body["counts"]["predictions"] == 10
    assert holding(persons.folder, WORDS["ann"]) == []


def test_the_audit_log_has_a_mark_and_not_the_name(persons: Persons) -> None:
    persons.forget("ann", reason="asked by letter")
    acts = Audit(persons.world.db).acts("notes")[:2]
    assert [act.verb for act in acts] == ["forget", "forget"]
    assert len({act.thing for act in acts}) == 1
    assert "10 predictions" in acts[0].result
    assert not any("ann" in act.thing + act.result for act in acts)
    with persons.world.db.read() as conn:
        assert conn.execute(select(erasures.c.subject)).scalars().all() == [None]


@pytest.mark.parametrize("padding", [0, 1_925], ids=["whole", "cut"])
def test_audit_rows_that_quote_a_persons_case_quote_it_no_more(persons: Persons, padding: int) -> None:
    """Rows as `suite add` wrote them before: the inputs stand in the words, to the length that a row has."""
    world, now = persons.world, persons.clock.now()
    asked = {row["subject"]: row for row in persons.rows()["predictions"][:20] if isinstance(row, dict)}
    said = {
        who: add_logged(world, "past_bugs", [asked[who]["request_id"]], label=None, note="", by="a", now=now)[0]
        for who in ("ann", "bob")
    }
    assert WORDS["ann"] in said["ann"]
    with world.db.begin() as conn:
        for words in said.values():
            result = f"{'x' * padding}; {words}"
            assert words is not said["ann"] or WORDS["ann"] in result[:2_000]
            Audit(world.db).add(conn, "notes", by="a", verb="add to suite", reason=result, result=result, now=now)
    done = persons.forget("ann", datasets=True)
    bob, ann = (act for act in Audit(world.db).acts("notes") if act.verb == "add to suite")
    assert WORDS["ann"] not in ann.result + ann.reason and "forgotten" in ann.result
    assert done.stage == "done" and (padding or WORDS["bob"] in bob.result)
    assert holding(persons.folder, WORDS["ann"]) == []


def test_what_somebody_picks_meanwhile_is_deleted_too(persons: Persons) -> None:
    """A page that still saw the person's request in the log puts it into the reservoir after they were looked for."""
    num_before = persons.app.known_of("ann").counts["examples"]
    number = persons.app.forget("ann")
    persons.clock.sleep(1)
    engine = persons.app.engine()
    while persons.app.erasure(number).stage != "feedback":
        engine.take("forget")
    at = persons.clock.now() - timedelta(seconds=30)
    late = Example(
        id="late", request_id="late", unit="u", subject="ann", received_at=at, picked_at=at, reason="asked",
        probability=None, split="", inputs={"text": f"late {WORDS['ann']}", "length": 3.0},
    )  # fmt: skip
    with persons.world.db.begin() as conn:
        persons.world.reservoir.add(conn, "notes", [late], sameness=persons.world.sameness)
    while engine.take("forget"):
        pass
    engine.let_go()
    assert persons.app.erasure(number).body["counts"]["examples"] == num_before + 1
    assert "late" not in persons.world.reservoir.index("notes")["id"]


def test_the_cycle_that_learns_from_an_erased_dataset_ends(persons: Persons) -> None:
    persons.app.ask("retrain", by="ann")
    persons.clock.sleep(1)
    engine = persons.app.engine()
    while (cycle := persons.world.journal.cycle("notes")) is None or cycle.step != "train":
        engine.turn()
    engine.let_go()
    persons.forget("bob", datasets=True)
    (closed,) = persons.world.journal.cycles("notes")
    assert closed.outcome == "failed"
    assert closed.reason.startswith("somebody in its dataset was forgotten")
    persons.turn()
    assert persons.app.status().trouble == {}
    assert holding(persons.folder, WORDS["bob"]) == []


# --- kills


def forget_and_die(folder: Path, fate: int) -> None:
    """In a child: go on with the erasure, and end at one of the operations on the disk or the database."""
    left = [fate]

    def around(act: Callable[..., Any]) -> Callable[..., Any]:
        def doing(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and fate % 2:
                os._exit(KILLED)
            try:
                return act(*given, **named)
            finally:
                if left[0] == 0:
                    os._exit(KILLED)

        return doing

    begin = Database.begin

    @contextmanager
    def counted(self: Database) -> Iterator[Connection]:
        with begin(self) as conn:
            yield conn
            left[0] -= 1
            if left[0] == 0 and fate % 2:
                os._exit(KILLED)
        if left[0] == 0:
            os._exit(KILLED)

    persons = Persons(folder, now=NOW + timedelta(seconds=5))
    with persons.world.db.begin() as conn:
        conn.execute(text("UPDATE leases SET expires_at = 0"))  # those of the killed: nobody waits for their end here
    Database.begin = counted  # type: ignore[method-assign]
    for name in ("replace", "unlink", "rename"):
        setattr(Path, name, around(getattr(Path, name)))
    os.fsync = around(os.fsync)
    persons.finish()
    os._exit(0)


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(persons: Persons) -> None:
    before = persons.rows()
    number = persons.app.forget("ann", datasets=True)
    persons.close()
    kills, fate = 0, 1
    while True:
        child = _CONTEXT.Process(target=forget_and_die, args=(persons.folder, fate))
        child.start()
        child.join(60)
        assert child.exitcode in (0, KILLED)
        if child.exitcode == 0:
            break
        kills, fate = kills + 1, 1 + (fate + 12) % 41
    assert kills >= 5
    with opened(persons.folder, now=NOW + timedelta(seconds=30)) as after:
        checked(after, "ann", before, after.app.erasure(number))
        named = {path for (path,) in _paths(after)}
        log = after.world.home.log
        assert {str(p.relative_to(log)) for p in log.rglob("*") if p.is_file()} == named
        acts = [act for act in Audit(after.world.db).acts("notes") if act.result.startswith("deleted")]
        assert len(acts) == 1


def _paths(persons: Persons) -> list[Any]:
    with persons.world.db.read() as conn:
        return list(conn.execute(text("SELECT path FROM log_files")).all())
