"""`tritonclient[grpc]` works as it is, and plain gRPC with typed contents; errors are statuses without stack traces."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from artefacts import expected, graph
from served import Place, metric, process, running, until
from test_callers import token
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tidemill import __version__
from tidemill.errors import MissingExtra, TidemillError
from tidemill.manifest import Limits
from tidemill.serving.grpc_messages import SERVICE, messages
from tidemill.serving.serve import run
from tidemill.stores.tokens import Scope

X = np.array([[0.1, 0.2, 0.3, 0.4], [-1, 0, 1, 0], [2, 1, 0, 3]], np.float32)


@pytest.fixture
def client(place):
    place.publish(limits=Limits(max_body_bytes=100_000))
    place.route(stable=place.add(graph(1)))
    with running(place, grpc_at=("127.0.0.1", 0)) as started:
        yield started


@pytest.fixture
def triton_client(client):
    with triton.InferenceServerClient(f"127.0.0.1:{client.service.grpc_port}") as found:
        yield found


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A gateway for tests that leave nothing behind: its home, and where it listens."""
    place = Place(tmp_path_factory.mktemp("grpc"))
    place.publish(limits=Limits(max_body_bytes=100_000))
    place.route(stable=place.add(graph(1)))
    with running(place, grpc_at=("127.0.0.1", 0)) as started:
        yield place, started
    place.database.close()


@pytest.fixture(scope="module")
def asker(standing):
    with triton.InferenceServerClient(f"127.0.0.1:{standing[1].service.grpc_port}") as found:
        yield found


@pytest.fixture(scope="module")
def call(standing):
    """Sends a message of ours to a method, and returns the reply."""
    with grpc.insecure_channel(f"127.0.0.1:{standing[1].service.grpc_port}") as channel:

        def send(method, reply, name=None, raw=None, metadata=(), **fields):
            raw = messages()[name or f"{method}Request"](**fields).SerializeToString() if raw is None else raw
            return channel.unary_unary(f"/{SERVICE}/{method}", response_deserializer=messages()[reply].FromString)(
                raw, timeout=20, metadata=metadata
            )

        yield send


def given(x, *, country="nl", **columns):
    num = len(x)
    made = [
        ("x", "FP32", x),
        ("age", "FP64", np.full(num, 30.0)),
        ("country", "BYTES", np.array([country] * num, dtype=object)),
        *((name, "BYTES", np.array(values, dtype=object)) for name, values in columns.items()),
    ]
    inputs = []
    for name, kind, values in made:
        inputs.append(triton.InferInput(name, list(values.shape), kind))
        inputs[-1].set_data_from_numpy(values)
    return inputs


def texts(array):
    return [value.decode() for value in array.tolist()]


@pytest.mark.parametrize("names", [None, ["scores", "decision", "abstained", "request_id", "version"]])
def test_rows_are_answered_each_with_an_id_of_its_own_and_logged(place, triton_client, names):
    outputs = names and [triton.InferRequestedOutput(name) for name in names]
    reply = triton_client.infer("pets", given(X), outputs=outputs, request_id="mine")
    scores = reply.as_numpy("scores")
    np.testing.assert_allclose(scores, expected(graph(1), X), rtol=1e-5)
    assert texts(reply.as_numpy("decision")) == [("cat", "dog", "fish")[i] for i in scores.argmax(axis=1)]
    assert reply.as_numpy("abstained").tolist() == [False] * 3
    assert reply.as_numpy("version").tolist() == [1] * 3
    told = reply.get_response()
    assert (told.id, told.model_name, told.model_version) == ("mine", "pets", "1")
    rows = {row.request_id: row for row in place.rows()[0]}
    ids = texts(reply.as_numpy("request_id"))
    assert len(set(ids)) == 3 and set(ids) == set(rows)
    assert [rows[i].inputs["x"] for i in ids] == [x.tobytes() for x in X]


def test_outputs_are_those_asked_for(asker):
    reply = asker.infer("pets", given(X), outputs=[triton.InferRequestedOutput("version")])
    assert [output.name for output in reply.get_response().outputs] == ["version"]


def test_many_calls_at_once_are_each_answered_with_their_own_scores(place, triton_client):
    rows = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    found, done = {}, threading.Semaphore(0)
    for i, row in enumerate(rows):

        def take(result, error, i=i):
            found[i] = error or result.as_numpy("scores")[0]
            done.release()

        triton_client.async_infer("pets", given(row[None]), take)
    assert all(done.acquire(timeout=20) for _ in rows)
    np.testing.assert_allclose([found[i] for i in range(len(rows))], expected(graph(1), rows), rtol=1e-5)
    assert len(place.rows()[0]) == len(rows)


def test_units_and_subjects_are_those_of_the_parameters_or_of_each_row(place, triton_client):
    triton_client.infer("pets", given(X[:1]), parameters={"unit": "ann", "subject": "s-1"})
    triton_client.infer("pets", given(X[:2], unit=["bob", "cid"]), parameters={"unit": "ann"})
    assert sorted((row.unit, row.subject) for row in place.rows()[0]) == [("ann", "s-1"), ("bob", None), ("cid", None)]


def test_a_version_is_pinned_whatever_the_route_says(place, triton_client):
    place.route(stable=1, candidate=place.add(graph(2)), share=0.0, salt="s")

    def is_there():
        with contextlib.suppress(InferenceServerException):
            return triton_client.is_model_ready("pets", "2")

    until(is_there)
    for version, seed in (("2", 2), ("1", 1), ("", 1)):
        reply = triton_client.infer("pets", given(X), model_version=version)
        np.testing.assert_allclose(reply.as_numpy("scores"), expected(graph(seed), X), rtol=1e-5)


def typed(kind, shape, **contents):
    return {"datatype": kind, "shape": shape, "contents": contents}


def test_typed_contents_are_answered_with_typed_contents(standing, call):
    inputs = [
        {"name": "x", **typed("FP32", [1, 4], fp32_contents=X[0])},
        {"name": "age", **typed("INT8", [1], int_contents=[30])},
        {"name": "country", **typed("BYTES", [1], bytes_contents=[b"nl"])},
    ]
    parameters = {"unit": messages()["InferParameter"](string_param="ann")}
    reply = call("ModelInfer", "ModelInferResponse", model_name="pets", inputs=inputs, parameters=parameters)
    assert not reply.raw_output_contents
    outputs = {output.name: output.contents for output in reply.outputs}
    np.testing.assert_allclose(outputs["scores"].fp32_contents, expected(graph(1), X[:1])[0], rtol=1e-5)
    (request_id,) = outputs["request_id"].bytes_contents
    (row,) = [row for row in standing[0].rows()[0] if row.request_id.encode() == request_id]
    assert outputs["decision"].bytes_contents == [row.decision.encode()]
    assert (list(outputs["abstained"].bool_contents), list(outputs["version"].int64_contents)) == ([False], [1])
    assert (row.unit, row.inputs, row.tags) == ("ann", {"x": X[0].tobytes()}, {"age": 30.0, "country": "nl"})


GOOD = [
    {"name": "x", **typed("FP32", [1, 4], fp32_contents=X[0])},
    {"name": "age", **typed("INT8", [1], int_contents=[30])},
]
Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"inputs": GOOD}, Code.INVALID_ARGUMENT, "'country' is missing"),
        ({"inputs": [GOOD[0], {"name": "age", **typed("INT8", [1], int_contents=[300])}]}, Code.INVALID_ARGUMENT,
         "beyond INT8"),
        ({"inputs": [GOOD[0], {"name": "age", **typed("FP64", [1], fp64_contents=[np.nan])}]}, Code.INVALID_ARGUMENT,
         "row 0: 'age' is nan"),
        ({"inputs": [{"name": "x", **typed("FP32", [1, 4], fp32_contents=[0, 0, 0, np.inf])}]}, Code.INVALID_ARGUMENT,
         "row 0: input 'x' holds NaN, infinity"),
        ({"inputs": [{"name": "x", **typed("FP32", [2, 4], fp32_contents=[0] * 4)}]}, Code.INVALID_ARGUMENT,
         "'x' has 16 bytes, not 32"),
        ({"inputs": [{"name": "x", **typed("FP16", [1, 4])}]}, Code.INVALID_ARGUMENT, "without raw contents"),
        ({"inputs": [{"name": "x", **typed("BOOL", [1, 4], bool_contents=[True])}]}, Code.INVALID_ARGUMENT,
         "datatype 'BOOL'"),
        ({"inputs": [{"name": "unit", **typed("BYTES", [1], bytes_contents=[b"\xff"])}]}, Code.INVALID_ARGUMENT,
         "row 0: input 'unit' is not UTF-8"),
        ({"inputs": GOOD, "raw_input_contents": [b""]}, Code.INVALID_ARGUMENT, "1 raw contents for 2 inputs"),
        ({"inputs": GOOD, "outputs": [{"name": "logits"}]}, Code.INVALID_ARGUMENT, "'country' is missing"),
        ({"inputs": GOOD, "model_version": "x"}, Code.INVALID_ARGUMENT, "version 'x' is no number"),
        ({"inputs": GOOD, "model_name": "cats"}, Code.NOT_FOUND, "no model 'cats'"),
        ({"raw_input_contents": [b"0" * 100_001]}, Code.RESOURCE_EXHAUSTED, "larger than 100000"),
        ({"raw_input_contents": [b"0" * 300_000]}, Code.RESOURCE_EXHAUSTED, ""),
        ({"raw": b"\xff\xff"}, Code.INVALID_ARGUMENT, "not of the protocol"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_status_and_details(standing, call, fields, code, says):
    before = len(standing[0].rows()[0])
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", "ModelInferResponse", **{"model_name": "pets", **fields})
    assert caught.value.code() == code
    assert says in caught.value.details()
    assert "Traceback" not in caught.value.details() and ".py" not in caught.value.details()
    assert len(standing[0].rows()[0]) == before


def test_a_fault_of_the_gateways_own_tells_nothing_of_its_inside(standing, call, caplog, monkeypatch):
    monkeypatch.setattr(standing[1].service.gateway, "problems", lambda: 1 / 0)
    with pytest.raises(grpc.RpcError) as caught:
        call("ServerReady", "ServerReadyResponse")
    assert caught.value.code() == Code.INTERNAL
    assert "division" not in caught.value.details()
    assert "ZeroDivisionError" in caplog.text


def test_refusals_and_answers_are_counted_as_over_http(client, triton_client):
    triton_client.infer("pets", given(X))
    with pytest.raises(InferenceServerException):
        triton_client.infer("pets", given(X)[:1])
    page = client.get("/metrics").text
    assert metric(page, 'tidemill_requests_total{project="pets",status="200",version="1"}') == 3
    assert metric(page, 'tidemill_requests_total{project="pets",status="400",version="none"}') == 1


def test_the_client_hears_what_is_served(asker):
    triton_client = asker
    assert triton_client.is_server_live() and triton_client.is_server_ready()
    assert triton_client.is_model_ready("pets") and triton_client.is_model_ready("pets", "1")
    about = triton_client.get_server_metadata()
    assert (about.name, about.version, list(about.extensions)) == ("tidemill", __version__, ["binary_tensor_data"])
    model = triton_client.get_model_metadata("pets")
    assert {i.name: (i.datatype, list(i.shape)) for i in model.inputs} == {
        "x": ("FP32", [-1, 4]), "age": ("FP64", [-1]), "country": ("BYTES", [-1]),
    }  # fmt: skip
    assert [o.name for o in model.outputs] == ["scores", "decision", "abstained", "request_id", "version"]
    assert (model.versions, model.platform) == (["1"], "tidemill")
    for ask in (triton_client.get_model_metadata, triton_client.is_model_ready):
        with pytest.raises(InferenceServerException, match="no model 'cats'"):
            ask("cats")
        with pytest.raises(InferenceServerException, match="version 9 of 'pets'"):
            ask("pets", "9")


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.get_model_config("pets"),
        lambda c: c.get_model_repository_index(),
        lambda c: c.load_model("pets"),
        lambda c: c.get_inference_statistics(),
        lambda c: c.get_system_shared_memory_status(),
    ],
)
def test_calls_of_other_servers_are_unimplemented_and_say_what_there_is(asker, ask):
    with pytest.raises(InferenceServerException, match="use ServerLive") as caught:
        ask(asker)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_the_messages_are_those_of_the_protocol():
    theirs = service_pb2.DESCRIPTOR.message_types_by_name

    def same(ours, other):
        for field in ours.fields:
            found = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (found.number, found.type, found.is_repeated)
            if field.message_type is not None:
                same(field.message_type, found.message_type)

    assert len(messages()) == 14
    for name, kind in messages().items():
        same(kind.DESCRIPTOR, theirs[name])


# --- who may


def test_once_there_is_a_token_a_call_needs_one_for_that_project_and_that_call(place):
    for name in ("pets", "cars"):
        place.publish(name)
        place.route(name, stable=place.add(graph(1), name))
    secrets = {
        "all": token(place, "all"),
        "pets": token(place, "pets", Scope.PREDICT, project="pets"),
        "feedback": token(place, "feedback", Scope.FEEDBACK),
    }
    with (
        running(place, grpc_at=("127.0.0.1", 0)) as client,
        triton.InferenceServerClient(f"127.0.0.1:{client.service.grpc_port}") as triton_client,
    ):
        assert triton_client.is_server_live() and triton_client.is_server_ready(), "a probe has no token"

        def status(secret, model):
            headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
            try:
                triton_client.infer(model, given(X), headers=headers)
            except InferenceServerException as error:
                return error.status().removeprefix("StatusCode.")
            return "OK"

        assert status(None, "pets") == status("wrong", "pets") == "UNAUTHENTICATED"
        assert [status(secrets["all"], name) for name in ("pets", "cars")] == ["OK", "OK"]
        assert [status(secrets["pets"], name) for name in ("pets", "cars")] == ["OK", "PERMISSION_DENIED"]
        assert status(secrets["feedback"], "pets") == "PERMISSION_DENIED"
        with pytest.raises(InferenceServerException, match="wants a token"):
            triton_client.get_model_metadata("pets")


# --- the end


def test_a_signal_to_end_loses_no_call_that_was_answered(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    port = free_port()
    ids, refused, ended = set(), [], threading.Event()
    with process(place, grpc_port=port) as (gateway, _), triton.InferenceServerClient(f"127.0.0.1:{port}") as client:

        def ask():
            while not ended.is_set():
                try:
                    ids.update(texts(client.infer("pets", given(X)).as_numpy("request_id")))
                except InferenceServerException as error:
                    refused.append(error.status())
                    return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: len(ids) > 300)
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(20) == 0
        time.sleep(0.1)
        ended.set()
        for thread in threads:
            thread.join(20)
    assert set(refused) <= {"StatusCode.UNAVAILABLE"}
    logged = {row.request_id for row in place.rows()[0]}
    assert ids <= logged, "what was answered is in the log"
    assert len(logged - ids) <= 3 * len(threads), "and but for the last calls, what is in the log was answered"


# --- several processes, and what cannot start


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_several_workers_answer_on_one_port(place):
    place.publish()
    place.route(stable=place.add(graph(1)))
    port = free_port()
    code = (
        "import sys; from tidemill.serving.supervisor import Supervisor; from tidemill.stores.home import Home;"
        f"settings = {{'host': '127.0.0.1', 'port': 0, 'grpc_port': {port}}};"
        "Supervisor(Home(sys.argv[1]), settings, 2, ready=lambda a: print(a, flush=True)).run()"
    )
    started = subprocess.Popen([sys.executable, "-c", code, str(place.home.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout.readline().startswith("http://")
        for _ in range(8):
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as found:
                found.infer("pets", given(X))
    finally:
        started.terminate()
        assert started.wait(20) == 0
        started.stdout.close()
    assert len(place.rows()[0]) == 24


def test_what_keeps_grpc_from_being_served_is_told_before_anything_starts(place, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TidemillError, match=f"cannot listen on 127.0.0.1:{port}"):
            run(place.home, port=0, grpc_port=port)
    with pytest.raises(TidemillError, match="several workers need the same port"):
        run(place.home, port=0, grpc_port=0, counts=([], 0))
    monkeypatch.setattr("tidemill.serving.serve.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"tidemill\[grpc\]"):
        run(place.home, port=0, grpc_port=0)


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("name", ["pets", "nobody's"])
def test_a_call_of_a_trace_gets_a_span_of_its_own(standing, name):
    """Answered or refused: the reply's first metadata name it, and a call without a trace has none."""
    spans = set()
    with grpc.insecure_channel(f"127.0.0.1:{standing[1].service.grpc_port}") as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelMetadata",
            request_serializer=service_pb2.ModelMetadataRequest.SerializeToString,
            response_deserializer=service_pb2.ModelMetadataResponse.FromString,
        )
        for parent in (f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}", None):
            asked = call.future(
                service_pb2.ModelMetadataRequest(name=name), metadata=[("traceparent", parent)] if parent else None
            )
            assert (asked.exception() is None) == (name == "pets")
            told = {**dict(asked.initial_metadata()), **dict(asked.trailing_metadata())}
            spans.add(told.get("traceresponse"))
    spans.remove(None)
    assert len(spans) == 2 and all(span.startswith(f"00-{TRACE}-") and PARENT not in span for span in spans)
