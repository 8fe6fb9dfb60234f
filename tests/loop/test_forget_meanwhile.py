"""What is made, tested or stuck while a person is being forgotten is not overlooked, and keeps nobody else waiting."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from persons import START, WORDS, Persons, holding, opened

from tidemill.errors import Corrupt
from tidemill.runtime.artefact import example_rows, read_artefact
from tidemill.stores.blobs import Blobs
from tidemill.training import runner

NOW = START + timedelta(minutes=1)


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose version 1 learnt from ann, bob, cid and others."""
    folder = tmp_path_factory.mktemp("noted") / "now"
    folder.mkdir()
    persons = Persons.make(folder)
    persons.train()
    persons.close()
    return folder


@pytest.fixture
def persons(noted: Path, tmp_path: Path) -> Iterator[Persons]:
    folder = shutil.copytree(noted, tmp_path / "now")
    with opened(folder, now=NOW) as made:
        yield made


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


def test_a_version_that_is_registered_meanwhile_shows_nobody_who_was_forgotten(persons: Persons) -> None:
    """All three of them, as nobody knows beforehand whose rows a version will show."""
    retrain_until(persons, "train")
    numbers = [persons.app.forget(subject) for subject in WORDS]
    persons.clock.sleep(1)
    for _ in numbers:  # it stops at each that waits
        persons.finish()
    assert {persons.app.erasure(number).stage for number in numbers} == {"strip"}
    for _ in range(9):
        persons.turn()
        persons.clock.sleep(5)
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
