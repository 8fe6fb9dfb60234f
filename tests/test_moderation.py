"""The way from a complaint to a better model, on the running product: over HTTP and the command line, no restarts.

docs/improving.md tells the same story.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

import waiting
from tidemill.loop.controls import Controls

EXAMPLE = Path(__file__).parents[1] / "examples" / "moderation"
PATIENCE_S = 120.0  # a quiet machine needs a fraction
SECRET = "sixteen letters or more"


def loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


comments = loaded("moderation_comments", EXAMPLE / "comments.py")
Receiver = loaded("moderation_receiver", Path(__file__).parent / "loop" / "receiver.py").Receiver


until = partial(waiting.until, seconds=PATIENCE_S)


@dataclass
class Users(threading.Thread):
    """They ask and tell until stopped, from some time on with emoji."""

    gateway: str
    emoji: bool = False
    pause_s: float = 0.005
    asked: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        rng = random.Random(7)
        while not self.stopped.wait(self.pause_s):
            try:
                comments.ask(self.gateway, comments.comment(rng, emoji=self.emoji))
                self.asked += 1
            except (OSError, urllib.error.URLError) as error:
                self.problems.append(repr(error))


@dataclass
class Product:
    """The example in a folder of its own, up and running."""

    folder: Path
    receiver: Any
    port: int = 0
    up: subprocess.Popen[bytes] | None = None

    def run(self, *command: str) -> str:
        """Type a command, and return what it printed."""
        called = [sys.executable, "-m", "tidemill.cli", *command]
        done = subprocess.run(called, cwd=self.folder, capture_output=True, text=True, check=False, env=self.env)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def env(self) -> dict[str, str]:
        mine = {"COLUMNS": "150", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
        return {**os.environ, **mine, "TIDEMILL_WEBHOOK": self.receiver.url, "TIDEMILL_WEBHOOK_SECRET": SECRET,
                "TIDEMILL_WEBHOOK_PRIVATE": "1"}  # fmt: skip

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        called = [sys.executable, "-m", "tidemill.cli", "up", "--port", str(self.port)]
        with (self.folder / "up.log").open("ab") as log:
            self.up = subprocess.Popen(called, cwd=self.folder, stdout=log, stderr=log, env=self.env)
        until(self._is_ready)

    def _is_ready(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        try:
            comments.ask(self.gateway, comments.Comment("hello", 400, "DE", "first", "ok"))
        except (OSError, urllib.error.URLError):
            return False
        return True

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def children(self) -> list[int]:
        """The gateway and the loop, by pid."""
        assert self.up is not None
        named = [p for p in psutil.Process(self.up.pid).children() if {"serve", "loop"} & set(p.cmdline())]
        return sorted(p.pid for p in named)

    def end(self) -> None:
        if self.up is not None:
            self.up.terminate()
            self.up.wait(30)

    def edit(self, *pairs: tuple[str, str]) -> None:
        """Change the project file under the running loop."""
        file = self.folder / "project.py"
        text = file.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new, 1)
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").rename(file)


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    with Receiver() as receiver:
        made = Product(shutil.copytree(EXAMPLE, tmp_path / "moderation"), receiver)
        yield made
        made.end()


def test_from_a_complaint_to_the_better_model_without_a_restart(product: Product) -> None:
    rng = random.Random(1)
    rows = [comments.comment(rng, emoji=False) for _ in range(1_000)]
    (product.folder / "comments.jsonl").write_text(
        "".join(json.dumps({**row.inputs, "label": row.label}) + "\n" for row in rows)
    )
    product.run("train", "comments.jsonl")
    product.start()
    began = product.children()
    users = Users(product.gateway)
    users.start()

    until(lambda: users.asked > 350)  # they are served well
    users.emoji = True
    hear_the_alert(product)
    users.pause_s = 0.03
    narrow_it_down(product)
    declare_what_was_found(product)
    ids = label_past_cases(product)
    make_a_suite(product, ids)
    retrain(product)

    users.pause_s = 0.005
    until(lambda: [one for one in product.receiver.got if one["cohort"] == "emoji"][-1]["event"] == "closed")
    users.stopped.set()
    users.join()
    assert users.problems == []
    assert product.children() == began, "nothing was restarted"


def hear_the_alert(product: Product) -> None:
    """The users' feedback opens an alert, which reaches the webhook and the loop's own log."""
    letter = until(lambda: product.receiver.got)[0]
    assert (letter["event"], letter["cohort"]) == ("opened", "all")
    assert letter["reason"].startswith("accuracy: loss")
    assert "worst: accuracy 0." in letter["reason"] and "where new_users" in letter["reason"]
    assert f"ALERT {letter['id']} since" in (product.folder / "up.log").read_text()
    assert "Falls('accuracy'" in product.run("alert", "list")


def narrow_it_down(product: Product) -> None:
    """SQL and the close-up of a cohort lead to new users, and their comments to emoji."""
    query = (
        "SELECT account_age_days < 30 AS is_new, count(*) AS n, round(avg((decision = label)::INT), 2) AS accuracy"
        " FROM outcomes WHERE label IS NOT NULL GROUP BY ALL ORDER BY ALL"
    )
    old, new = json.loads(product.run("sql", query, "--format", "json"))
    assert new["accuracy"] < old["accuracy"] - 0.05
    found = json.loads(product.run("status", "--worst", "--period", "1h", "--json"))
    assert any("account_age_days" in one["condition"] and one["p"] <= 0.05 for one in found[:3])
    close_up = json.loads(product.run("status", "--cohort", "new_users", "--period", "1h", "--json"))
    assert close_up["quality"][0]["high"] < close_up["elsewhere"][0]["low"]
    wrong = [one["shown"]["text"] for one in close_up["worst"]]
    assert len(wrong) == 10
    assert sum(any(sign in text for sign in comments.MEAN) for text in wrong) >= 5
    raw = product.run("sql", "SELECT text, decision, label FROM outcomes WHERE account_age_days < 30"
                             " AND decision <> label ORDER BY received_at DESC LIMIT 8")  # fmt: skip
    assert any(sign in raw for sign in comments.MEAN)


FUNCTION = """
def has_emoji(inputs):
    return any(ord(sign) > 0x2600 for sign in inputs["text"])


"""
DECLARED = (
    ("project = tm.Project(", f"{FUNCTION}project = tm.Project("),
    ("cohorts={", 'projections={"has_emoji": has_emoji},\n    cohorts={"emoji": "has_emoji", '),
    ("alerts=[", 'alerts=[tm.alert.Below("accuracy", 0.85, cohort="emoji", quiet_for="5s"), '),
    ("    alerts=[", '    suites=[tm.suites.Cases("emoji", "suites/emoji.jsonl", at_least=0.8)],\n    alerts=['),
    ("offline=[", "offline=[tm.offline.Suites(), "),
)


def declare_what_was_found(product: Product) -> None:
    """A broken save changes nothing; the next one brings a projection, a cohort, an alert and a suite."""
    product.edit(("project = tm.Project(", "project = tm.Project(("))
    until(lambda: "the loop goes on with the old one" in (product.folder / "up.log").read_text())
    product.edit(("project = tm.Project((", "project = tm.Project("), *DECLARED)
    letters = product.receiver.got
    letter = until(lambda: [one for one in letters if one["cohort"] == "emoji"])[0]
    assert "accuracy in cohort emoji is" in letter["reason"]
    assert letter["numbers"]["outcomes"] >= 30, "it was computed over the old log"


def label_past_cases(product: Product) -> list[str]:
    """Past comments with emoji go into the queue, and people answer."""
    said = product.run("curate", "emoji", "--last", "1h", "--limit", "300")
    assert re.match(r"\d+ of \d+ requests wait for a label", said)
    waiting = [json.loads(line) for line in product.run("label", "--limit", "300", "--by", "ann").splitlines()]
    waiting = [one for one in waiting if one["reason"] == "asked: emoji"]
    assert len(waiting) >= 100
    for one in waiting:
        one["label"] = comments.truth(one["inputs"]["text"])
    (product.folder / "answers.jsonl").write_text("".join(json.dumps(one) + "\n" for one in waiting))
    product.run("label", "--file", "answers.jsonl", "--by", "ann")
    texts = {one["inputs"]["text"]: one["id"] for one in waiting if one["label"] == "toxic"}
    return list(texts.values())[:6]


def make_a_suite(product: Product, ids: list[str]) -> None:
    """What people said of past cases becomes a suite, which the live version fails."""
    labelled = f"SELECT count(*) AS n FROM feedback WHERE trust = 'people' AND request_id IN ({str(ids)[1:-1]})"
    until(lambda: json.loads(product.run("sql", labelled, "--format", "json"))[0]["n"] == len(ids))
    asked = [part for id_ in ids for part in ("--from-prediction", id_)]
    assert product.run("suite", "add", "emoji", *asked, "--by", "ann").count("wanted 'toxic'") == len(ids)


def retrain(product: Product) -> None:
    """The candidate is tested on the new cohort and suite, meets traffic, and is promoted."""
    product.run("retrain", "--reason", "emoji", "--by", "ann")
    controls = Controls.of_home(product.folder / ".tidemill", "moderation")
    cycle = until(lambda: next((c for c in controls.journal.cycles("moderation") if c.outcome), None))
    route, trouble = controls.catalog.route("moderation"), controls.journal.state("moderation", "trouble")
    controls.close()
    assert (cycle.outcome, route and route.stable, trouble or {}) == ("promoted", 2, {}), cycle.reason
    report = json.loads(product.run("report", "2", "--json"))
    cells = {(c["metric"], c["cohort"], c["suite"]): c for c in report["cells"]}
    emoji = cells["accuracy", "emoji", ""]
    assert emoji["gain"] > 0.1
    (suite,) = report["suites"]
    assert (suite["name"], suite["num_cases"], suite["num_failed_live"]) == ("emoji", 6, 6)
    assert suite["num_failed"] <= 1
