"""The label queue over real stores: several people, golden examples, suspicion, functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from harness import PROJECT, Harness, truth

from tidemill.errors import InvalidInput
from tidemill.loop.functions import weighed

QUEUE = 'tm.label.Queue(daily_budget=86_400) | tm.label.Feedback(trust="crowd", horizon="5s")'
NEVER = '(tm.trigger.Degraded("accuracy", drop=0.05, reference=100) & tm.trigger.Amount(20)).at_most("10m")'


def begun(folder: Path, label: str, *, before: str = "") -> Harness:
    """A deployment whose requests wait for labels, and that never trains again."""
    text = PROJECT.replace(QUEUE, label).replace(NEVER, "tm.trigger.Manual()")
    text = text.replace("project = tm.Project(", f"{before}\nproject = tm.Project(")
    harness = Harness.make(folder, project=text)
    harness.labels_people = False
    return harness


def right(harness: Harness, id_: str) -> str:
    (inputs,) = harness.app.world.reservoir.inputs(harness.name, [id_])
    return truth(inputs["x"], inputs["y"])


def labels(harness: Harness) -> dict[str, str]:
    index = harness.app.world.reservoir.index(harness.name).filter(pl.col("request_id").is_not_null())
    return {row["id"]: row["label"] for row in index.iter_rows(named=True) if row["label"] is not None}


def test_with_two_people_for_each_example_a_label_counts_once_they_agree(tmp_path: Path):
    harness = begun(tmp_path, "tm.label.Queue(86_400, per_example=2, golden=0)")
    harness.seconds(25)
    labelling = harness.app.labelling
    ann, bob = (labelling.take(4, by=name) for name in ("ann", "bob"))
    assert [e.id for e in ann] == [e.id for e in bob]
    ids = [e.id for e in ann]
    labelling.answer([(id_, right(harness, id_)) for id_ in ids], by="ann")
    assert labels(harness) == {}
    other = {"low": "high", "high": "low"}
    labelling.answer(
        [(id_, right(harness, id_)) for id_ in ids[:3]] + [(ids[3], other[right(harness, ids[3])])], by="bob"
    )
    assert labels(harness) == {id_: right(harness, id_) for id_ in ids[:3]}
    (last,) = [e.id for e in labelling.take(100, by="eve") if e.id == ids[3]]
    labelling.answer([(last, right(harness, last))], by="eve")
    assert labels(harness)[last] == right(harness, last)
    found = labelling.agreement()
    assert found.num_examples == 4
    assert 0 < found.alpha < 1


def test_golden_examples_tell_a_careless_labeller_and_label_nothing(tmp_path: Path):
    harness = begun(tmp_path, "tm.label.Queue(86_400, golden=0.5)")
    harness.seconds(25)
    labelling = harness.app.labelling
    known = [e.id for e in labelling.waiting(10)]
    labelling.make_golden([(id_, right(harness, id_)) for id_ in known])
    for name, careful in (("ann", True), ("bob", False)):
        tasks = [e.id for e in labelling.take(20, by=name)]
        assert len(set(tasks) & set(known)) == 10
        labelling.answer([(id_, right(harness, id_) if careful else "low") for id_ in tasks], by=name)
    ann, bob = labelling.labellers()
    assert (ann.name, ann.num_golden, ann.accuracy) == ("ann", 10, 1.0)
    assert bob.accuracy is not None
    assert bob.accuracy < 1.0
    assert not set(labels(harness)) & set(known)


def test_a_label_that_does_not_fit_writes_none_of_them(tmp_path: Path):
    harness = begun(tmp_path, "tm.label.Queue(86_400)")
    harness.seconds(25)
    first, second = harness.app.labelling.take(2, by="ann")
    with pytest.raises(InvalidInput):
        harness.app.labelling.answer([(first.id, "low"), (second.id, "middling")], by="ann")
    assert labels(harness) == {}


def test_labels_that_look_wrong_are_asked_for_again_once(tmp_path: Path):
    harness = begun(tmp_path, "tm.label.Queue(86_400, golden=0, recheck=3)")
    harness.accuracy = {(1, "v1"): 1.0}
    harness.seconds(40)
    labelling = harness.app.labelling
    tasks = labelling.take(400, by="ann")
    other = {"low": "high", "high": "low"}
    told = {e.id: right(harness, e.id) for e in tasks}
    sure = sorted(tasks, key=lambda e: -abs(e.inputs["x"] + e.inputs["y"]))
    wrong = {e.id for e in sure[:3]}
    labelling.answer([(id_, other[label] if id_ in wrong else label) for id_, label in told.items()], by="ann")
    harness.seconds(3)
    assert {one.id for one in labelling.suspects(3)} <= wrong
    harness.clock.sleep(86_400)
    harness.turn()
    again = {e.id for e in labelling.waiting(3)}
    assert again & wrong
    labelling.answer([(id_, told[id_]) for id_ in again], by="ann")
    assert all(labels(harness)[id_] == told[id_] for id_ in again)
    assert not {one.id for one in labelling.suspects(10)} & again


FUNCTIONS = """
def by_x(row):
    return "high" if row["x"] > 0.5 else "low" if row["x"] < -0.5 else None


def by_y(row):
    return "high" if row["y"] > 0.5 else "low" if row["y"] < -0.5 else None

"""


def test_functions_label_what_was_picked_and_people_overrule_them(tmp_path: Path):
    harness = begun(tmp_path, "tm.label.Functions([by_x, by_y], sure=0.7) | tm.label.Queue(86_400)", before=FUNCTIONS)
    harness.seconds(25)
    index = harness.app.world.reservoir.index(harness.name).filter(pl.col("source") == "functions")
    assert len(index) > 5
    assert set(index["trust"]) == {"functions"}
    told = labels(harness)
    agreed = np.mean([told[id_] == right(harness, id_) for id_ in index["id"]])
    assert agreed > 0.75
    assert {e.id for e in harness.app.queue(1000)} >= set(index["id"])  # they are asked for all the same
    first = index["id"][0]
    other = {"low": "high", "high": "low"}[told[first]]
    harness.app.answer([(first, other)], by="ann")
    harness.seconds(12)
    assert labels(harness)[first] == other


def test_the_majority_is_taken_where_the_label_model_is_shown_to_be_worse():
    truth_ = np.arange(200) % 2
    copies = np.where(np.arange(200) % 5 < 2, 1 - truth_, truth_)  # right in three of five, and counted three times
    votes = np.stack([copies, copies, truth_, truth_, truth_], axis=1)
    votes[::7, 2:] = -1
    chances, by = weighed(votes, truth_, 2)
    assert by in ("label model", "majority")
    nobody = np.full(200, -1)
    assert weighed(votes, nobody, 2)[1] == "label model"
    assert (chances.argmax(axis=1) == truth_).mean() >= (weighed(votes, nobody, 2)[0].argmax(axis=1) == truth_).mean()
