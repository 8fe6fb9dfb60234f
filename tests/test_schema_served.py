"""A user renames an input of a served product: gateway, loop and commands as processes, and callers that never stop."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import waiting
from tidemill.app import App
from tidemill.clock import SystemClock
from tidemill.loop.first import train_first, train_next
from tidemill.records import Example
from tidemill.stores.tabular import examples_from

PROJECT = """
from sklearn.linear_model import LogisticRegression
import tidemill as tm

project = tm.Project(
    name="waves",
    inputs={"x": tm.Number(), "y": tm.Number()},
    output=tm.Classes(["low", "high"]),
    trainer=tm.trainers.Sklearn(LogisticRegression()),
    strategy=tm.Strategy(trigger=tm.trigger.Manual()),
)
"""
RENAMED = PROJECT.replace('"y"', '"why"')
OLD, NEW = {"x": 1.0, "y": 1.0}, {"x": 1.0, "why": 1.0}
PATIENCE_S = 120.0


until = partial(waiting.until, seconds=PATIENCE_S)


class Product:
    """A folder with a project file and a home that serves version 1, and its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.save(PROJECT)
        with self.opened() as app:
            train_first(app.world, examples(app), clock=SystemClock(), progress=lambda _: None, smoke=False)

    @contextmanager
    def opened(self) -> Iterator[App]:
        """Open the project by its file as it is now."""
        app = App.open(str(self.folder / "project.py"), self.folder / "home")
        yield app
        app.close()

    def save(self, text: str) -> None:
        new = self.folder / "project.new"
        new.write_text(text)
        new.rename(self.folder / "project.py")

    @contextmanager
    def process(self, *command: str) -> Iterator[None]:
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "tidemill.cli", *command, "--home", "home"],
                cwd=self.folder, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        try:
            yield
        finally:
            started.terminate()
            started.wait(PATIENCE_S)

    def told(self, command: str) -> str:
        """Return what a process said until now."""
        return (self.folder / f"{command}.log").read_text()

    def ask(self, inputs: dict[str, float]) -> int:
        """Return the status of an answer, 0 while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", "/v1/predict", json.dumps({"inputs": inputs}))
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


class Callers:
    """Somebody who goes on asking with the inputs of before; `said` holds every status."""

    def __init__(self, product: Product) -> None:
        self._product, self.said = product, list[int]()
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._go)

    def _go(self) -> None:
        while not self._stop.wait(0.01):
            self.said.append(self._product.ask(OLD))

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def examples(app: App) -> Sequence[Example]:
    """Return labelled rows with the inputs that the file declares now."""
    first, second = app.project.inputs
    x, y = np.random.default_rng(0).normal(size=(2, 300))
    labels = ["high" if total > 0 else "low" for total in x + y]
    rows = pl.DataFrame({first: x, second: y, "label": labels})
    return examples_from(rows, app.project.schema, now=SystemClock().now())


@pytest.fixture
def product(tmp_path: Path) -> Product:
    return Product(tmp_path)


def test_no_request_fails_until_a_version_of_the_new_inputs_is_promoted(product: Product) -> None:
    gateway, loop = ("serve", "--port", str(product.port)), ("loop", "--poll", "100ms")
    with product.process(*gateway), product.process(*loop):
        until(lambda: product.ask(OLD) == 200 and "turns in" in product.told("loop"))
        with Callers(product) as callers, product.opened() as app:
            product.save(RENAMED)
            until(lambda: "input 'why' is new, input 'y' is gone" in product.told("loop"))
            assert product.ask(NEW) == 422
            with product.opened() as later:
                version, _ = train_next(later.world, examples(later), clock=SystemClock(), progress=lambda _: None)
            assert product.ask(NEW) == 422
            before = len(callers.said)
            app.promote_now(version, by="ann", reason="it reads the new name")
            until(lambda: product.ask(NEW) == 200 and callers.said[-1] == 422)
            changed = callers.said.index(422)
            until(lambda: app.waiting is None)
            app.rollback(by="ann", reason="callers send the old name still")
            until(lambda: callers.said[-1] == 200)
    assert changed >= before, "nobody was refused before the promotion"
    assert set(callers.said) == {200, 422}, "nor was anybody left without an answer"
    assert num_logged(product) >= callers.said.count(200)


def num_logged(product: Product) -> int:
    """Return how many predictions the log has once all of them are moved there."""
    with product.opened() as app:
        app.engine().drain()
        return len(app.world.log.predictions("waves", after=None, until=SystemClock().now()))


def test_up_starts_with_an_edited_file_and_serves_what_is_in_force(product: Product) -> None:
    product.save(RENAMED)
    with product.process("up", "--port", str(product.port), "--no-page"):
        until(lambda: product.ask(OLD) == 200 and "turns in" in product.told("up"))
        assert [product.ask(OLD) for _ in range(20)] == [200] * 20
        assert product.ask(NEW) == 422
        assert "Next: `tidemill train DATA`" in product.told("up")
