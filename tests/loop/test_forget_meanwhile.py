"""What is made, tested or stuck while a person is being forgotten is not overlooked, and keeps nobody else waiting."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from persons import NOW, WORDS, Persons, holding

from tidemill.clock import micros
from tidemill.errors import Corrupt
from tidemill.loop.suites import run_suites, sources_of
from tidemill.runtime.artefact import example_rows, read_artefact
from tidemill.stores.blobs import Blobs
from tidemill.stores.erasures import Erasures
from tidemill.stores.struck import Struck
from tidemill.training import runner


def retrain_until(persons: Persons, wanted: str) -> None:
    persons.app.ask("retrain", by="ann")
    persons.clock.sleep(1)
    engine = persons.app.engine()
    while (cycle := persons.world.journal.cycle("notes")) is None or cycle.step != wanted:
        engine.turn()
    if wanted == "train":
        engine.turn()  # the process is started
    engine.let_go()


def shown(persons: Persons, version: int) -> str:
    world = persons.world
    return repr(example_rows(read_artefact(world.blobs.folder(world.catalog.model("notes", version).artefact))))


def test_a_version_that_is_registered_meanwhile_shows_nobody_who_was_forgotten(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three of them, as nobody knows beforehand whose rows a version will show."""
    retrain_until(persons, "train")
    numbers = [persons.app.forget(subject) for subject in WORDS]
    persons.clock.sleep(1)
    for _ in numbers:  # it stops at each that waits
        persons.finish()
    assert {persons.app.erasure(number).stage for number in numbers} == {"strip"}
    with monkeypatch.context() as patch:
        patch.setattr(Struck, "_read", lambda *_: pytest.fail("the log is read while it waits"))
        persons.clock.sleep(5)
        for _ in numbers:
            persons.finish()
    assert {persons.app.erasure(number).rest["times"] for number in numbers} == {2}
    while any(persons.app.erasure(number).done_at is None for number in numbers):
        persons.turn()
        persons.clock.sleep(5)
        assert persons.clock.now() < NOW + timedelta(minutes=2)
    done = [persons.app.erasure(number) for number in numbers]
    assert all(one.done_at is not None and 2 in one.body["models"] for one in done)
    made = persons.world.catalog.runs("notes")[-1].body["artefact"]
    assert persons.world.catalog.model("notes", 2).artefact != made, "it showed somebody"
    for word in WORDS.values():
        assert word not in shown(persons, 1) + shown(persons, 2)
        assert {path.split("/")[1] for path in holding(persons.folder, word)} == {"datasets"}
    persons.world.load(persons.world.catalog.model("notes", 2).artefact).close()
    assert persons.app.status().trouble == {}


def test_a_suite_that_cannot_be_written_holds_up_neither_the_rest_nor_the_next(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, persons.folder / "suites")
    first = persons.app.forget("ann", datasets=True)
    persons.clock.sleep(1)
    persons.finish()
    assert holding(persons.folder / "home" / "log", WORDS["ann"]) == []
    assert holding(persons.folder / "home" / "reservoir", WORDS["ann"]) == []
    assert persons.app.erasure(first).done_at is None
    (trouble,) = persons.app.status().trouble.values()
    assert "past_bugs.jsonl" in trouble["error"]
    cases = persons.folder / "suites" / "past_bugs.jsonl"
    cases.write_text("".join(line for line in cases.read_text().splitlines(keepends=True) if WORDS["bob"] not in line))
    assert persons.forget("bob").done_at is not None, "the next does not wait"
    monkeypatch.undo()
    persons.clock.sleep(300)
    persons.finish()
    done = persons.app.erasure(first)
    assert (done.done_at is not None, done.body["counts"]["cases"]) == (True, 1)
    assert holding(persons.folder, WORDS["ann"]) == []
    assert persons.app.status().trouble == {}


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let nobody write into a folder; for root too, whom its mode does not stop."""
    real = os.open

    def refusing(path: Any, flags: int, *more: Any, **how: Any) -> int:
        if Path(os.fsdecode(path)) == folder:
            raise PermissionError(13, "Read-only file system", str(path))
        return real(path, flags, *more, **how)

    monkeypatch.setattr(os, "open", refusing)


def test_what_a_training_goes_on_from_is_not_overwritten_while_it_runs(persons: Persons) -> None:
    world = persons.world
    old = world.catalog.model("notes", 1).artefact
    subject = next(name for name, word in WORDS.items() if word in shown(persons, 1))
    workdir = world.workdir("fine")
    workdir.mkdir(parents=True)
    runner.sign(workdir, os.getpid())  # a process that lives: this one
    with world.db.begin() as conn:
        world.catalog.start_run(conn, "notes", "fine", None, {"parent": 1}, persons.clock.now())
    waiting = persons.forget(subject)
    assert waiting.stage == "models"
    Blobs(world.home.blobs).folder(old)  # as stored: a process of its own may open it
    (workdir / runner.PROCESS).unlink()
    persons.clock.sleep(5)
    persons.finish()
    assert persons.app.erasure(waiting.id).done_at is not None
    with pytest.raises(Corrupt):
        Blobs(world.home.blobs).folder(old)
    assert {path.split("/")[1] for path in holding(persons.folder, WORDS[subject])} == {"datasets"}


def test_what_has_failed_for_days_rests_and_goes_on_once_it_is_mended(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = persons.app.forget("ann", datasets=True)
    world, engine = persons.world, persons.app.engine()
    broken = {"why": "broken", "error": "broken", "times": 1_023, "since": 0, "again_at": 0}
    with world.db.begin() as conn:
        Erasures(world.db).put(conn, number, stage="find", body={"rest": broken})
        world.journal.put_state(conn, "notes", "trouble", {"retain": {**broken, "error": "x"}}, persons.clock.now())
    refuse(monkeypatch, persons.folder / "suites")
    persons.clock.sleep(1)
    while engine.turn():
        pass
    assert persons.app.erasure(number).rest["times"] == 1
    with world.db.begin() as conn:
        known = persons.app.erasure(number)
        rest = {**known.rest, "times": 1_023, "again_at": 0}
        Erasures(world.db).put(conn, number, stage=known.stage, body={**known.body, "rest": rest})
    engine.turn()
    assert persons.app.erasure(number).rest["times"] == 1_024
    monkeypatch.undo()
    persons.clock.sleep(301)
    while engine.turn():
        pass
    engine.let_go()
    assert persons.app.erasure(number).done_at is not None


def test_who_reads_the_database_for_long_costs_no_disk_and_holds_nobody_else_up(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.stores.engines._WIPE_TIMEOUT_S", 0)
    wal = persons.folder / "home" / "tidemill.db-wal"
    with closing(sqlite3.connect(persons.folder / "home" / "tidemill.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM examples").fetchone()
        first = persons.forget("ann", datasets=True)
        assert (first.stage, first.rest["why"]) == ("wipe", "somebody still reads an older state of the database")
        size = wal.stat().st_size
        rests = []
        for _ in range(4):
            rest = persons.app.erasure(first.id).rest
            rests.append(rest["again_at"] - micros(persons.clock.now()))
            persons.clock.sleep(61)
            persons.finish()
        assert rests == sorted(rests) and rests[-1] > rests[0], "it asks less and less often"
        num_bytes = (persons.folder / "home" / "tidemill.db").stat().st_size
        assert wal.stat().st_size - size < num_bytes, "it is written anew once"
        second = persons.forget("bob", datasets=True)
        assert second.stage == "wipe", "the next does not wait"
    persons.clock.sleep(61)
    persons.finish()
    assert all(persons.app.erasure(one.id).done_at is not None for one in (first, second))
    assert holding(persons.folder, WORDS["ann"], WORDS["bob"]) == []


def test_trainings_that_became_no_version_leave_no_rows(persons: Persons) -> None:
    """One that was killed at its work, one after it had stored its artefact, one as it was rejected; one goes on."""
    world, word = persons.world, WORDS["ann"]
    stored = {}
    for run, status in (("killed", "running"), ("late", "failed"), ("rejected", "failed"), ("other", "running")):
        workdir = world.workdir(run)
        for name in (runner.SCRATCH, runner.ARTEFACT):
            (workdir / name).mkdir(parents=True)
            (workdir / name / "artefact.json").write_text(f"{run} {word if run != 'other' else 'other'}")
        stored[run] = world.blobs.put_folder(workdir / runner.ARTEFACT)
        made = runner.RESULT if run == "rejected" else runner.MADE
        runner.write_json(workdir / made, {"artefact": stored[run]})
        with world.db.begin() as conn:
            world.catalog.start_run(conn, "notes", run, None, {}, persons.clock.now())
            if status == "failed":
                world.catalog.end_run(conn, "notes", run, status, {}, persons.clock.now())
    runner.write_json(world.workdir("killed") / runner.PROCESS, {"pid": 2**22 + 1, "started": "never"})
    runner.sign(world.workdir("other"), os.getpid())
    (world.home.blobs / ".tmp-0").mkdir()
    (world.home.blobs / ".tmp-0" / "artefact.json").write_text(word)  # as a training was killed that stored it
    assert persons.forget("ann", datasets=True).done_at is not None
    assert holding(persons.folder, word) == []
    assert stored["other"] in world.blobs.stored()
    assert (world.workdir("other") / runner.SCRATCH).exists(), "it runs"


def test_a_dataset_that_is_formed_meanwhile_is_erased_too(persons: Persons) -> None:
    world = persons.world
    number = persons.app.forget("ann", datasets=True)
    persons.clock.sleep(1)
    engine = persons.app.engine()
    while persons.app.erasure(number).stage != "models":
        engine.take("forget")
    labelled = world.reservoir.index("notes").filter(pl.col("label").is_not_null() & (pl.col("split") == "train"))
    ids = labelled["id"].to_list()[:-1]
    with world.db.begin() as conn:
        made = world.datasets.form(
            conn, "notes", ids=ids, weights=[1.0] * len(ids), formed_by="test", parent=None,
            schema=persons.app.project.schema, now=persons.clock.now(),
        )  # fmt: skip
    assert made.number == 2
    engine.let_go()
    persons.finish()
    assert made.digest in persons.app.erasure(number).body["datasets"]
    assert all(version.is_gone for version in world.datasets.all("notes"))
    assert holding(persons.folder, WORDS["ann"]) == []


def test_after_datasets_are_erased_suites_are_still_asked(persons: Persons) -> None:
    (version,) = persons.world.datasets.all("notes")
    persons.forget("ann", datasets=True)
    suites = persons.app.project.suites
    assert sources_of(persons.world, version.digest).ids == []
    (result,) = run_suites(persons.world, suites, candidate=1, live=None, dataset=version.digest)
    assert (result.problem, result.num_cases) == ("", 3)


def test_a_long_log_is_looked_at_some_files_in_a_turn_and_what_is_merged_meanwhile_is_not_overlooked(
    persons: Persons, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(20, 26):
        persons.ask(rows=1, seed=seed)
        persons.app.engine().drain()
    num_before = len([row for row in persons.rows()["predictions"] if row["subject"] != "ann"])
    monkeypatch.setattr("tidemill.loop.erasing.LOOKS_A_TURN", 2)
    read, most, real = [0], 0, Struck._read
    monkeypatch.setattr(Struck, "_read", lambda *given: (read.__setitem__(0, read[0] + 1), real(*given))[1])
    number = persons.app.forget("ann", datasets=True)
    persons.clock.sleep(1)
    engine, turns = persons.app.engine(), 0
    while persons.app.erasure(number).stage != "strip":
        read[0] = 0
        engine.take("forget")
        most, turns = max(most, read[0]), turns + 1
        if turns in (2, 14):  # at two files, of the look and of the deletion
            engine.let_go()
            lease = persons.world.journal.acquire("compactor", "test", now=persons.clock.now(), ttl=timedelta(1))
            persons.world.compactor.merge_small(lease, now=persons.clock.now())
            persons.world.journal.release(lease)
    assert most <= 2
    engine.let_go()
    persons.finish()
    done = persons.app.erasure(number)
    assert (done.body["counts"]["predictions"], done.body["counts"]["feedback"]) == (16, 14)
    left = persons.rows()["predictions"]
    assert len(left) == num_before and all(row["subject"] != "ann" for row in left)
    assert holding(persons.folder, WORDS["ann"]) == []


def test_a_suite_that_cannot_be_read_holds_up_nothing_else(persons: Persons) -> None:
    cases = persons.folder / "suites" / "past_bugs.jsonl"
    whole = cases.read_bytes()
    cases.write_bytes(whole + b"\xff\xfe")
    known = persons.app.known_of("ann")
    assert (known.counts["predictions"], known.counts["cases"]) == (10, 0)
    (why,) = known.unread
    assert "past_bugs.jsonl' cannot be read" in why
    waiting = persons.forget("ann", datasets=True)
    assert "cannot be read" in waiting.rest["error"]
    assert holding(persons.folder / "home" / "log", WORDS["ann"]) == []
    assert holding(persons.folder / "home" / "datasets", WORDS["ann"]) == []
    no_case = json.dumps({"from": json.loads(whole.splitlines()[1])["from"]})
    cases.write_bytes(whole + no_case.encode())
    persons.clock.sleep(300)
    persons.finish()
    done = persons.app.erasure(waiting.id)
    assert (done.done_at is not None, done.body["counts"]["cases"]) == (True, 2)
    assert holding(persons.folder, WORDS["ann"]) == []
