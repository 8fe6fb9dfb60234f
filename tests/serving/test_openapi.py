"""The OpenAPI document says what the gateway does: whatever is made from it meets what it promises."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from artefacts import SCHEMA, graph
from onnx import helper, load_model_from_string
from served import predict, running, until

from tidemill.manifest import Manifest
from tidemill.records import Trust
from tidemill.schema import Category, Number
from tidemill.serving.openapi import document

# What JSON Schema cannot say: that base64 holds finite numbers, that tensors are those of the model's metadata.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "422"]
"""


INPUTS = {**SCHEMA.inputs, "age": Number(low=0, high=150, default=-1), "country": Category(tag=True, default="none")}
MAYBE = replace(SCHEMA, inputs=INPUTS)


def tame(raw: bytes) -> bytes:
    """The model with its input squeezed, so that no finite one makes it answer NaN, which is a 503."""
    model = load_model_from_string(raw)
    for node in model.graph.node:
        node.input[:] = ["squeezed" if name == "x" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Tanh", ["x"], ["squeezed"]))
    return model.SerializeToString()


@pytest.mark.parametrize("projects", [["pets"], ["pets", "other"]])
def test_schemathesis_finds_nothing(place, tmp_path, projects):
    for name in projects:
        # What may be missing is part of the document, too.
        place.publish(name, feedback=Trust.CROWD, schema=MAYBE if name == "other" else SCHEMA)
        place.route(name, stable=place.add(tame(graph(1)), name))
    (tmp_path / "config.toml").write_text(CONFIG)
    with running(place) as client:
        until(lambda: len(client.get("/v1/models").json()["models"]) == len(projects))
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "config.toml"),
                "run", f"{client.base_url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--no-color",
                "--max-examples", "20", "--generation-deterministic",
            ],
            capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        assert "14 selected / 14 total" in done.stdout
        assert place.rows()[0], "some of what was made was answered"


def test_the_document_has_the_inputs_and_the_classes_of_each_project(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    with running(place) as client:
        reply = client.get("/openapi.json")
        assert (reply.status_code, reply.json()["openapi"]) == (200, "3.1.0")
        schemas = reply.json()["components"]["schemas"]
        answer = predict(client).json()
    declared = schemas["inputs.pets"]
    assert (set(declared["required"]), declared["additionalProperties"]) == ({"x", "age", "country"}, False)
    assert declared["properties"]["age"] == {"type": "number", "minimum": 0, "maximum": 150}
    assert declared["properties"]["x"]["anyOf"][0]["minItems"] == 4
    assert list(schemas["Answer"]["properties"]["scores"]["properties"]) == ["cat", "dog", "fish"]
    assert set(schemas["Answer"]["required"]) == set(answer)
    events = [item["properties"]["event"] for item in schemas["FeedbackItem"]["anyOf"] if "event" in item["properties"]]
    assert events == [{"enum": ["click", "buy"]}]


def test_a_gateway_without_a_project_has_a_document_too():
    assert document([], tokens=True)["security"] == [{"token": []}]


def test_an_input_that_may_be_missing_is_not_required_and_says_its_default():
    declared = document([Manifest(project="pets", schema=MAYBE)], tokens=False)["components"]["schemas"]["inputs.pets"]
    assert declared["required"] == ["x"]
    assert declared["properties"]["age"]["default"] == -1.0
    assert declared["properties"]["country"]["anyOf"][1] == {"enum": ["none", None]}
