"""A version is loaded only when its stored bytes give the scores that were stored with them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from artefacts import EXAMPLE, NAN, RAISES, SCHEMA, expected, graph, onnx_artefact, python_artefact
from onnx import helper, numpy_helper

from tidemill.errors import ModelError
from tidemill.runtime.load import load
from tidemill.runtime.onnx_model import chosen_providers
from tidemill.runtime.threads import asked_for, is_worth_keeping, is_worth_trying, share


def columns(rows):
    return SCHEMA.columns([{"x": np.array(row, "<f4").tobytes(), "age": 1.0, "country": "nl"} for row in rows])


def test_a_loaded_version_gives_the_scores_of_onnx_runtime_itself(tmp_path):
    raw, rows = graph(1), np.random.default_rng(0).normal(size=(50, 4))
    loaded = load(onnx_artefact(tmp_path / "a", raw))
    scores = loaded.predict(columns(rows))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, expected(raw, rows))
    assert (loaded.is_python, loaded.inputs) == (False, ("x",))


def counting() -> bytes:
    """Give each row the number of rows that the model saw together as its first score."""
    nodes = [
        helper.make_node("Shape", ["x"], ["num"], start=0, end=1),
        helper.make_node("Cast", ["num"], ["seen"], to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["nothing"]),
        helper.make_node("Add", ["nothing", "seen"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])]
    outputs = [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 3])]
    constants = [numpy_helper.from_array(np.zeros((4, 3), np.float32), "w")]
    made = helper.make_graph(nodes, "counting", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_the_model_sees_as_many_rows_at_a_time_as_are_asked_for(tmp_path):
    loaded, rows = load(onnx_artefact(tmp_path / "a", counting())), columns(np.zeros((10, 4)))
    for size, seen in ((4, [4] * 8 + [2] * 2), (10, [10] * 10), (99, [10] * 10), (None, [10] * 10)):
        assert loaded.predict(rows, batch_rows=size)[:, 0].tolist() == seen


def test_scores_do_not_depend_on_how_many_rows_the_model_sees_at_a_time(tmp_path, python_models):
    rows = columns(np.random.default_rng(0).normal(size=(50, 4)))
    native = load(onnx_artefact(tmp_path / "a", graph(1)))
    beside = load(python_artefact(tmp_path / "b", "Fickle"), project_file=python_models)
    try:
        for loaded in (native, beside):
            np.testing.assert_allclose(loaded.predict(rows, batch_rows=7), loaded.predict(rows), rtol=1e-6)
    finally:
        beside.close()


def test_warming_runs_a_batch_of_the_size_asked_and_says_how_long_it_takes(tmp_path):
    loaded = load(onnx_artefact(tmp_path / "a", graph(1)))
    assert 0 < loaded.warm(64) < 5


def test_a_version_that_does_not_reproduce_its_example_is_refused(tmp_path):
    folder = onnx_artefact(tmp_path / "a", graph(1), scores=expected(graph(2), [[0.1, 0.2, 0.3, 0.4], [-1, 0, 1, 0]]))
    with pytest.raises(ModelError, match="does not reproduce its example: a score is off by 0"):
        load(folder)


def test_an_example_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"scores of shape \(2, 2\), the model gives \(2, 3\)"):
        load(onnx_artefact(tmp_path / "a", graph(1), scores=np.zeros((2, 2), np.float32)))


def test_an_artefact_without_an_example_is_refused(tmp_path):
    folder = onnx_artefact(tmp_path / "a", graph(1))
    data = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps(data | {"example": []}))
    with pytest.raises(ModelError, match="no example"):
        load(folder)


def test_an_example_that_does_not_fit_the_schema_is_refused(tmp_path):
    folder = onnx_artefact(tmp_path / "a", graph(1))
    data = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps(data | {"example": [{"y": 1.0}]}))
    with pytest.raises(ModelError, match="does not fit its schema"):
        load(folder)


@pytest.mark.parametrize("damage", [b"", b"not a model", graph(1)[:-40]])
def test_a_damaged_model_file_is_refused_with_its_name(tmp_path, damage):
    folder = onnx_artefact(tmp_path / "a", graph(1))
    (folder / "model.onnx").write_bytes(damage)
    with pytest.raises(ModelError, match=r"model\.onnx does not load"):
        load(folder)


def test_a_missing_model_file_is_refused(tmp_path):
    folder = onnx_artefact(tmp_path / "a", graph(1))
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx does not load"):
        load(folder)


def _outside(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def _external_initializer(model: onnx.ModelProto) -> None:
    _outside(model.graph.initializer[0])


def _external_attribute(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(1, np.float32), "v")
    _outside(value)
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=value))


def _external_in_a_branch(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(1, np.float32), "v")
    _outside(value)
    branch = helper.make_graph([], "branch", [], [], [value])
    model.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch))


@pytest.mark.parametrize("hide", [_external_initializer, _external_attribute, _external_in_a_branch])
def test_data_outside_the_model_file_is_never_read(tmp_path, hide):
    folder = onnx_artefact(tmp_path / "a", graph(1))
    model = onnx.load_model_from_string(graph(1))
    hide(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="keeps data outside its file"):
        load(folder)


def test_a_model_that_raises_or_gives_nan_says_so(tmp_path):
    loaded = load(onnx_artefact(tmp_path / "a", graph(1, touchy=True)))
    with pytest.raises(ModelError, match="scores that are NaN or infinite"):
        loaded.predict(columns([[NAN + 0.1, 0, 0, 0]]))
    assert np.isnan(loaded.predict(columns([[NAN + 0.1, 0, 0, 0], [0, 0, 0, 0]]), finite=False)).any(
        axis=1
    ).tolist() == [
        True,
        False,
    ]
    with pytest.raises(ModelError, match="the model raised"):
        loaded.predict(columns([[RAISES + 0.1, 0, 0, 0]]))


def test_a_python_model_answers_from_a_process_of_its_own(tmp_path, python_models):
    loaded = load(python_artefact(tmp_path / "a", "Fickle"), project_file=python_models)
    try:
        assert loaded.is_python
        np.testing.assert_allclose(loaded.predict(SCHEMA.columns(EXAMPLE)), 1 / 3, rtol=1e-6)
    finally:
        loaded.close()


def test_a_python_model_that_does_not_load_is_refused_with_its_own_words(tmp_path, python_models):
    with pytest.raises(ModelError, match="does not load: RuntimeError: no such weights"):
        load(python_artefact(tmp_path / "a", "Unloadable"), project_file=python_models)


def test_a_python_model_whose_class_is_gone_is_refused(tmp_path, python_models):
    with pytest.raises(ModelError, match="does not load: AttributeError"):
        load(python_artefact(tmp_path / "a", "Gone"), project_file=python_models)


def test_cuda_is_taken_where_there_is_one_and_the_cpu_for_what_is_left():
    """Never TensorFloat-32: a version must answer as it was tested."""
    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    cuda, cpu = chosen_providers(everything)
    assert (cuda, cpu) == (("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider")
    assert chosen_providers(["AzureExecutionProvider", "CPUExecutionProvider"]) == ["CPUExecutionProvider"]


def test_a_version_is_computed_on_what_the_machine_says_it_has(tmp_path):
    folder, asked = onnx_artefact(tmp_path / "a", graph(1)), []

    def machine():
        asked.append(True)
        return ["CPUExecutionProvider"]

    assert load(folder, providers=machine).device == "cpu"
    assert asked == [True]


def test_a_build_with_cuda_that_cannot_use_it_says_so_and_computes_on_the_cpu(tmp_path, caplog):
    """This machine's ONNX Runtime stands in for one whose CUDA libraries or device are missing."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is CUDA here")
    folder = onnx_artefact(tmp_path / "a", graph(1))
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):  # which the real one does not say
        loaded = load(folder, providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert loaded.device == "cpu"
    assert "has CUDA and cannot use it: the model runs on the CPU" in caplog.text


@pytest.mark.parametrize(
    ("cores", "workers", "copies", "threads"), [(8, 1, 1, 8), (8, 4, 1, 2), (8, 2, 2, 2), (2, 4, 2, 1), (1, 1, 1, 1)]
)
def test_all_copies_in_all_processes_take_the_cores_once(cores, workers, copies, threads):
    assert share(cores, workers=workers, copies=copies) == threads


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, None), ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "5"}, 3), ({"MKL_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4), ({"OMP_NUM_THREADS": "many", "OPENBLAS_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "0"}, None),
    ],
)  # fmt: skip
def test_who_sets_the_environment_says_how_many_threads(environment, threads):
    assert asked_for(environment) == threads


def test_only_a_model_that_is_slow_on_one_thread_and_quicker_on_several_gets_them():
    assert not is_worth_trying(0.001, 8) and not is_worth_trying(1.0, 1) and is_worth_trying(0.02, 2)
    assert is_worth_keeping(0.02, 0.012) and not is_worth_keeping(0.02, 0.019)
