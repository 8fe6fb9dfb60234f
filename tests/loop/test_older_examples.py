"""Examples that are older than an input with a default read as if they had it, wherever the loop looks at them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import Harness
from persons import NOW, WORDS, Persons, holding, opened

from tidemill.loop.looked_for import inputs_looked_for, training_ids
from tidemill.loop.person import Person
from tidemill.loop.shown_rows import without_person
from tidemill.records import Outcome, Verdict
from tidemill.review.suites import shown
from tidemill.runtime.artefact import example_rows, read_artefact

Make = Callable[..., Harness]
TAG = '"app": tm.Category(tag=True)'
COHORTS = "cohorts={"
WIDER = {
    TAG: f'{TAG}, "speed": tm.Number(default=-1)',
    COHORTS: f'{COHORTS}"parked": "speed < 0", "fast": "speed > 0", ',
}

LENGTH = '"length": tm.Number()'
NGRAMS = 'tm.transforms.HashedNgrams("text", bits=8)'
WINDY = '"wind": tm.Number(default=-1)'
WIND = 'tm.transforms.Standardise("wind")'


def test_cohorts_and_what_curation_looks_for_see_the_default(harness: Make) -> None:
    world = harness(edit=WIDER).app.world
    labelled = world.labelled()
    assert len(labelled.ids) > 100
    assert labelled.cohorts["parked"].all() and not labelled.cohorts["fast"].any()
    assert {row["speed"] for row in inputs_looked_for(world, "speed < 0")} == {-1.0}
    assert not inputs_looked_for(world, "fast")
    ids = training_ids(world)[:3]
    assert [row["speed"] for row in inputs_looked_for(world, ids)] == [-1.0] * 3


def test_a_condition_finds_nothing_where_every_example_lacks_an_input_that_has_none(harness: Make) -> None:
    world = harness(edit={TAG: f'{TAG}, "speed": tm.Number()'}).app.world
    assert not inputs_looked_for(world, "x < 0")


def test_curation_compares_with_examples_from_before(harness: Make) -> None:
    before = "tm.curate.Uncertain(0.3) + tm.curate.FeedbackDriven(0.3) + tm.curate.Random(0.4)"
    members = "tm.curate.Novel(0.5) + tm.curate.Similar(0.5, to='speed < 0')"
    h = harness(edit={**WIDER, before: members})
    h.app.publish()
    h.seconds(20)
    reasons = set(h.app.world.reservoir.index(h.name)["reason"])
    assert {"novel", "similar: speed < 0"} <= reasons


# --- what is forgotten


@pytest.fixture
def wider(asked: Path, tmp_path: Path) -> Iterator[Persons]:
    """The home of persons, whose inputs have had one with a default added since, before the first version."""
    folder = shutil.copytree(asked, tmp_path / "now")
    replace_in(folder / "notes_project.py", {LENGTH: f"{WINDY}, {LENGTH}", NGRAMS: f"{NGRAMS}, {WIND}"})
    with opened(folder, now=NOW) as persons:
        yield persons


@pytest.fixture
def otherwise(wider: Persons) -> Iterator[Persons]:
    """The same with a version that was trained by that default, and another default in the file since."""
    wider.train()
    replace_in(wider.folder / "notes_project.py", {WINDY: '"wind": tm.Number(default=-2)'})
    with opened(wider.folder, now=NOW) as persons:
        yield persons


def replace_in(file: Path, changes: Mapping[str, str]) -> None:
    for old, new in changes.items():
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))


def shown_by(persons: Persons, artefact: str) -> list[dict[str, Any]]:
    return list(example_rows(read_artefact(persons.world.blobs.folder(artefact))))


def test_a_persons_examples_are_quoted_in_both_forms(wider: Persons) -> None:
    ann = Person(wider.world, "ann", wider.clock.now())
    ids = ann.find_examples()
    found, rows = ann.shown(ids, ()), wider.world.reservoir.inputs("notes", ids)
    assert rows
    for row in rows:
        assert {shown(row), shown({"text": row["text"], "wind": -1.0, "length": row["length"]})} <= found


def test_what_a_version_shows_of_a_person_is_known_by_the_default_too(wider: Persons) -> None:
    wider.train()
    check_shown_rows_are_forgotten(wider)


def test_what_a_version_shows_is_known_by_the_default_that_it_was_trained_with(otherwise: Persons) -> None:
    check_shown_rows_are_forgotten(otherwise)


def check_shown_rows_are_forgotten(persons: Persons) -> None:
    """Version 1 was trained with a default of -1: the rows it shows of a person are left out of it, and no others."""
    world = persons.world
    model = world.catalog.model("notes", 1)
    rows = shown_by(persons, model.artefact)
    assert {row["wind"] for row in rows} == {-1.0}
    name = next(name for name, word in WORDS.items() if any(word in row["text"] for row in rows))
    person = Person(world, name, persons.clock.now())
    new = without_person(person, replace(model, dataset=None), person.find_examples())  # as if its dataset were gone
    assert new is not None
    assert shown_by(persons, new) == [row for row in rows if WORDS[name] not in row["text"]]


def test_what_was_quoted_under_an_earlier_default_is_forgotten_too(otherwise: Persons) -> None:
    world = otherwise.world
    ids = Person(world, "ann", otherwise.clock.now()).find_examples()
    row = {"wind": -1.0, **world.reservoir.inputs("notes", ids[:1])[0]}
    said = shown({name: row[name] for name in world.project.inputs})
    assert WORDS["ann"] in said and "wind=-1," in said
    failed = {"id": "line 2", "inputs": said, "wanted": "calm", "candidate": "storm"}
    verdict = Verdict(outcome=Outcome.FAIL, by="Suites", reason=f"1 of 2 cases failed ({said})")
    with world.db.begin() as conn:
        world.catalog.add_report(conn, "notes", 1, {"suites": [{"failed": [failed]}]}, otherwise.clock.now())
        world.journal.add_verdict(conn, "notes", verdict, cycle=None, step="test", now=otherwise.clock.now())
    otherwise.forget("ann", datasets=True)
    assert "(forgotten)" in world.journal.verdicts("notes", limit=1)[0].verdict.reason
    assert "(forgotten)" in repr(world.catalog.report("notes", 1))
    assert holding(otherwise.folder / "home", WORDS["ann"]) == []


def test_what_has_no_input_of_a_schema_is_not_quoted_under_it_as_nothing(asked: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(asked, tmp_path / "renamed")
    changes = {'"text": tm.Text()': '"body": tm.Text(default="-")', LENGTH: '"size": tm.Number(default=0)'}
    replace_in(folder / "notes_project.py", {**changes, NGRAMS: NGRAMS.replace("text", "body")})
    with opened(folder, now=NOW) as persons:
        ann = Person(persons.world, "ann", persons.clock.now())
        ids = ann.find_examples()
        (row,) = persons.world.reservoir.inputs("notes", ids[:1])
        found = ann.shown(ids, ())
        assert shown(row) in found and all(WORDS["ann"] in text for text in found)
