"""An input outside what the answering version learnt from is noted on its row, or refused where the schema says so."""

from __future__ import annotations

from pathlib import Path

from artefacts import SCHEMA, graph, inputs, onnx_artefact, python_artefact
from served import Place, metric, predict, running

from tidemill.schema import Schema, Tensor

FAR = inputs((100, 100, 100, 100))
RANGES = {"x": {"low": 0.0, "high": 2.0}, "country": {"seen": ["de"]}}


def test_an_outlier_is_answered_and_its_row_names_the_input(place: Place, tmp_path: Path) -> None:
    place.publish()
    place.route(stable=place.add(onnx_artefact(tmp_path / "a", graph(1), ranges=RANGES)))
    with running(place) as client:
        far = predict(client, inputs=FAR)
        near = predict(client)
        page = client.get("/metrics").text
    assert (far.status_code, near.status_code) == (200, 200)
    rows = {row.request_id: row.outlier for row in place.rows()[0]}
    # The tag `country` is not among what the model reads, so what it learnt of it does not matter.
    assert rows == {far.json()["request_id"]: ["x"], near.json()["request_id"]: None}
    assert metric(page, 'tidemill_outliers_total{input="x",project="pets",version="1"}') == 1


def test_only_the_answering_version_says_what_is_an_outlier(place: Place, tmp_path: Path) -> None:
    place.publish()
    old = place.add(onnx_artefact(tmp_path / "old", graph(1)))
    touchy = onnx_artefact(tmp_path / "touchy", graph(1, touchy=True), ranges=RANGES)
    place.route(stable=place.add(touchy), fallback=old)
    with running(place) as client:
        assert predict(client, inputs=FAR).json()["version"] == old
    (row,) = place.rows()[0]
    assert (row.assigned_version, row.answered_version, row.outlier) == (2, 1, None)


def test_where_the_schema_says_so_an_outlier_is_refused_by_name(place: Place, tmp_path: Path) -> None:
    strict = Schema({**SCHEMA.inputs, "x": Tensor((4,), outliers="refuse")}, SCHEMA.output)
    place.publish(schema=strict)
    place.route(stable=place.add(onnx_artefact(tmp_path / "a", graph(1), ranges=RANGES)))  # declared "flag" then
    with running(place) as client:
        refused = predict(client, inputs=FAR)
        assert predict(client).status_code == 200
    assert (refused.status_code, refused.json()["field"]) == (422, "x")
    assert "lies outside what the model learnt from" in refused.json()["detail"]
    assert len(place.rows()[0]) == 1


def test_a_python_models_outliers_are_flagged_too(place: Place, tmp_path: Path) -> None:
    place.publish()
    place.route(stable=place.add(python_artefact(tmp_path / "a", "Fickle", ranges=RANGES)))
    with running(place) as client:
        predict(client, inputs={**FAR, "country": "nl"})
    assert [sorted(row.outlier or []) for row in place.rows()[0]] == [["country", "x"]]
