"""What goes to Label Studio, and what is read of its export."""

from __future__ import annotations

import base64
import struct
import zlib
from datetime import UTC, datetime
from xml.etree import ElementTree

import numpy as np
import pytest

from tidemill.errors import ProjectError
from tidemill.records import Example
from tidemill.schema import Classes, Image, Number, Schema, Text, Value
from tidemill.stores.label_studio import Answer, from_export, to_config, to_tasks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = Schema({"note": Text(), "photo": Image((2, 3, 3)), "age": Number()}, Classes(["a & b", "c"]))


def example(**inputs: object) -> Example:
    return Example(
        id="e1", request_id="e1", unit="u", received_at=NOW, picked_at=NOW, reason="random", probability=1.0,
        split="train", inputs=inputs, decision="c", version=2,
    )  # fmt: skip


def test_a_task_holds_the_inputs_the_decision_and_the_picture_itself():
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    (task,) = to_tasks([example(note="hi <3", photo=pixels.tobytes(), age=4.0)], SCHEMA)
    assert task["data"] | {"photo": ""} == {"tidemill_id": "e1", "note": "hi <3", "photo": "", "age": 4.0}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "version 2"
    assert prediction["result"][0]["to_name"] == "photo"
    png = base64.b64decode(task["data"]["photo"].removeprefix("data:image/png;base64,"))
    assert struct.unpack(">II", png[16:24]) == (3, 2)
    size = struct.unpack(">I", png[33:37])[0]
    rows = np.frombuffer(zlib.decompress(png[41 : 41 + size]), dtype=np.uint8).reshape(2, 10)
    assert np.array_equal(rows[:, 1:].reshape(2, 3, 3), pixels)


def test_the_interface_is_xml_that_fits_the_tasks_with_the_rulebook_on_top():
    view = ElementTree.fromstring(to_config(SCHEMA, 'Say "c"\nwhen < 3'))
    assert [part.tag for part in view] == ["Header", "Header", "Text", "Image", "Text", "Choices"]
    assert [part.get("value") for part in view[:2]] == ['Say "c"', "when < 3"]
    assert view[-1].get("toName") == "photo"
    assert [choice.get("value") for choice in view[-1]] == ["a & b", "c"]
    numbers = ElementTree.fromstring(to_config(Schema({"age": Number()}, Value()), ""))
    assert numbers[-1].tag == "Number"


def annotated(value: dict[str, object], **about: object) -> dict[str, object]:
    result = [{"from_name": "label", "to_name": "note", "value": value}]
    return {"data": {"tidemill_id": "e1"}, "annotations": [{"result": result, **about}]}


def test_each_annotation_is_an_answer_of_who_made_it():
    tasks = [
        annotated({"choices": ["c"]}, completed_by=4),
        annotated({"number": 2.5}, completed_by={"id": 4, "email": "ann@example.org"}),
        annotated({"choices": ["c"]}, was_cancelled=True),
        {"data": {"text": "somebody else's"}, "annotations": []},
    ]
    assert from_export(tasks) == [Answer("e1", "c", "label-studio 4"), Answer("e1", 2.5, "ann@example.org")]


@pytest.mark.parametrize("wrong", [{}, [{}], [annotated({"choices": ["a", "b"]})], [annotated({"text": ["a"]})], [3]])
def test_what_is_no_export_is_refused_with_the_number_of_the_task(wrong: object):
    with pytest.raises(ProjectError, match=r"task 0|no list"):
        from_export(wrong)
