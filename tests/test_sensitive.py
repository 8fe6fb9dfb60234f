"""What is declared Sensitive is in no file of the home, whatever is done with it: not plain, not packed, not in SQL."""

from __future__ import annotations

import base64
import gc
import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from sqlalchemy import inspect, text

from tidemill.app import App
from tidemill.loop.first import train_first
from tidemill.schema import keyed_hash
from tidemill.serving.serve import Service, config
from tidemill.stores.tabular import examples_from

SECRETS = [f"Wilhelmina-{number}-Vondelpark" for number in range(40)]
PROJECT = """
import tidemill as tm
from sklearn.linear_model import LogisticRegression

project = tm.Project(
    name="clinic",
    inputs={"patient": tm.Sensitive(), "ward": tm.Sensitive(tag=True), "age": tm.Number()},
    output=tm.Classes(["well", "ill"]),
    trainer=tm.trainers.Sklearn(LogisticRegression(), transforms=[tm.transforms.Standardise("age")]),
    cohorts={"old": "age > 50"},
    strategy=tm.Strategy(
        curate=tm.curate.Random(1.0), curate_every="1s",
        label=tm.label.Queue(daily_budget=8_640_000) | tm.label.Feedback(trust="crowd", horizon="0s"),
    ),
)
"""


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[App]:
    """A deployment whose first version was trained on patients' names, too."""
    (tmp_path / "clinic_project.py").write_text(PROJECT)
    app = App.open(str(tmp_path / "clinic_project.py"), tmp_path / "home")
    rng = np.random.default_rng(1)
    ages = rng.uniform(0, 100, 40)
    table = pl.DataFrame({"patient": SECRETS, "ward": [f"w-{s}" for s in SECRETS], "age": ages,
                          "label": np.where(ages > 50, "ill", "well")})  # fmt: skip
    key = app.world.catalog.secret(app.name)
    train_first(app.world, examples_from(table, app.project.schema, now=app.clock.now(), key=key), clock=app.clock,
                progress=lambda _: None)  # fmt: skip
    yield app
    app.close()


@pytest.fixture
def client(clinic: App) -> Iterator[httpx.Client]:
    service, started = Service(clinic.world.home, poll_s=0.05, segment_age_s=0.1), threading.Event()
    service.on_start = started.set
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config(service, grace_s=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        assert started.wait(30)
        sock.listen()
        with httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=30) as made:
            yield made
        server.should_exit = True
        thread.join(30)
        gc.unfreeze()  # what a gateway freezes for good would be said to leak by libraries that it does not load


def texts(folder: Path, app: App) -> Iterator[tuple[str, str]]:
    """Yield all that a folder holds, as it lies on the disk and as a reader unpacks it."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        yield str(path), raw.decode("latin-1")
        if path.suffix == ".parquet":
            yield f"{path} unpacked", json.dumps(pq.read_table(path).to_pylist(), default=str)
        elif raw[:6] == b"ARROW1":
            yield f"{path} unpacked", json.dumps(pa.ipc.open_file(path).read_all().to_pylist(), default=str)
    with app.world.db.read() as conn:
        for name in inspect(conn).get_table_names():
            for row in conn.execute(text(f'SELECT * FROM "{name}"')):
                yield f"table {name}", repr(tuple(row))


def assert_nowhere(secrets: list[str], app: App) -> int:
    """Look for each secret in all forms that it could have been written in; return how much was looked through."""
    forms = {f: s for s in secrets for f in (s, base64.b64encode(s.encode()).decode()[:-4], s.encode().hex(), s[::-1])}
    looked = 0
    for where, held in texts(app.world.home.folder, app):
        looked += len(held)
        for form, secret in forms.items():
            assert form not in held, f"{secret!r} is in {where}"
    return looked


def test_a_sensitive_value_is_in_no_file_of_the_home_after_all_that_can_be_done_with_it(
    clinic: App, client: httpx.Client
) -> None:
    engine = clinic.engine()
    engine.turn()  # the label budget counts from the first
    ids = []
    for number, secret in enumerate(SECRETS):
        inputs = {"patient": secret, "ward": f"w-{secret}", "age": float(number)}
        reply = client.post("/v1/predict", json={"inputs": inputs, "unit": f"u{number}"})
        assert reply.status_code == 200
        ids.append(reply.json()["request_id"])
    for bad in (
        {"patient": SECRETS[0], "ward": SECRETS[0]},
        {"patient": SECRETS[0] * 100, "ward": "w", "age": 1.0},
        {"patient": SECRETS[0], "ward": "w", "age": "young", "more": SECRETS[1]},
        {"patient": [SECRETS[0]], "ward": "w", "age": 1.0},
        SECRETS[0],
    ):
        assert client.post("/v1/predict", json={"inputs": bad}).status_code == 422
    for request_id in ids[:20]:
        assert client.post("/v1/feedback", json={"request_id": request_id, "label": "ill"}).status_code == 202
    assert_nowhere(SECRETS, clinic)  # in the segments
    until = clinic.clock.now() + timedelta(seconds=20)
    while clinic.status().num_examples < 40 + 30 and clinic.clock.now() < until:
        engine.turn()
    clinic.answer([(example.id, "ill") for example in clinic.queue(limit=10)], by="ann")
    w, now = clinic.world, clinic.clock.now()
    index = w.reservoir.index("clinic")
    labelled = index.filter(pl.col("label").is_not_null())
    assert len(labelled) > 40
    ids = labelled.filter(pl.col("split") == "train")["id"].to_list()
    with w.db.begin() as conn:
        w.datasets.form(conn, "clinic", ids=ids, weights=[1.0] * len(ids), formed_by="test", parent=None,
                        schema=clinic.project.schema, now=now)  # fmt: skip
    engine.drain()
    assert assert_nowhere(SECRETS, clinic) > 100_000
    log = w.log.predictions("clinic", after=None, until=clinic.clock.now())
    key = w.catalog.secret("clinic")
    assert set(log["patient"]) == {keyed_hash(secret, key) for secret in SECRETS}, "its keyed hash is, to tell it by"
    assert clinic.sql("SELECT count(DISTINCT patient), count(DISTINCT ward) FROM predictions").rows == [(40, 40)]
    found = w.reservoir.inputs("clinic", index["id"].to_list())
    assert all(len(row["patient"]) == len(row["ward"]) == 32 for row in found)
